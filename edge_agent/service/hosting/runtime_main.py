"""The process of a runtime that hosts a model: `edge-agent serve`, which ends with the service."""

from __future__ import annotations

import os
import signal
import sys
import threading

from edge_agent import cli
from edge_agent.runtime.processes.channel import Channel
from edge_agent.runtime.processes.parent import connect


def main() -> int:
    """Serve until the service hangs up; the last two arguments are for `parent.connect`."""
    service = connect(sys.argv)
    threading.Thread(target=_stop_after, args=(service,), name="service", daemon=True).start()
    return cli.main(sys.argv[1:-2])


def _stop_after(service: Channel) -> None:
    while service.receive() is not None:
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
