"""Packages that change while they are read, and graphs that never end when a model starts.

`tests/faults/test_hostile_archives.py` has those that are hostile but hold still.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Set, Tuple

import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edge_agent.errors import InvalidPackage
from edge_agent.runtime.packages.package import Package
from edge_agent.types import ModelState
from tests.contract.calls import Caller, plain
from tests.contract.generations import RUNNING, STARTING
from tests.fakes import micro
from tests.fakes.agent import Agent
from tests.faults.hostile import package_files, zipped

ATTACK_S = 1.5
GOOD = package_files()
EVIL_MODEL = GOOD["model.onnx"].replace(b"classification", b"classificatiom")


def evil_files() -> Dict[str, bytes]:
    """A package that is whole in itself, and of the same size."""
    manifest = micro.manifest("classification", EVIL_MODEL)
    return {"manifest.json": json.dumps(manifest).encode(), "model.onnx": EVIL_MODEL}


EVIL = evil_files()


def write(folder: Path, files: Dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        fresh = folder / f".{name}"
        fresh.write_bytes(content)
        fresh.rename(folder / name)
    return folder


def in_place(path: Path, number: int) -> None:
    """The model's file is written over, without another name or inode."""
    with (path / "model.onnx").open("r+b") as file:
        file.write(EVIL_MODEL if number % 2 else GOOD["model.onnx"])


def by_rename(path: Path, number: int) -> None:
    fresh = path.parent / "fresh"
    fresh.write_bytes((EVIL if number % 2 else GOOD)["model.onnx"])
    fresh.rename(path / "model.onnx")


def for_a_link(path: Path, number: int) -> None:
    fresh = path.parent / "fresh"
    if number % 2:
        fresh.symlink_to("/proc/self/environ")
    else:
        fresh.write_bytes(GOOD["model.onnx"])
    fresh.rename(path / "model.onnx")


def for_a_fifo(path: Path, number: int) -> None:
    fresh = path.parent / "fresh"
    if number % 2:
        os.mkfifo(fresh)
    else:
        fresh.write_bytes(GOOD["model.onnx"])
    fresh.rename(path / "model.onnx")


def longer_and_shorter(path: Path, number: int) -> None:
    os.truncate(path / "model.onnx", (0, 2**40, 10)[number % 3])
    (path / "model.onnx").write_bytes(GOOD["model.onnx"])


def the_folder_for_a_link(path: Path, number: int) -> None:
    aside = path.with_name("aside")
    path.rename(aside)
    path.symlink_to(path.with_name("evil"))
    path.unlink()
    aside.rename(path)


def only_the_manifest(path: Path, number: int) -> None:
    fresh = path.parent / "fresh"
    fresh.write_bytes((EVIL if number % 2 else GOOD)["manifest.json"])
    fresh.rename(path / "manifest.json")


FOLDER_RACES: Dict[str, Callable[[Path, int], None]] = {
    race.__name__: race
    for race in (
        in_place, by_rename, for_a_link, for_a_fifo, longer_and_shorter, the_folder_for_a_link,
        only_the_manifest,
    )
}  # fmt: skip

ZIPS = [zipped(GOOD), zipped(EVIL), zipped({**GOOD, "more": bytes(100_000)}), zipped(GOOD)[:-30]]


def zip_in_place(path: Path, number: int) -> None:
    with path.open("r+b") as file:
        file.write(ZIPS[number % len(ZIPS)])
        file.truncate()


def zip_cut(path: Path, number: int) -> None:
    os.truncate(path, number * 37 % len(ZIPS[0]))
    path.write_bytes(ZIPS[0])


def zip_for_a_folder(path: Path, number: int) -> None:
    path.unlink()
    write(path, EVIL)
    shutil.rmtree(path)
    path.write_bytes(ZIPS[0])


ZIP_RACES = {race.__name__: race for race in (zip_in_place, zip_cut, zip_for_a_folder)}


class Race:
    """Changes a path in a tight loop while the block runs."""

    def __init__(self, change: Callable[[Path, int], None], path: Path) -> None:
        self._change, self._path = change, path
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.faults: Set[str] = set()

    def _run(self) -> None:
        number = 0
        while not self._ends.is_set():
            try:
                self._change(self._path, number)
            except OSError as error:
                self.faults.add(repr(error))
            number += 1

    def __enter__(self) -> Race:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._ends.set()
        self._thread.join()


def read_again_and_again(path: Path) -> int:
    """Read the package as loading does; return how often it was whole, which it must be or not."""
    wholes, end = 0, time.monotonic() + ATTACK_S
    versions = {files["manifest.json"]: files["model.onnx"] for files in (GOOD, EVIL)}
    while time.monotonic() < end:
        try:
            package = Package(path, 2**30)
            package.verify()
            model = package.read_model()
        except InvalidPackage:
            continue
        listed = next(entry.sha256 for entry in package.manifest.files)
        assert [model] == [
            content for manifest, content in versions.items() if listed.encode() in manifest
        ]
        wholes += 1
    return wholes


@pytest.mark.parametrize("kind", FOLDER_RACES)
def test_a_folder_that_changes_while_it_is_read_is_whole_or_refused(
    tmp_path: Path, kind: str
) -> None:
    path = write(tmp_path / "model", GOOD)
    write(tmp_path / "evil", EVIL)
    with Race(FOLDER_RACES[kind], path):
        read_again_and_again(path)


