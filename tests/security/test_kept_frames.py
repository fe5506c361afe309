"""What the agent keeps of the plant's data is closed to other users, from the first byte on."""

from __future__ import annotations

import os
import stat
import threading
import time
from pathlib import Path
from typing import Dict, Iterator, List, Set

import pytest

from edge_agent.runtime.engines.cache import _store
from edge_agent.runtime.models.thresholds import ThresholdOverrides
from edge_agent.runtime.packages.registration import Registration
from edge_agent.runtime.results.captures.capture import _files
from edge_agent.runtime.results.captures.folder import CaptureFolder
from edge_agent.runtime.results.lines import LinesSink
from edge_agent.runtime.results.sink import Message
from edge_agent.runtime.system.data_files import make_folder, modes_in
from edge_agent.runtime.system.files import create_new, write_atomically
from tests.fakes import micro
from tests.fakes.agent import Agent
from tests.runtime.results.shots import picture, shot

UMASKS = [0o022, 0o000]


@pytest.fixture(params=UMASKS, ids=["umask 022", "umask 000"])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder: Path) -> Dict[str, int]:
    every = [folder, *folder.rglob("*")]
    return {str(each.relative_to(folder)): stat.S_IMODE(each.stat().st_mode) for each in every}


def open_to_others(folder: Path) -> List[str]:
    return [f"{name} {mode:o}" for name, mode in modes(folder).items() if mode & 0o077]


def keep(folder: CaptureFolder, number: int) -> None:
    assert folder.add(*_files(shot(number), ".png"))


def test_kept_frames_are_closed_to_others(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "deep" / "captures"
    folder = CaptureFolder(path, 1 << 30)
    folder.open()
    keep(folder, 1)
    folder.close()
    assert open_to_others(tmp_path / "deep") == []
    assert modes(path)["."] == 0o700
    assert {mode for name, mode in modes(path).items() if "." in name[1:]} == {0o600}


def test_they_are_closed_while_they_are_written(tmp_path: Path, umask: int) -> None:
    """A file made open and closed afterwards could be opened in between."""
    path = tmp_path / "captures"
    path.mkdir(mode=0o755)
    path.chmod(0o755)
    folder = CaptureFolder(path, 1 << 30)
    folder.open()
    seen: Set[str] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            for each in path.rglob("*"):
                try:
                    if each.stat().st_mode & 0o077:
                        seen.add(str(each))
                except OSError:
                    continue

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for number in range(20):
            keep(folder, number)
    finally:
        done.set()
        watcher.join(20)
    folder.close()
    assert not seen
    assert stat.S_IMODE(path.stat().st_mode) == 0o755  # the operator's


def test_a_folder_opened_to_a_group_stays_open_to_it(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "captures"
    path.mkdir()
    path.chmod(0o2750)
    folder = CaptureFolder(path, 1 << 30)
    folder.open()
    keep(folder, 1)
    folder.close()
    found = modes(path)
    assert found["."] == 0o2750
    assert found["manifest.jsonl"] == 0o640
    assert not [name for name, mode in found.items() if mode & 0o007]
    assert all(mode & 0o040 for mode in found.values())


def test_no_link_in_the_workplace_is_written_through(tmp_path: Path) -> None:
    folder = CaptureFolder(tmp_path / "captures", 1 << 30)
    folder.open()
    victim = tmp_path / "victim"
    victim.write_text("mine")
    new = tmp_path / "captures" / ".new" / "manifest.jsonl"
    new.symlink_to(victim)
    os.close(create_new(new, 0o600))
    assert victim.read_text() == "mine"
    assert not new.is_symlink()


def test_the_file_of_lines_is_closed_and_an_existing_one_stays(tmp_path: Path, umask: int) -> None:
    for name, before, after in (("new", None, 0o600), ("there", 0o644, 0o644)):
        path = tmp_path / f"{name}.jsonl"
        if before is not None:
            path.touch()
            path.chmod(before)
        sink = LinesSink(str(path))
        sink.send(Message("1", "bolts", "result", "normal", b"{}")).result(5)
        sink.stop(1.0)
        assert stat.S_IMODE(path.stat().st_mode) == after


def test_thresholds_set_by_command_are_closed(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "state" / "decisions.json"
    ThresholdOverrides(path).store(Registration("bolts", tmp_path, (1,)), 0.5, "hmi")
    assert open_to_others(tmp_path / "state") == []


def test_engines_are_closed(tmp_path: Path, umask: int) -> None:
    cache, built = tmp_path / "cache", tmp_path / "built"
    make_folder(cache)
    built.write_bytes(b"an engine")
    built.chmod(0o644)
    write_atomically(cache / "about.json", b"{}", mode=modes_in(cache).file)
    _store(built, cache / "engine")
    (cache / "stale.new").write_bytes(b"left")
    (cache / "stale.new").chmod(0o666)
    write_atomically(cache / "stale", b"{}", mode=modes_in(cache).file)
    assert open_to_others(cache) == []
    assert (cache / "engine").read_bytes() == b"an engine"


def test_an_agents_own_folders_are_closed(tmp_path: Path) -> None:
    captures = tmp_path / "state" / "captures"
    agent = Agent(
        tmp_path, "--set", f"results.capture.folder={captures}",
        "--set", "results.capture.sample=1", "--set", f"results.lines={tmp_path / 'lines.jsonl'}",
        "--set", f"results.folder={tmp_path / 'results'}",
    )  # fmt: skip
    micro.write(agent.models / "plates", "classification")
    with agent, agent.client() as client:
        client.start("plates")
        client.detect("plates", picture())
        end = time.monotonic() + 30.0
        while not (tmp_path / "lines.jsonl").exists():
            assert time.monotonic() < end, agent.log()
            time.sleep(0.02)
        assert agent.stop() == 0
    assert list(captures.rglob("*.png"))
    assert open_to_others(captures) == []
    assert stat.S_IMODE((tmp_path / "lines.jsonl").stat().st_mode) == 0o600
