"""Log lines on standard error: for people on a terminal, one JSON object a line elsewhere.

Extra facts go in as `extra={"facts": {...}}`; they become keys of the object.

Part of what is logged comes from strangers: clients, brokers, packages. Hence no character of it
breaks a line or controls a terminal, the length of lines is limited, and every place in the code
(ours or a library's) may write a limited number of lines a minute; the lines left out are counted.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
import traceback
from datetime import datetime, timezone
from typing import Callable, Dict, List, NamedTuple, Optional, TextIO, Tuple

OURS = "edge_agent"
SUMMARY_EVERY_S = 60.0
MOST_PLACES = 512  # whose lines are counted one by one; further ones together
LINK_DEPTH = 4  # exceptions of a chain that are shown
FRAMES = 12  # of each of them

Place = Tuple[str, int, int]  # logger, line of code, level


class Limit(NamedTuple):
    """What a place in the code may write: `burst` lines at once, then `per_minute`."""

    burst: int
    per_minute: float
    characters: int  # of a message, and of a traceback


LIMIT_OF_OURS = Limit(200, 20.0, 4000)
LIMIT_OF_OTHERS = Limit(10, 5.0, 1000)


def printable(text: str) -> str:
    r"""Return `text` with \n, \x1b, \u202e and the like in place of what can't be printed."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


def is_ours(record: logging.LogRecord) -> bool:
    """Whether the agent itself has written the line, not a library."""
    return record.name == OURS or record.name.startswith(f"{OURS}.")


def _limit(record: logging.LogRecord) -> Limit:
    return LIMIT_OF_OURS if is_ours(record) else LIMIT_OF_OTHERS


def _cut(text: str, characters: int) -> str:
    """Leave the beginning and the end of a longer text: the end of a traceback says most."""
    left_out = len(text) - characters
    if left_out <= 0:
        return text
    half = characters // 2
    return f"{text[:half]} ... {left_out} characters left out ... {text[-half:]}"


def _line(text: Callable[[], str], characters: int) -> str:
    """Return what `text` gives, fit for a line; a library's own errors in logging are named."""
    try:
        found = text()
    except Exception as error:
        found = f"A log line can't be written: {type(error).__name__}."
    return _cut(printable(_cut(found, characters)), characters)  # an escape takes up to 10


def _message(record: logging.LogRecord) -> str:
    return _line(record.getMessage, _limit(record).characters)


def _traceback(record: logging.LogRecord) -> str:
    """Return the traceback; its own line breaks are the only ones in it. "": there is none."""
    error = record.exc_info[1] if record.exc_info else None
    if error is None:
        return ""
    lines, characters = ["Traceback:"], _limit(record).characters
    for link in reversed(_chain(error)):
        frames = traceback.extract_tb(link.__traceback__)[-FRAMES:]
        lines += [f"  File {frame.filename}, line {frame.lineno}, {frame.name}" for frame in frames]
        lines.append(f"{type(link).__qualname__}: {_line(link.__str__, characters)}")
    return _cut("\n".join(map(printable, lines)), characters)


def _chain(error: BaseException) -> List[BaseException]:
    """Return the exception and what led to it, the latest first."""
    found = [error]
    while len(found) < LINK_DEPTH:
        suppressed = found[-1].__suppress_context__
        earlier = found[-1].__cause__ or (None if suppressed else found[-1].__context__)
        if earlier is None or earlier in found:
            break
        found.append(earlier)
    return found


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (ISO 8601, UTC), level, logger, message, facts, error."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for `record`."""
        line: Dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(),
            "level": record.levelname,
            "logger": printable(record.name),
            "message": _message(record),
        }
        facts: Dict[str, object] = getattr(record, "facts", {})
        line.update({name: _fact(value) for name, value in facts.items()})
        error = _traceback(record)
        if error:
            line["error"] = error
        return json.dumps(line, ensure_ascii=False)


