"""The graph optimised beforehand: the same answers, the same bytes, for one processor only."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict

import numpy as np
import onnx
import onnxruntime
import pytest

from edge_agent import manifest
from edge_agent.errors import InvalidConfiguration, InvalidPackage
from edge_agent.packaging.graph import optimise as optimising
from edge_agent.packaging.graph.optimise import canonical, optimise
from edge_agent.packaging.target import parse
from edge_agent.runtime.packages.graph_choice import (
    X86,
    GraphHost,
    choose_graph,
    instruction_set,
    this_machine,
)
from tests import ROOT
from tests.fakes import micro
from tests.packaging import graphs

ARCHITECTURES = {"x86_64": "X86_64", "aarch64": "ARM64"}
HERE = platform.machine()


def branched(count: int = 12) -> bytes:
    """Convolutions side by side, each with a result to reorder: their numbers come by chance."""
    middle = [graphs.node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2])]
    weights = []
    for index in range(count):
        values = np.random.default_rng(index).normal(0, 0.01, (16, 3, 3, 3))
        weights.append(graphs.constant(f"weights{index}", values))
        inputs = ["planes", f"weights{index}"]
        middle.append(graphs.node("Conv", inputs, [f"step{index}"], pads=[1] * 4))
        middle.append(graphs.node("Softmax", [f"step{index}"], [f"soft{index}"], axis=index % 4))
    names = [f"soft{index}" for index in range(count)]
    middle.append(graphs.node("Sum", names, ["sum"]))
    return graphs.scorer(middle, weights, head="sum")


MODEL = branched()


def target(mcpu: str, arch: str = ARCHITECTURES[HERE]) -> Any:
    options = json.dumps({"mcpu": mcpu}) if arch == "X86_64" else None
    return parse(None, f"os=LINUX,arch={arch}", options)


def answers(content: bytes, as_it_is: bool, output: str = "score") -> Any:
    options = onnxruntime.SessionOptions()
    if as_it_is:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    shape = (2, micro.SIZE, micro.SIZE, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return session.run([output], {"image": images})[0]


@pytest.fixture(name="made", scope="module")
def _made() -> Any:
    if HERE == "x86_64" and instruction_set() not in X86:
        pytest.skip("there is no name for this processor")
    return optimise(MODEL, target(instruction_set()))


def test_it_gives_the_very_same_answers_without_further_optimising(made: Any) -> None:
    content, _ = made

    assert np.array_equal(answers(content, as_it_is=True), answers(MODEL, as_it_is=False))
    onnx.load_model_from_string(content)


def test_the_manifest_says_what_it_was_made_of_and_for(made: Any) -> None:
    _, spec = made

    assert spec.version == onnxruntime.__version__
    assert spec.instruction_set == instruction_set()
    assert spec.source == hashlib.sha256(MODEL).hexdigest()


def test_another_process_makes_the_same_bytes(made: Any, tmp_path: Path) -> None:
    """onnxruntime itself numbers what it adds by addresses, which differ from start to start."""
    (tmp_path / "model.onnx").write_bytes(MODEL)
    program = (
        "import sys; from pathlib import Path\n"
        "from edge_agent.packaging.graph.optimise import optimise\n"
        "from tests.packaging.graph.test_optimise import target\n"
        "content, _ = optimise(Path(sys.argv[1]).read_bytes(), target(sys.argv[2]))\n"
        "Path(sys.argv[3]).write_bytes(content)\n"
    )
    for seed in ("1", "2"):
        subprocess.run(
            [sys.executable, "-c", program, tmp_path / "model.onnx", instruction_set(),
             tmp_path / seed],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            check=True,
        )  # fmt: skip

        assert (tmp_path / seed).read_bytes() == made[0]


def test_names_and_order_of_a_graph_do_not_matter() -> None:
    first = onnx.load_model_from_string(MODEL)
    second = onnx.load_model_from_string(MODEL)
    for entry in second.graph.node:
        entry.name = f"other_{entry.output[0]}"
        for names in (entry.input, entry.output):
            for place, name in enumerate(names):
                if name.startswith(("step", "soft", "weights")):
                    names[place] = f"other_{name}"
    for entry in second.graph.initializer:
        if entry.name.startswith("weights"):
            entry.name = f"other_{entry.name}"
    nodes = list(second.graph.node)
    pairs = list(zip(nodes[2:-2:2], nodes[3:-2:2]))
    del second.graph.node[:]
    turned = [entry for pair in reversed(pairs) for entry in pair]
    second.graph.node.extend([*nodes[:2], *turned, *nodes[-2:]])
    stored = list(second.graph.initializer)[::-1]
    del second.graph.initializer[:]
    second.graph.initializer.extend(stored)

    assert first.SerializeToString() != second.SerializeToString()
    assert canonical(first.SerializeToString()) == canonical(second.SerializeToString())
    assert np.array_equal(answers(canonical(MODEL), False), answers(MODEL, False))


def test_two_nodes_that_compute_the_same_become_one() -> None:
    middle = [graphs.node("Relu", ["float"], ["a"]), graphs.node("Relu", ["float"], ["b"]),
              graphs.node("Add", ["a", "b"], ["sum"])]  # fmt: skip
    content = graphs.scorer(middle, head="sum")

    made = onnx.load_model_from_string(canonical(content))

    assert [entry.op_type for entry in made.graph.node].count("Relu") == 1
    assert np.array_equal(answers(canonical(content), False), answers(content, False))


def test_an_output_computed_beforehand_keeps_its_name_and_value() -> None:
    made = onnx.load_model_from_string(graphs.scorer(constants=[graphs.constant("half", 0.5)]))
    made.graph.node.append(graphs.node("Identity", ["half"], ["threshold"]))
    made.graph.output.append(graphs.tensor("threshold", graphs.FLOAT, []))

    content, _ = optimise(made.SerializeToString(), target(instruction_set()))

    assert answers(content, as_it_is=True, output="threshold") == 0.5
    assert answers(content, as_it_is=True).tolist() == answers(graphs.scorer(), False).tolist()


def test_an_input_with_a_stored_value_keeps_it() -> None:
    made = onnx.load_model_from_string(
        graphs.scorer([graphs.node("Add", ["float", "b"], ["sum"])], [graphs.constant("b", [2.0])],
                      head="sum")
    )  # fmt: skip
    made.graph.input.append(graphs.tensor("b", graphs.FLOAT, [1]))
    model = made.SerializeToString()

    assert np.array_equal(answers(canonical(model), False), answers(model, False))


def test_what_cannot_be_loaded_again_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    made = onnx.load_model_from_string(MODEL)
    made.graph.output.append(graphs.tensor("nowhere", graphs.FLOAT, []))
    broken = made.SerializeToString()
    monkeypatch.setattr(optimising, "canonical", lambda content: broken)

    with pytest.raises(InvalidPackage, match="can't load the graph it has optimised; leave --opt"):
        optimise(MODEL, target(instruction_set()))


def test_a_graph_with_loops_is_refused() -> None:
    with pytest.raises(InvalidPackage, match="can't be optimised beforehand"):
        canonical(micro.hanging())


def test_another_instruction_set_than_this_machines_is_refused_with_what_it_has() -> None:
    if HERE != "x86_64":
        pytest.skip("only x86 targets name one")
    with pytest.raises(InvalidConfiguration) as caught:
        optimise(MODEL, target("znver9"))

    assert "--optimise for znver9 needs a machine with exactly that instruction set" in str(
        caught.value
    )
    assert f"this one has {instruction_set()}" in str(caught.value)


def test_another_architecture_is_refused() -> None:
    other = "ARM64" if HERE == "x86_64" else "X86_64"
    with pytest.raises(InvalidConfiguration, match=f"needs a machine of that arch.*is {HERE} "):
        optimise(MODEL, target("core-avx2", other))


def test_an_nvidia_target_builds_its_own_engine() -> None:
    with pytest.raises(InvalidConfiguration, match="--optimise is for CPU targets"):
        optimise(MODEL, graphs.gpu("8.5.2"))


def test_without_onnxruntime_the_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    with pytest.raises(InvalidConfiguration, match="pip install 'edge-agent"):
        optimise(MODEL, target(instruction_set()))


@pytest.mark.parametrize(
    ("machine", "flags", "name"),
    [
        ("x86_64", "flags\t: fpu sse2 avx avx2 fma", "core-avx2"),
        (
            "x86_64",
            "flags\t: avx2 fma avx512f avx512cd avx512bw avx512dq avx512vl",
            "skylake-avx512",
        ),
        ("x86_64", "flags\t: avx2 fma avx512f", "core-avx2+avx512f"),
        ("x86_64", "flags\t: fpu sse2", "x86_64"),
        ("aarch64", "Features\t: fp asimd asimddp bf16", "arm64+asimddp+bf16"),
        ("aarch64", "processor\t: 0", "arm64"),
    ],
)
def test_the_instruction_set_is_read_from_the_kernels_list(
    tmp_path: Path, machine: str, flags: str, name: str
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id: x\n{flags}\n\n")

    assert instruction_set(machine, tmp_path / "cpuinfo") == name


def described(**changes: Any) -> manifest.Manifest:
    model = micro.graph("classification")
    entries = [manifest.FileEntry.of("model.onnx", model), manifest.FileEntry.of("fast", b"x")]
    optimised: Dict[str, Any] = {
        "path": "fast", "version": "1.19.2", "instruction_set": "core-avx2",
        "source": entries[0].sha256, **changes,
    }  # fmt: skip
    files = [entry.model_dump() for entry in entries]
    return graphs.described(model, files=files, optimised=optimised)


def test_only_the_very_same_machine_and_engine_take_the_optimised_graph() -> None:
    same = GraphHost("1.19.2", "core-avx2")

    assert choose_graph(described(), same) == "fast"
    assert choose_graph(described(), GraphHost("1.19.3", "core-avx2")) == "model.onnx"
    assert choose_graph(described(), GraphHost("1.19.2", "skylake-avx512")) == "model.onnx"
    assert choose_graph(described(source="0" * 64), same) == "model.onnx"
    assert choose_graph(graphs.described(micro.graph("classification")), same) == "model.onnx"


def test_this_machine_takes_what_was_optimised_on_it_and_no_other_engine_does(made: Any) -> None:
    _, spec = made
    here = described(version=spec.version, instruction_set=spec.instruction_set)

    assert choose_graph(here, this_machine("onnxruntime")) == "fast"
    assert choose_graph(here, this_machine("tensorrt-nowhere")) == "model.onnx"
