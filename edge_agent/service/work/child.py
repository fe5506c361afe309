"""`python -m edge_agent.service.work.child MODULE:CLASS FOLDER ...`: does one piece of work.

The two last arguments are for `parent.connect`: the process dies with the service, however it ends.
What takes long to import comes after that.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from edge_agent import logs
from edge_agent.errors import EdgeAgentError
from edge_agent.runtime.processes.channel import Channel
from edge_agent.runtime.processes.parent import connect
from edge_agent.service.faults import ServiceFault
from edge_agent.service.server_paths import MOST_CHARACTERS, without_paths

if TYPE_CHECKING:
    from edge_agent.service.work.folder import TaskOutcome

PROGRESS = "progress"  # of the messages to the service
NICE = 5  # calls and hosted models go first, about three to one

_channel: Optional[Channel] = None


def progress(message: str) -> None:
    """Say how far the work is; without effect outside such a process."""
    if _channel is not None:
        _channel.send({PROGRESS: _presentable(message)[:MOST_CHARACTERS]})


def main() -> None:
    """Do what the folder's task says, and leave the outcome in it."""
    global _channel
    _channel = connect(sys.argv)
    logs.configure("INFO")
    os.nice(NICE)
    reference, folder = sys.argv[1], Path(sys.argv[2])
    _outcome(reference, folder).write(folder)


def _outcome(reference: str, folder: Path) -> TaskOutcome:
    from edge_agent.service.work.folder import Task, TaskOutcome
    from edge_agent.service.work.kinds import load

    task = Task.read(folder)
    try:
        kind = load(reference, task.root, task.settings)
        return TaskOutcome(result=kind.run(task.parameters, folder))
    except (EdgeAgentError, ServiceFault) as error:
        folders = {folder: "the work's folder", task.root: "the service's folder"}
        return TaskOutcome(failure=without_paths(_presentable(str(error)), folders))
    except OSError as error:
        reason = error.strerror or str(error)
        return TaskOutcome(
            failure=f"The work can't go on: {reason}. Correct that, then do it again."
        )
    except MemoryError:
        return TaskOutcome(failure="There isn't enough memory. Free some, then do it again.")


def _presentable(message: str) -> str:
    """Return a message without halves of characters, which JSON can have and records can't."""
    return message.encode("utf-8", "replace").decode()


if __name__ == "__main__":
    # Kinds import `progress` from the module by its name, which is another than this one.
    from edge_agent.service.work import child

    child.main()
