"""One life of a worker process: started, listened to, ended, and why it ended, in a sentence."""

from __future__ import annotations

import json
import logging
import os
import selectors
import signal
import subprocess
import time
from typing import Any, Dict, Iterator, Mapping, Optional, Sequence, Tuple

from edge_agent.config import without_secrets
from edge_agent.runtime.backends.channel import Channel

ENDS_WITHIN_S = 5.0  # from hanging up until it is killed
KILLED_WITHIN_S = 10.0  # a process can't be ended while the driver holds it
PAUSE_S = 0.01
PIPE_BYTES = 64 * 1024  # what a pipe holds
LINE_BYTES = 8 * 1024  # a longer line of its output is cut

log = logging.getLogger(__name__)


class WorkerProcess:
    """A process that talks by a `Channel`, and whose output becomes lines of the log.

    It is started with the number of its end's descriptor and ours as the process's id, and ends
    with the *thread* that made it: only the one that lives as long may. `messages` and `end` are
    for that thread alone, and `kill` for others only before `end`: afterwards its id may be that of
    a stranger.
    """

    def __init__(self, command: Sequence[str], starts_within_s: float) -> None:
        """Start it. Raises OSError. `started` must be called within that time."""
        self._channel, theirs = Channel.pair()
        self._why = ""
        self._last_line = ""
        self._line = b""
        self._starts_within_s = starts_within_s
        self._deadline: Optional[float] = time.monotonic() + starts_within_s
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [*command, str(theirs.fileno()), str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,  # Ctrl-C is for the agent, which ends it in order
                    env=without_secrets(os.environ),
                    cwd="/",  # where nobody leaves modules: Python looks there for them first
                )
        except BaseException:
            self._channel.close()
            raise
        assert self._process.stdout is not None
        self._output = self._process.stdout
        os.set_blocking(self._output.fileno(), False)

    def send(self, content: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Send a message without waiting; a worker that takes none is killed."""
        try:
            self._channel.send(content, descriptors, waits=False)
        except ConnectionError:
            pass  # it has gone by itself, which `messages` sees
        except OSError as error:
            self.kill(f"it took no message ({error.strerror})")

    def started(self) -> None:
        """Wait for messages without a limit from now on."""
        self._deadline = None

    def messages(self) -> Iterator[Dict[str, Any]]:
        """Yield what it sends, until it ends, is killed or someone hangs up."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._channel, selectors.EVENT_READ)
            selector.register(self._output, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in selector.select(self._rest_s())]
                if self._rest_s() == 0.0:
                    self._deadline = None
                    self.kill(f"it wasn't ready within {self._starts_within_s:g} s")
                if self._output in ready and not self._read_output():
                    selector.unregister(self._output)
                if self._channel in ready:
                    received = self._channel.receive()
                    if received is None:
                        return
                    yield received.content

    def hang_up(self) -> None:
        """Ask it to end, and let `messages` end."""
        self._channel.hang_up()

    def kill(self, why: str) -> None:
        """End it at once; `why` is what follows "because".

        Nothing is heard of it any more, and nobody waits for it: it may be in the driver's hands,
        where no signal reaches it.
        """
        self.blame(why)
        self._process.kill()
        self._channel.hang_up()

    def blame(self, why: str) -> None:
        """Note why it is about to end; what was noted first counts."""
        self._why = self._why or why.rstrip(".")

    def end(self) -> str:
        """Wait for its end, by force if need be; free everything. Return how it ended.

        Who can't be ended in time is left behind.
        """
        self._channel.hang_up()
        if not self._is_gone(ENDS_WITHIN_S):
            self.kill("it didn't end by itself")
        is_gone = self._is_gone(KILLED_WITHIN_S)
        self._channel.close()
        self._output.close()
        if self._line:
            self._tell(self._line)
        if not is_gone:
            held = f"can't be ended (process {self._process.pid}): the driver holds it"
            log.error("The worker %s. It is left behind; restart the machine if it stays.", held)
            return held
        return self._ending(self._process.returncode)

    def _rest_s(self) -> Optional[float]:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def _is_gone(self, within_s: float) -> bool:
        """Wait for the end, and read meanwhile: who writes to a full pipe never ends."""
        deadline = time.monotonic() + within_s
        while self._process.poll() is None:
            self._read_output()
            if time.monotonic() > deadline:
                return False
            time.sleep(PAUSE_S)
        self._read_output()
        return True

    def _ending(self, code: int) -> str:
        if self._why:
            return f"was ended because {self._why}"
        last = f"; its last line: {self._last_line}" if self._last_line else ""
        if code >= 0:
            return f"ended with exit status {code}{last}"
        meaning = signal.strsignal(-code) or "unknown signal"
        return f"was ended by signal {-code}, {meaning}{last}"

    def _read_output(self) -> bool:
        """Take what it has written so far; False when there will be no more."""
        try:
            content = os.read(self._output.fileno(), PIPE_BYTES)
        except BlockingIOError:
            return True
        *lines, self._line = (self._line + content).split(b"\n")
        self._line = self._line[:LINE_BYTES]
        for line in lines:
            self._tell(line)
        return bool(content)

    def _tell(self, line: bytes) -> None:
        level, message = _read_line(line[:LINE_BYTES].decode(errors="replace").strip())
        if message:
            self._last_line = message.splitlines()[-1]
            log.log(level, "Worker %d: %s", self._process.pid, message)


def _read_line(text: str) -> Tuple[int, str]:
    """Return level and message of a line of the worker's log, or of what a library has printed."""
    try:
        told = json.loads(text)
        level, message = logging.getLevelName(told["level"]), str(told["message"])
    except (ValueError, TypeError, KeyError):
        return logging.WARNING, text
    if not isinstance(level, int):
        return logging.WARNING, text
    return level, message + ("\n" + told["error"] if "error" in told else "")
