"""Models whose files are small and whose computation takes all memory there is.

With 1 GiB for the agent, each wants 7.7 GiB. It ends as a model that is refused or a call that
fails, with a sentence, while another model goes on serving and the agent stays in its limit.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import grpc
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_agent.types import ModelState
from tests.contract.calls import Caller, plain
from tests.fakes import micro
from tests.fakes.agent import Agent

MIB = 1024 * 1024
LIMIT_MIB = 1024
WANTED = int(7.7 * 1024) * MIB // 4  # numbers of four bytes


def with_nodes(nodes: List[Any], *constants: Any) -> bytes:
    """Classification, score = mean(r), plus `nothing`, a zero that `nodes` compute."""
    model = onnx.load_from_string(micro.graph("classification"))
    own = list(model.graph.node)
    head = own.pop()
    own[-1].output[0] = "red"
    model.graph.initializer.extend(constants)
    del model.graph.node[:]
    model.graph.node.extend([*own, *nodes, helper.make_node("Add", ["red", "nothing"], ["r"])])
    model.graph.node.append(head)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def number(name: str, value: Any, kind: Any) -> Any:
    return numpy_helper.from_array(np.array(value, kind), name)


SHAPE = number("wanted", [WANTED], np.int64)
SUM = helper.make_node("ReduceSum", ["big"], ["nothing"], keepdims=0)
BLUE = helper.make_node("ReduceMax", ["b"], ["blue"], keepdims=0)


def on_every_frame() -> bytes:
    nodes = [
        BLUE,
        helper.make_node("Mul", ["blue", "zero"], ["none"]),
        helper.make_node("Expand", ["none", "wanted"], ["big"]),
        SUM,
    ]
    return with_nodes(nodes, SHAPE)


def while_it_is_loaded() -> bytes:
    """All of it is constant, so that onnxruntime may compute it beforehand."""
    return with_nodes([helper.make_node("ConstantOfShape", ["wanted"], ["big"]), SUM], SHAPE)


def in_a_branch_that_is_never_taken() -> bytes:
    """No frame computes it; before 1.20 or so loading does."""
    info = helper.make_tensor_value_info("sum", TensorProto.FLOAT, [])
    greedy = helper.make_graph(
        [
            helper.make_node("ConstantOfShape", ["wanted"], ["big"]),
            helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0),
        ],
        "greedy", [], [info],
    )  # fmt: skip
    modest = helper.make_graph([helper.make_node("Identity", ["zero"], ["sum"])], "m", [], [info])
    nodes = [
        BLUE,
        helper.make_node("Greater", ["blue", "never"], ["yes"]),
        helper.make_node("If", ["yes"], ["nothing"], then_branch=greedy, else_branch=modest),
    ]
    return with_nodes(nodes, SHAPE, number("never", 1e9, np.float32))


def in_many_steps() -> bytes:
    """None of its tensors is large; together they are."""
    steps = 160
    nodes = [BLUE, helper.make_node("Mul", ["blue", "zero"], ["none"])]
    nodes += [
        helper.make_node("Expand", ["none", "part"], [f"part{index}"]) for index in range(steps)
    ]
    nodes += [
        helper.make_node("Concat", [f"part{index}" for index in range(steps)], ["big"], axis=0),
        SUM,
    ]
    return with_nodes(nodes, number("part", [WANTED // steps], np.int64))


def on_blue_frames() -> bytes:
    """Black frames, with which it is tried, take nothing."""
    nodes = [
        BLUE,
        helper.make_node("Mul", ["blue", "much"], ["count"]),
        helper.make_node("Cast", ["count"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["whole", "one_number"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["big"]),
        SUM,
    ]
    much, one = number("much", WANTED, np.float32), number("one_number", [1], np.int64)
    return with_nodes(nodes, much, one)


GREEDY: Dict[str, Callable[[], bytes]] = {
    "every-frame": on_every_frame,
    "loading": while_it_is_loaded,
    "many-steps": in_many_steps,
}


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    """An agent of 1 GiB that serves `good`."""
    agent = Agent(tmp_path, "--set", f"models.memory_limit_mib={LIMIT_MIB}")
    micro.write(agent.models / "good", "classification")
    with agent:
        agent.run("good")
        agent.wait_for("good", ModelState.RUNNING)
        yield agent
        with agent.channel() as channel:
            assert Caller(channel).detect("good", plain(255)).is_anomalous
        assert peak_bytes(agent) < LIMIT_MIB * MIB
        assert agent.stop() == 0


def begin(agent: Agent) -> None:
    """Start `greedy` without waiting for what becomes of it."""
    with agent.channel() as channel:
        Caller(channel).start("greedy")


def peak_bytes(agent: Agent) -> int:
    """The most the agent ever had in memory."""
    assert agent.process is not None
    lines = Path(f"/proc/{agent.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


@pytest.mark.parametrize("name", GREEDY)
def test_a_model_that_takes_more_than_the_limit_is_refused(agent: Agent, name: str) -> None:
    micro.write(agent.models / "greedy", "classification", GREEDY[name]())
    agent.wait_for("greedy", ModelState.STOPPED)
    begin(agent)
    message = agent.wait_for("greedy", ModelState.FAILED, 60.0).message
    assert "The model's graph needs" in message
    assert "memory" in message
    assert "models.memory_limit_mib" in message


def test_a_frame_that_makes_a_model_take_more_fails_and_the_next_one_doesnt(agent: Agent) -> None:
    micro.write(agent.models / "greedy", "classification", on_blue_frames())
    agent.wait_for("greedy", ModelState.STOPPED)
    agent.run("greedy")
    with agent.channel() as channel:
        caller = Caller(channel)
        for _ in range(3):
            with pytest.raises(grpc.RpcError) as error:
                caller.detect("greedy", plain(255, blue=255))
            assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "The model's graph needs" in error.value.details()
            assert not caller.detect("greedy", plain(0)).is_anomalous


def test_what_no_frame_computes_takes_nothing_of_the_agent_either(agent: Agent) -> None:
    """It is refused or serves; the fixture looks at the agent's memory."""
    micro.write(agent.models / "greedy", "classification", in_a_branch_that_is_never_taken())
    agent.wait_for("greedy", ModelState.STOPPED)
    begin(agent)
    with agent.client() as client:
        while client.describe("greedy").state is ModelState.STARTING:
            pass
        assert client.describe("greedy").state in (ModelState.FAILED, ModelState.RUNNING)


