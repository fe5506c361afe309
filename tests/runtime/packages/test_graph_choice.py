"""An optimised graph serves where it fits and computes rightly, model.onnx everywhere else."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Dict, List

import onnx
import pytest
from onnx import helper

from edge_agent.manifest import FileEntry, Manifest
from edge_agent.runtime.packages.graph_choice import instruction_set, this_machine
from edge_agent.types import Bitmap, DetectRequest, ModelState
from tests.fakes import golden, micro
from tests.fakes.device import Device

NAME = "model.optimised.onnx"
PICTURE = golden.draw_even(170)  # model.onnx scores it 170 / 255


def other_graph() -> bytes:
    """Scores (1 - red)² instead of red: what a wrong optimisation may make of it."""
    model = onnx.load_from_string(micro.graph("classification"))
    (score,) = [node for node in model.graph.node if "score" in node.output]
    score.output[0] = "red"
    model.graph.initializer.append(helper.make_tensor("whole", 1, [1], [1.0]))
    model.graph.node.append(helper.make_node("Sub", ["whole", "red"], ["rest"]))
    model.graph.node.append(helper.make_node("Mul", ["rest", "rest"], ["score"]))
    return bytes(model.SerializeToString())


def package(folder: Path, optimised: bytes, samples: bool, **facts: Any) -> Path:
    """A package whose optimised graph is for this machine, but for what `facts` say."""
    model = micro.graph("classification")
    files = {"model.onnx": model, NAME: optimised}
    changes: Dict[str, Any] = {}
    if samples:
        plain = Manifest.model_validate(micro.manifest("classification", model))
        made, pictures = golden.golden.samples(model, plain, golden.PICTURES["classification"])
        files.update(pictures)
        changes["golden"] = [sample.model_dump() for sample in made]
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    here = this_machine("onnxruntime")
    changes["optimised"] = {
        "path": NAME, "version": here.engine_version, "instruction_set": here.instruction_set,
        "source": hashlib.sha256(model).hexdigest(), **facts,
    }  # fmt: skip
    changes["files"] = [FileEntry.of(*file).model_dump() for file in files.items()]
    return micro.write(folder, "classification", model, **changes)


def score(folder: Path) -> float:
    request = DetectRequest("m", Bitmap(micro.SIZE, micro.SIZE, PICTURE.tobytes()))
    with Device(folder) as served:
        served.record("m")
        served.run("m")
        return served.detector.detect(request).score


def test_the_graph_that_fits_this_machine_serves(tmp_path: Path) -> None:
    package(tmp_path / "packages" / "m", other_graph(), samples=False)

    assert score(tmp_path) == pytest.approx((1 - 170 / 255) ** 2, abs=1e-4)


@pytest.mark.parametrize("facts", [{"version": "1.0.0"}, {"instruction_set": "another"}])
def test_a_graph_for_another_machine_is_left_alone(tmp_path: Path, facts: Any) -> None:
    package(tmp_path / "packages" / "m", other_graph(), samples=False, **facts)

    assert score(tmp_path) == pytest.approx(170 / 255, abs=1e-4)


def test_when_both_graphs_compute_wrongly_the_model_says_so(tmp_path: Path) -> None:
    folder = package(tmp_path / "packages" / "m", other_graph(), samples=True)
    values = json.loads((folder / "manifest.json").read_text())
    values["golden"][0]["score"] = 0.9
    (folder / "manifest.json").write_text(json.dumps(values))
    with Device(tmp_path) as served:
        served.record("m")
        served.detector.start("m")
        served.wait("m", ModelState.FAILED)
        assert "onnxruntime on CPU gives other results" in served.detector.describe("m").message


@pytest.mark.parametrize("content", [other_graph(), b"no graph"], ids=["wrong", "broken"])
def test_a_graph_that_computes_wrongly_gives_way_to_the_portable_one(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    package(tmp_path / "packages" / "m", content, samples=True)

    assert score(tmp_path) == pytest.approx(170 / 255, abs=1e-4)
    told: List[str] = [record.getMessage() for record in caplog.records]
    assert any(line.startswith(f"Model m isn't served from {NAME}: ") for line in told), told


def test_a_machine_that_tells_nothing_of_its_processor_takes_model_onnx(tmp_path: Path) -> None:
    assert instruction_set("x86_64", tmp_path / "cpuinfo") == "x86_64"
