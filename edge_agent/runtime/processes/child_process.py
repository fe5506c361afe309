"""A child process from its start to its end: messages, output, time limit, and how it ended."""

from __future__ import annotations

import json
import logging
import math
import os
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Iterator, Mapping, Optional, Sequence, Tuple

from edge_agent.config import without_secrets
from edge_agent.runtime.processes.channel import Channel, Message, Received
from edge_agent.runtime.system import stalls

START = "/"  # where nobody leaves modules: Python looks in the working folder for them first
KILLED_WITHIN_S = 10.0  # a process can't be ended while the driver holds it
PAUSE_S = 0.01
PIPE_BYTES = 64 * 1024  # what a pipe holds
LINE_BYTES = 8 * 1024  # a longer line of its output is cut
MOST_LINES = 100  # of other than our own log, within a time limit; further ones are for DEBUG
LAST_LINE_CHARACTERS = 300  # in the sentence on how it ended

log = logging.getLogger(__name__)


def python_module(module: str, *arguments: str) -> Tuple[str, ...]:
    """Return the command that runs a module with this Python."""
    return (sys.executable, "-m", module, *arguments)


@dataclass(frozen=True)
class Exit:
    """How a process ended; `str` completes the sentence "The process ...".

    code: as `subprocess` has it; None: it couldn't be ended. why: we ended it, "because ...".
    last_line: of its output.
    """

    process: int
    code: Optional[int]
    why: str = ""
    last_line: str = ""

    def __str__(self) -> str:
        if self.code is None:
            return f"can't be ended (process {self.process}): the driver holds it"
        if self.why:
            return f"was ended because {self.why.rstrip('.')}"
        last = f"; its last line: {self.last_line}" if self.last_line else ""
        if self.code >= 0:
            return f"ended with exit status {self.code}{last}"
        return f"was ended by {_signal(-self.code)}{last}"