def _fact(value: object) -> object:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return printable(_cut(str(value), LIMIT_OF_OURS.characters))


class TextFormatter(logging.Formatter):
    """Time of day, level, message; the lines of a traceback are indented, no other line is."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for `record`, and below it its traceback."""
        at = time.strftime("%H:%M:%S", time.localtime(record.created))
        lines = [f"{at} {record.levelname:<7} {_message(record)}"]
        lines += [f"    {line}" for line in _traceback(record).split("\n") if line]
        return "\n".join(lines)


class _Bucket:
    """The lines a place may still write (a token bucket), and how many were left out."""

    def __init__(self, limit: Limit, now: float) -> None:
        self._limit, self._tokens, self._at = limit, float(limit.burst), now
        self.left_out, self.counted_at = 0, now

    def takes(self, now: float) -> bool:
        """Whether one more line passes; counts it if not."""
        fresh = (now - self._at) * self._limit.per_minute / 60.0
        self._tokens, self._at = min(self._tokens + fresh, float(self._limit.burst)), now
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return True
        if not self.left_out:
            self.counted_at = now
        self.left_out += 1
        return False


class LimitedHandler(logging.StreamHandler):  # type: ignore[type-arg]  # not generic on 3.8
    """Writes a line unless its place in the code has written too many.

    DEBUG lines of our own pass: who sets that level wants them all. The number of lines left out is
    logged once a minute for each place, with the next line of any, and at the end.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream)
        self._clock = clock
        self._buckets: Dict[Place, _Bucket] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Write `record` or count it; called under the handler's lock."""
        now = self._clock()
        self._log_left_out(now - SUMMARY_EVERY_S)
        asked_for = record.levelno <= logging.DEBUG and is_ours(record)
        if asked_for or self._bucket(record, now).takes(now):
            super().emit(record)

    def close(self) -> None:
        """Log what was left out until now."""
        self.acquire()
        try:
            self._log_left_out(self._clock())
        finally:
            self.release()
        super().close()

    def _bucket(self, record: logging.LogRecord, now: float) -> _Bucket:
        # By the place, not by the text: a text may be a stranger's, and so their number.
        place = (record.name, record.lineno, record.levelno)
        if place not in self._buckets and len(self._buckets) >= MOST_PLACES:
            place = ("many loggers", 0, logging.WARNING)
        return self._buckets.setdefault(place, _Bucket(_limit(record), now))

    def _log_left_out(self, counted_before: float) -> None:
        for (name, line, level), bucket in list(self._buckets.items()):
            if bucket.left_out and bucket.counted_at <= counted_before:
                text = "%d more lines like this one (from line %d of this logger) were left out."
                super().emit(
                    logging.LogRecord(name, level, "", line, text, (bucket.left_out, line), None)
                )
                bucket.left_out = 0


def configure(level: str) -> None:
    """Send the agent's log to standard error at `level`; other libraries' only from WARNING on.

    What Python itself would print of exceptions in threads and destructors goes there as well.
    """
    handler = LimitedHandler(sys.stderr)
    handler.setFormatter(TextFormatter() if sys.stderr.isatty() else JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    threading.excepthook = _log_of_thread
    sys.unraisablehook = _log_unraisable
    set_level(level)


def set_level(level: str) -> None:
    """Log the agent's own lines of `level` and above."""
    logging.getLogger(OURS).setLevel(level)


def _log_of_thread(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_value is not None and not isinstance(failed.exc_value, SystemExit):
        name = failed.thread.name if failed.thread else "unknown"
        _log_uncaught("An exception ended the thread %s.", name, failed.exc_value)


def _log_unraisable(failed: sys.UnraisableHookArgs) -> None:
    what = failed.err_msg or f"Exception ignored in {failed.object!r:.200}"
    _log_uncaught("%s", what, failed.exc_value)


def _log_uncaught(text: str, what: str, error: Optional[BaseException]) -> None:
    logging.getLogger("python").error(text, what, exc_info=error)
