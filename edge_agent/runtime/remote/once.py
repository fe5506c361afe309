"""Commands that come too late, too early or twice: a `stop` of yesterday must never run.

A broker keeps messages (retained, or queued for a session), and who may listen may send one again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import suppress
from datetime import datetime, timezone
from typing import Dict, Hashable, Optional, Union

from edge_agent.errors import InvalidRequest

MOST_REMEMBERED = 256  # commands of one requester; each is forgotten when it could only be too old
WHOLE_SECONDS_S = 1.0  # a time is given in whole seconds, often
EXAMPLE = "2026-01-31T12:00:00Z"


class Refused(Exception):
    """The command isn't carried out; `status` is the name of a gRPC status."""

    def __init__(self, status: str, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Once:
    """Lets each command pass once and at its time; safe on any thread.

    What came before a restart of the agent isn't remembered, so nothing given before it passes.
    """

    def __init__(self, expire_s: float, began: float) -> None:
        """`expire_s`: how far a command's time may be from now, in the past and in the future.

        began: when the agent started, Unix seconds.
        """
        self._expire_s, self._began = expire_s, began
        self._lock = threading.Lock()
        self._seen: Dict[str, OrderedDict[Hashable, float]] = {}  # by requester: until when

    def take(self, requester: str, time: float, mark: Hashable, now: float) -> None:
        """Let the command pass, or raise Refused; `time` and `now` in Unix seconds.

        `mark` tells it from others of the requester.
        """
        if not abs(now - time) <= self._expire_s:  # nor a time that is no number
            raise Refused("DEADLINE_EXCEEDED", _sentence(time, now, self._expire_s))
        self._began = min(self._began, now)  # the clock may have been set back
        if time < self._began - WHOLE_SECONDS_S:
            raise Refused(
                "DEADLINE_EXCEEDED",
                f"The command was given at {_utc(time)}, before the agent started at "
                f"{_utc(self._began)}. Send it again with the time of now.",
            )
        with self._lock:
            seen = self._seen.setdefault(requester, OrderedDict())
            for old in [known for known, until in seen.items() if until < now]:
                del seen[old]
            if mark in seen:
                raise Refused(
                    "ALREADY_EXISTS",
                    "This command came before and isn't carried out twice. Send each one with a "
                    "time or an id of its own.",
                )
            if len(seen) >= MOST_REMEMBERED:
                raise Refused(
                    "RESOURCE_EXHAUSTED",
                    f"{requester!r:.140} has sent {MOST_REMEMBERED} commands within "
                    f"{2 * self._expire_s:g} s. Send fewer.",
                )
            seen[mark] = time + self._expire_s


def unix_seconds(time: Union[float, str, None]) -> Optional[float]:
    """Return the time of a command. Raises InvalidRequest for a text that isn't one."""
    if not isinstance(time, str):
        return time
    with suppress(ValueError, OverflowError):
        read = datetime.fromisoformat(time[:-1] + "+00:00" if time.endswith("Z") else time)
        if read.tzinfo is not None:
            return read.timestamp()
    raise InvalidRequest(
        f"time: {time!r:.60} isn't a time with a zone; write it like {EXAMPLE!r}, or as Unix "
        "seconds."
    )


def _sentence(time: float, now: float, expire_s: float) -> str:
    when = "ago" if time < now else "ahead"
    return (
        f"The command's time is {abs(now - time):.0f} s {when}; at most {expire_s:g} s "
        f"(results.commands.expire_s) are allowed. This device's clock shows {_utc(now)}. Send it "
        "with the time of now, and check both clocks."
    )


def _utc(now: float) -> str:
    return datetime.fromtimestamp(now, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