class ChildProcess:
    """A process with a `Channel` to it, and whose output becomes lines of the log.

    It is started in a session of its own (Ctrl-C is for the agent, which ends it in order), with
    two more arguments, see `parent.connect`. It ends with the *thread* that made it: only one that
    lives as long may. `messages` and `end` are for that thread alone; `send`, `hang_up` and `kill`
    are for all, and do nothing after `end`.

    As a context manager it is killed unless it has ended.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        name: str,
        within_s: float,
        late: str,
        ends_within_s: float,
        output_level: int = logging.WARNING,
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        """Start it. Raises OSError.

        name: of its lines in the log. within_s: it is killed then because of `late`, unless
        `lift_limit` was called. ends_within_s: the time to end by itself. output_level: of lines
        that aren't of our own log.
        """
        self._channel, theirs = Channel.pair()
        self._name, self._output_level, self._lines = name, output_level, 0
        self._why = self._last_line = ""
        self._line = b""
        self._late, self._ends_within_s = late, ends_within_s
        self._began_s, self._within_s = time.monotonic(), within_s
        self._exit: Optional[Exit] = None
        self._is_killed = False
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [*command, str(theirs.fileno()), str(os.getpid())],
                    stdin=stdin,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                    env=without_secrets(os.environ),
                    cwd=START,
                )
        except BaseException:
            self._channel.close()
            raise
        assert self._process.stdout is not None
        self._output = self._process.stdout
        os.set_blocking(self._output.fileno(), False)

    def __enter__(self) -> ChildProcess:
        return self

    def __exit__(self, *failure: object) -> None:
        if self._exit is None:
            self.kill("nobody waits for it any more")
        self.end()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def send(self, content: Mapping[str, object], descriptors: Sequence[int] = ()) -> None:
        """Send a message without waiting; a process that takes none is killed."""
        try:
            self._channel.send(content, descriptors, waits=False)
        except ConnectionError:
            pass  # it has gone by itself, which `messages` sees
        except OSError as error:
            self.kill(f"it took no message ({error.strerror})")

    def lift_limit(self) -> None:
        """Take the time limit away."""
        self._within_s = math.inf

    def messages(self, pulse_s: Optional[float] = None) -> Iterator[Message]:
        """Yield what it sends, until it ends, is killed or someone hangs up.

        An empty message comes when there was none for `pulse_s`, whatever its output.
        """
        heard = time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(self._channel, selectors.EVENT_READ)
            selector.register(self._output, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in selector.select(self._wait_s(pulse_s, heard))]
                if self._is_late():
                    self.lift_limit()
                    self.kill(self._late)
                    continue
                if self._output in ready and not self._read_output():
                    selector.unregister(self._output)
                if self._channel in ready:
                    received = self._receive()
                    if received is None:
                        return
                    yield received.content
                elif pulse_s is not None and time.monotonic() >= heard + pulse_s:
                    yield {}
                else:
                    continue
                heard = time.monotonic()

    def hang_up(self) -> None:
        """Ask it to end, and let `messages` end."""
        self._channel.hang_up()

    def kill(self, why: str) -> None:
        """End it at once; `why` is what comes after "because".

        Nothing more is read from it, and nobody waits for it: it may be in the driver's hands,
        where no signal reaches it.
        """
        self.blame(why)
        self._is_killed = True
        self._process.kill()
        self._channel.hang_up()

    def blame(self, why: str) -> None:
        """Note why it is about to end; what was noted first counts."""
        self._why = self._why or why

    def end(self) -> Exit:
        """Wait for its end, by force if need be; free everything. Return how it ended.

        May be called again. A process that can't be ended in time is left behind.
        """
        if self._exit is not None:
            return self._exit
        self._channel.hang_up()
        if not self._is_gone(0.0 if self._is_killed else self._ends_within_s):
            self.kill("it didn't end by itself")
        is_gone = self._is_gone(KILLED_WITHIN_S)
        self._channel.close()
        self._output.close()
        if self._line:
            self._log(self._line)
        code = self._process.returncode if is_gone else None
        self._exit = Exit(self.pid, code, self._why, self._last_line)
        if not is_gone:
            log.error(
                "%s %s. It is left behind; restart the machine if it stays.", self._name, self._exit
            )
        return self._exit

    def _receive(self) -> Optional[Received]:
        try:
            return self._channel.receive()
        except ValueError:
            self.kill("it sent a message that can't be read")
            return None

    def _wait_s(self, pulse_s: Optional[float], heard: float) -> Optional[float]:
        left_s = self._within_s - stalls.ran_s(self._began_s)
        if pulse_s is not None:
            left_s = min(left_s, heard + pulse_s - time.monotonic())
        return None if math.isinf(left_s) else max(0.0, left_s)

    def _is_late(self) -> bool:
        return stalls.ran_s(self._began_s) >= self._within_s

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

    def _read_output(self) -> bool:
        """Take what it has written so far; False when there will be no more."""
        try:
            content = os.read(self._output.fileno(), PIPE_BYTES)
        except BlockingIOError:
            return True
        *lines, self._line = (self._line + content).split(b"\n")
        self._line = self._line[:LINE_BYTES]
        for line in lines:
            self._log(line)
        return bool(content)

    def _log(self, line: bytes) -> None:
        level, message = self._read_line(line[:LINE_BYTES].decode(errors="replace").strip())
        if message:
            self._last_line = message.splitlines()[-1][:LAST_LINE_CHARACTERS]
            log.log(level, "%s (process %d): %s", self._name, self.pid, message)

    def _read_line(self, text: str) -> Tuple[int, str]:
        """Return level and message of a line of our log, or of what a library has printed."""
        try:
            entry = json.loads(text)
            level, message = logging.getLevelName(entry["level"]), str(entry["message"])
            if isinstance(level, int):
                return level, message + ("\n" + entry["error"] if "error" in entry else "")
        except (ValueError, TypeError, KeyError, RecursionError):
            pass
        self._lines += bool(text)
        is_shown = math.isinf(self._within_s) or self._lines <= MOST_LINES
        return self._output_level if is_shown else logging.DEBUG, text


def _signal(number: int) -> str:
    try:
        return f"{signal.Signals(number).name} ({signal.strsignal(number)})"
    except ValueError:
        return f"signal {number}"
