"""The nuclei that tests talk to, and what every test leaves behind: nothing."""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path
from typing import Iterator, Set

import pytest

from tests.fakes.fake_nucleus import FakeNucleus
from tests.runtime.host.component import Lost

# gRPC's fork handlers crash a process that starts another while its threads run (CPython 3.8 forks
# in subprocess); what is started here calls exec at once and needs none of them.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

SHARED_MEMORY = Path("/dev/shm")
PREFIXES = ("edge-agent", "gstreamer-lookoutvision")


def pytest_collection_finish() -> None:
    """Leave what the modules of all tests hold to no collection; each one took a third second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(params=["classic", "lite"])
def nucleus(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FakeNucleus]:
    with FakeNucleus(tmp_path / "ipc", request.param) as fake:
        yield fake


@pytest.fixture
def classic(tmp_path: Path) -> Iterator[FakeNucleus]:
    with FakeNucleus(tmp_path / "ipc", "classic") as fake:
        yield fake


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[FakeNucleus]:
    with FakeNucleus(tmp_path / "ipc", "lite") as fake:
        yield fake


@pytest.fixture
def lost() -> Lost:
    return Lost()


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Check at the end that no segment of ours and no child process remains."""
    before = there()
    yield
    end = time.monotonic() + 10.0
    left = left_behind(before)
    while left and time.monotonic() < end:
        time.sleep(0.05)
        left = left_behind(before)
    assert not left


def there() -> Set[str]:
    """Segments of ours in shared memory, and child processes."""
    mine = (path for path in SHARED_MEMORY.iterdir() if path.name.startswith(PREFIXES))
    return {*map(str, mine), *children()}


def left_behind(before: Set[str]) -> Set[str]:
    """What is new since `before`, except segments that other programs hold."""
    return there() - before - _used_by_others()


def _used_by_others() -> Set[str]:
    """Segments that other programs on this machine hold; they are not of this session."""
    used: Set[str] = set()
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        try:
            lines = (process / "maps").read_text().splitlines()
            used.update(line.split(None, 5)[5] for line in lines if str(SHARED_MEMORY) in line)
            used.update(os.readlink(entry) for entry in (process / "fd").iterdir())
        except OSError:
            continue  # it has ended
    return used


def children(kind: str = "") -> Set[str]:
    """Child processes with `kind` in their command line."""
    found: Set[str] = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = status.read_text().rpartition(")")[2].split()[1]
            words = (status.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        # The tracker of multiprocessing lives as long as its parent.
        if parent == str(os.getpid()) and kind in words and "resource_tracker" not in words:
            found.add(f"process {status.parent.name}: {words}")
    return found