CHILD = """
import json, sys
from pathlib import Path
from edge_agent.errors import OutOfMemory
from edge_agent.manifest import parse
from edge_agent.runtime.backends.base import BackendOptions
from edge_agent.runtime.backends.ort import OrtBackend

def open_(name, options):
    folder = Path(sys.argv[1]) / name
    manifest = parse((folder / "manifest.json").read_bytes())
    return OrtBackend((folder / "model.onnx").read_bytes(), manifest, options)
"""


def in_a_process(tmp_path: Path, code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", CHILD + code, str(tmp_path)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_bound_holds_for_all_batch_sizes_and_all_models_together(tmp_path: Path) -> None:
    """The first engine sets it; a later one that asks for more gets no more."""
    micro.write(tmp_path / "good", "classification")
    micro.write(tmp_path / "blue", "classification", on_blue_frames())
    code = """
good = open_("good", BackendOptions(threads=1, cpu_batches=True, memory_bytes=64 * 2**20))
blue = open_("blue", BackendOptions(threads=1, cpu_batches=True, memory_bytes=64 * 2**30))
for count in range(1, blue.max_batch + 1):
    blue.slots()[:] = 0
    frames = blue.slots()[:count]
    blue.run(frames)
    frames[-1] = 255
    try:
        blue.run(frames)
    except OutOfMemory as error:
        print(count, "than the 64 MiB" in str(error))
    good.run(good.slots()[:count])
"""
    assert in_a_process(tmp_path, code).splitlines() == [f"{n} True" for n in (1, 2, 3, 4)]


def test_a_file_of_onnxruntimes_own_format_is_never_loaded(tmp_path: Path) -> None:
    """It would pass by what is verified of ONNX files: their external data, for one."""
    micro.write(tmp_path / "good", "classification")
    code = """
import onnxruntime as ort
options = ort.SessionOptions()
options.optimized_model_filepath = sys.argv[1] + "/model.ort"
options.add_session_config_entry("session.save_model_format", "ORT")
model = Path(sys.argv[1], "good", "model.onnx")
ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
own = Path(sys.argv[1], "model.ort").read_bytes()
ort.InferenceSession(own, providers=["CPUExecutionProvider"])
model.write_bytes(own)
try:
    open_("good", BackendOptions())
except Exception as error:
    print(type(error).__name__)
"""
    assert in_a_process(tmp_path, code) == "InvalidPackage\n"