@pytest.mark.parametrize("kind", ZIP_RACES)
def test_a_zip_that_changes_while_it_is_read_is_whole_or_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.zip"
    path.write_bytes(ZIPS[0])
    with Race(ZIP_RACES[kind], path):
        read_again_and_again(path)


@pytest.mark.parametrize("kind", [*FOLDER_RACES, *ZIP_RACES])
def test_a_model_whose_package_changes_all_the_time_hurts_no_other(
    agent: Agent, tmp_path: Path, kind: str
) -> None:
    """The agent finds, loads, refuses and changes over as fast as it can; then all is well."""
    name = f"raced-{kind}"
    is_folder = kind in FOLDER_RACES
    path = agent.models / (name if is_folder else f"{name}.zip")
    write(agent.models / "evil", EVIL)
    if is_folder:
        write(path, GOOD)
    else:
        path.write_bytes(ZIPS[0])
    with agent.channel() as channel:
        caller = Caller(channel)
        agent.wait_for(name, ModelState.STOPPED)
        with Race((FOLDER_RACES if is_folder else ZIP_RACES)[kind], path):
            end = time.monotonic() + ATTACK_S
            while time.monotonic() < end:
                caller.stub.StartModel.future(
                    caller.messages.StartModelRequest(model_component=name), timeout=20
                ).code()
                assert caller.detect("cls", plain(255)).is_anomalous
        if is_folder:
            write(path, GOOD)
        else:
            path.write_bytes(ZIPS[0])
        agent.wait_for("cls", ModelState.RUNNING)
        assert caller.detect("cls", plain(255)).is_anomalous
    shutil.rmtree(path) if is_folder else path.unlink()
    shutil.rmtree(agent.models / "evil")
    (agent.models / "fresh").unlink(missing_ok=True)


def endless() -> bytes:
    """Classification that loops for days on every frame, the black one of the start as well."""
    model = onnx.load_from_string(micro.hanging())
    (node,) = [node for node in model.graph.node if list(node.input) == ["blue", "days"]]
    node.input[0] = "half"
    return bytes(model.SerializeToString())


def folded_for_hours() -> bytes:
    """Classification whose constants are worked out when the engine opens it."""
    model = onnx.load_from_string(micro.graph("classification"))
    nodes, constants = list(model.graph.node), model.graph.initializer
    head = nodes.pop()
    nodes[-1].output[0] = "red"
    constants.append(helper.make_tensor("shape", TensorProto.INT64, [2], [3000, 3000]))
    tiny = helper.make_tensor("tiny", TensorProto.FLOAT, [1], [1e-6])
    nodes.append(helper.make_node("ConstantOfShape", ["shape"], ["m0"], value=tiny))
    nodes += [
        helper.make_node("MatMul", [f"m{step}", "m0"], [f"m{step + 1}"]) for step in range(999)
    ]
    nodes += [
        helper.make_node("ReduceMean", ["m999"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["red", "nothing"], ["r"]),
    ]
    del model.graph.node[:]
    model.graph.node.extend([*nodes, head])
    return bytes(model.SerializeToString())


def onnxruntime_version() -> Tuple[int, ...]:
    return tuple(map(int, onnxruntime.__version__.split(".")[:2]))


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Agent]:
    """An agent for which an engine call hangs after a second; cls runs."""
    agent = Agent(tmp_path, "--set", "engine.hang_after_s=1", "--set", "engine.threads=1")
    micro.write(agent.models / "cls", "classification")
    with agent:
        agent.run("cls")
        yield agent


def test_a_graph_that_never_ends_fails_at_its_start_and_others_go_on(quick: Agent) -> None:
    with quick.channel() as channel:
        caller = Caller(channel)
        caller.wait("cls", RUNNING)
        micro.write(quick.models / "trap", "classification", endless())
        quick.wait_for("trap", ModelState.STOPPED)
        caller.start("trap")
        while caller.describe("trap").status == STARTING:
            assert caller.detect("cls", plain(255)).is_anomalous
        failed = quick.wait_for("trap", ModelState.FAILED, within_s=1)
        assert "computed for more than 1 s on its first frames" in failed.message
        caller.start("trap")  # again: it ends again
        quick.wait_for("trap", ModelState.FAILED)


@pytest.mark.parametrize("graph", [endless, folded_for_hours])
def test_an_agent_ends_in_time_while_a_graph_never_does(
    tmp_path: Path, graph: Callable[[], bytes]
) -> None:
    """Nor does such a start keep other packages from being found, started and removed."""
    if graph is folded_for_hours and onnxruntime_version() < (1, 32):
        pytest.skip("onnxruntime 1.19 holds the interpreter's lock while it opens a graph")
    agent = Agent(tmp_path, "--set", "engine.threads=1")
    micro.write(agent.models / "trap", "classification", graph())
    with agent, agent.channel() as channel:
        caller = Caller(channel)
        agent.wait_for("trap", ModelState.STOPPED)
        caller.start("trap")
        micro.write(agent.models / "late", "classification")
        agent.wait_for("late", ModelState.STOPPED)
        caller.run("late")
        assert caller.detect("late", plain(255)).is_anomalous
        assert caller.describe("trap").status == STARTING
        shutil.rmtree(agent.models / "trap")
        end = time.monotonic() + 60
        while any(model.model_component == "trap" for model in caller.list()):
            assert time.monotonic() < end
        began = time.monotonic()
        assert agent.stop() == 0
        assert time.monotonic() - began < 5.0
