"""The nuclei that tests talk to, and what every test leaves behind: nothing."""

from __future__ import annotations

import fcntl
import gc
import logging
import os
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator, List, Optional, Set

import pytest
from hypothesis import HealthCheck, settings

from edge_agent.runtime.results.spool.journal import journal_locations
from tests.fakes.fake_nucleus import FakeNucleus
from tests.runtime.host.component import Lost

# gRPC's fork handlers crash a process that starts another while its threads run (CPython 3.8 forks
# in subprocess); what is started here calls exec at once and needs none of them.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

# How long an example takes depends on what else the machine does.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

# Files of half a minute and more, the longest first: they begin first, so that no worker ends long
# after the others.
LONGEST = (
    "test_engine_upgrade", "test_gpu_check", "test_component", "test_engine_lifecycle", "test_run",
    "test_deployment", "test_stress", "test_memory_budget", "test_hostile_archives",
    "test_conformance", "test_agent_install", "test_agent_component", "test_build",
    "test_trt_backend", "test_connections", "test_compare", "test_telemetry", "test_logs",
    "test_journal", "test_trt_loop", "test_commands", "test_overflow", "test_trainer",
    "test_journey", "test_readme",
)  # fmt: skip

SHARED_MEMORY = Path("/dev/shm")
PREFIXES = ("edge-agent", "gstreamer-lookoutvision")
_BASE: List[Path] = []  # of the temporary folders of this run's tests


def pytest_configure(config: pytest.Config) -> None:
    """Keep the order below; the xdist of CPython 3.8 has no such option, and its own order."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: List[pytest.Item]) -> None:
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(Path(item.location[0]).stem, len(ranks)))


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


@pytest.fixture(autouse=True)
def _log_level() -> Iterator[None]:
    """What a test sets with `logs.configure`, or by settings, is of that test."""
    log = logging.getLogger("edge_agent")
    before = log.level
    yield
    log.setLevel(before)


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Check at the end that no segment of ours and no child process remains."""
    _BASE.append(tmp_path_factory.getbasetemp())
    before = there()
    yield
    assert not left_behind(before)


def there() -> Set[str]:
    """Segments of ours in shared memory, and child processes."""
    mine = (path for path in SHARED_MEMORY.iterdir() if path.name.startswith(PREFIXES))
    return {*map(str, mine), *children()}


def left_behind(before: Set[str], within_s: float = 10.0) -> Set[str]:
    """What is new since `before` and stays, except what is of other runs and workers."""
    end = time.monotonic() + within_s
    while True:
        left = there() - before - _used_by_others()
        left &= there()  # it may have gone before its users were looked for
        if not left or time.monotonic() > end:
            journals = {each for each in left if "journal" in each}
            return left - (journals and journals - _journals_below(_BASE[0]))
        time.sleep(0.05)


def _journals_below(base: Path) -> Set[str]:
    """Where the journals of the outboxes in a folder lie; the names tell no run."""
    return {str(journal_locations(Path(at))[0].path) for at, _, _ in os.walk(base)}


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A path that the first worker who needs it makes; the others of the same run wait and share.

    Nobody may change what is there.
    """
    base = factory.getbasetemp()
    folder = (base.parent if "popen-" in base.name else base) / "made-once"
    folder.mkdir(exist_ok=True)
    done = folder / f"{name}.done"
    with (folder / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not done.exists():
            make(folder / name)
            done.touch()
    return folder / name


@contextmanager
def alone(what: str) -> Iterator[None]:
    """Keep other runs of these tests on this machine from using the same name meanwhile."""
    with (Path(tempfile.gettempdir()) / f"edge-agent-tests-{what}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


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


def children(kind: str = "", of: Optional[int] = None) -> Set[str]:
    """Child processes, of this one or that with the id `of`, with `kind` in their command line."""
    wanted = str(os.getpid() if of is None else of)
    found: Set[str] = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = status.read_text().rpartition(")")[2].split()[1]
            words = os.fsdecode((status.parent / "cmdline").read_bytes().replace(b"\0", b" "))
        except OSError:
            continue
        # The tracker of multiprocessing lives as long as its parent.
        if parent == wanted and kind in words and "resource_tracker" not in words:
            found.add(f"process {status.parent.name}: {words}")
    return found
