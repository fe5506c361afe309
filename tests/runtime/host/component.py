"""A component's side of a test: its connection, what it heard of its loss, what is left of it."""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, List, Mapping

from edge_agent.runtime.host.greengrass import Greengrass
from edge_agent.runtime.host.session import CONNECT_WITHIN_S


class Lost:
    """Why the connection was lost, as often as it was told."""

    def __init__(self) -> None:
        self.reasons: List[str] = []
        self.told = threading.Event()

    def __call__(self, reason: str) -> None:
        self.reasons.append(reason)
        self.told.set()


@contextmanager
def component(
    environment: Mapping[str, str],
    lost: Lost,
    connect_within_s: float = CONNECT_WITHIN_S,
    name: str = "",
) -> Iterator[Greengrass]:
    """A connection that is closed at the end, and has then left no thread and no socket."""
    before, loops = sockets(), event_loops()
    greengrass = Greengrass(environment, lost, name, connect_within_s)
    try:
        yield greengrass
    finally:
        greengrass.close()
        end = time.monotonic() + 60.0
        while (event_loops() > loops or sockets() > before) and time.monotonic() < end:
            time.sleep(0.01)  # awscrt ends its thread from another one; the nucleus has its end
        assert event_loops() <= loops
        assert sockets() <= before


def event_loops() -> int:
    """Threads of awscrt in this process."""
    names = [_text(task / "comm") for task in Path("/proc/self/task").iterdir()]
    return sum(name.startswith("AwsEventLoop") for name in names)


def sockets() -> int:
    """Sockets of this process, the fake's among them."""
    count = 0
    for number in os.listdir("/proc/self/fd"):  # noqa: PTH208 - a descriptor may go meanwhile
        try:
            count += os.readlink(f"/proc/self/fd/{number}").startswith("socket:")
        except OSError:
            continue
    return count


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
