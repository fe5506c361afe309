"""Exports that the agent can't feed or read as they are, and what packaging makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from edge_agent.errors import InvalidConfiguration, InvalidPackage
from edge_agent.manifest import MODEL_FILE, InputSpec
from edge_agent.packaging.draft import PackageDraft, open_draft
from edge_agent.packaging.graph import meaning
from edge_agent.packaging.graph.check import check
from edge_agent.runtime.backends.base import BackendOptions
from edge_agent.runtime.backends.catalog import open_backend
from edge_agent.runtime.models import golden_check
from tests.packaging import graphs
from tests.packaging.graphs import FLOAT, UINT8, node, tensor

SIDE = 16


def mean_of(
    shape: Sequence[Any],
    kind: int = FLOAT,
    out: Optional[Sequence[Any]] = None,
    opset: int = 13,
    axes: Sequence[int] = (),
    inputs: Sequence[Any] = (),
    last: Sequence[Any] = (),
    **changes: Any,
) -> bytes:
    """score = the mean of a picture of any layout, whose values are 0 to 1 (uint8: 0 to 255)."""
    batched = shape[0] == "N"
    axes = axes or (list(range(1, 4)) if batched else [0, 1, 2])
    divisor = 255.0 if kind == UINT8 else 1.0
    numbers = {TensorProto.FLOAT16: np.float16, TensorProto.DOUBLE: np.float64}
    is_float = kind in numbers
    nodes = [
        *([] if is_float else [node("Cast", ["image"], ["float"], to=FLOAT)]),
        node("ReduceMean", ["image" if is_float else "float"], ["sum"], axes=axes, keepdims=0),
        node("Div", ["sum", "divisor"], ["score"]),
        *last,
    ]
    score = tensor("score", kind if is_float else FLOAT, ["N"] if batched else [])
    return graphs.model(
        nodes, [tensor("image", kind, shape), *inputs],
        [score] if out is None else list(out),
        [graphs.constant("divisor", divisor, numbers.get(kind, np.float32))],
        opset=opset, **changes,
    )  # fmt: skip


def opened(folder: Path, content: bytes, **given: Any) -> PackageDraft:
    (folder / "export.onnx").write_bytes(content)
    rest = {"name": "bolts", "input": {"scale": 1 / 255}, **given}
    (folder / "rest.json").write_text(json.dumps(rest))
    return open_draft(folder / "export.onnx", folder / "rest.json")


def scores(draft: PackageDraft, *colors: Tuple[int, int, int]) -> List[float]:
    """The scores of pictures of one colour, as the agent computes them; the checks pass."""
    model, manifest = draft.read(MODEL_FILE), draft.manifest
    assert check(model, manifest, graphs.CPU).of("error") == []
    backend = open_backend(["onnxruntime"], model, manifest, BackendOptions(threads=1))
    size = (manifest.input.height, manifest.input.width, 3)
    pictures = [np.full(size, color, np.uint8) for color in colors]
    found = golden_check.run(backend, manifest, pictures, 1)
    return [
        golden_check.GoldenResult.of(outputs, index, manifest).score for outputs, index in found
    ]


SHAPES: Dict[str, Dict[str, Any]] = {
    "gray, planes first": {"shape": ["N", 1, SIDE, SIDE]},
    "gray, bytes": {"shape": ["N", SIDE, SIDE, 1], "kind": UINT8},
    "gray without a channel": {"shape": ["N", SIDE, SIDE], "axes": [1, 2]},
    "gray, nothing but rows": {"shape": [SIDE, SIDE], "axes": [0, 1], "kind": UINT8},
    "gray without a batch": {"shape": [1, SIDE, SIDE]},
    "without a batch": {"shape": [3, SIDE, SIDE]},
    "without a batch, bytes": {"shape": [SIDE, SIDE, 3], "kind": UINT8},
    "without a batch, old": {"shape": [3, SIDE, SIDE], "opset": 11},
    "half": {"shape": ["N", 3, SIDE, SIDE], "kind": TensorProto.FLOAT16},
    "double": {"shape": ["N", SIDE, SIDE, 3], "kind": TensorProto.DOUBLE},
    "integers": {"shape": ["N", 3, SIDE, SIDE], "kind": TensorProto.INT32},
    "newer file": {"shape": ["N", 3, SIDE, SIDE], "ir": 12},
}


@pytest.mark.parametrize("case", SHAPES)
def test_an_export_of_another_form_is_taken(tmp_path: Path, case: str) -> None:
    form = SHAPES[case]
    as_bytes = form.get("kind") in (UINT8, TensorProto.INT32)
    scale = {} if as_bytes else {"scale": 1 / 255}
    draft = opened(tmp_path, mean_of(**form), input=scale)

    found = scores(draft, (0, 0, 0), (255, 255, 255), (51, 51, 51), (255, 0, 0))

    high = 255.0 if form.get("kind") == TensorProto.INT32 else 1.0
    red = 0.299 if "gray" in case else 1 / 3
    wanted = [min(high * each, 1.0) for each in (0.0, 1.0, 0.2, red)]
    assert found == pytest.approx(wanted, abs=0.003)
    assert draft.assumptions  # says what was changed


def test_a_map_and_maps_of_classes_get_the_batch_axis_too(tmp_path: Path) -> None:
    image = tensor("image", FLOAT, [3, SIDE, SIDE])
    mean = node("ReduceMean", ["image"], ["map"], axes=[0], keepdims=0)
    flat = graphs.model([mean], [image], [tensor("map", FLOAT, [SIDE, SIDE])])
    assert opened(tmp_path, flat).manifest.task == "anomaly_map"
    assert scores(opened(tmp_path, flat), (51, 51, 51)) == pytest.approx([0.2], abs=0.001)

    same = node("Identity", ["image"], ["classes"])
    maps = graphs.model([same], [image], [tensor("classes", FLOAT, [3, SIDE, SIDE])])
    classes = [{"name": name, "color": "#00FF00"} for name in ("dent", "scratch")]
    draft = opened(tmp_path, maps, classes=classes)
    assert scores(draft, (200, 0, 0), (0, 200, 0)) == [0.0, 1.0]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("batch", [["N"], [1], []])
def test_maps_with_their_channels_last_are_put_first(
    tmp_path: Path, batch: List[Any], channels: int
) -> None:
    first, *size = len(batch), len(batch) + 1, len(batch) + 2
    nodes = [
        node("ReduceMax", ["image"], ["gray"], axes=[first], keepdims=1),
        node("Identity", ["gray" if channels == 1 else "image"], ["maps"]),
        node("Transpose", ["maps"], ["found"], perm=[*range(first), *size, first]),
    ]
    content = graphs.model(
        nodes, [tensor("image", FLOAT, [*batch, 3, SIDE, SIDE])],
        [tensor("found", FLOAT, [*batch, SIDE, SIDE, channels])],
    )  # fmt: skip
    classes = [{"name": name, "color": "#00FF00"} for name in ("dent", "scratch")]
    draft = opened(tmp_path, content, **({"classes": classes} if channels == 3 else {}))

    assert draft.manifest.task == ("anomaly_map" if channels == 1 else "segmentation")
    assert scores(draft, (204, 0, 0), (0, 204, 0)) == pytest.approx(
        [0.8, 0.8] if channels == 1 else [0.0, 1.0], abs=0.001
    )


def test_tensors_in_files_beside_the_graph_are_merged(tmp_path: Path) -> None:
    model = onnx.load_model_from_string(mean_of(["N", 3, SIDE, SIDE]))
    (stored,) = model.graph.initializer
    (tmp_path / "weights.bin").write_bytes(b"1234" + stored.raw_data)
    stored.ClearField("raw_data")
    stored.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "weights.bin", "offset": "4", "length": "4"}.items():
        stored.external_data.add(key=key, value=value)
    content = model.SerializeToString()

    assert scores(opened(tmp_path, content), (51, 51, 51)) == pytest.approx([0.2], abs=0.001)

    (tmp_path / "weights.bin").write_bytes(b"12")
    with pytest.raises(InvalidPackage, match=r"weights\.bin is too short: .* needs 4 bytes"):
        opened(tmp_path, content)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(InvalidPackage, match=r"No such file or directory\. Put that file beside"):
        opened(tmp_path, content)
    stored.external_data[0].value = "../weights.bin"
    with pytest.raises(InvalidPackage, match="isn't a file in its folder"):
        opened(tmp_path, model.SerializeToString())


def test_an_input_that_nothing_uses_is_left_out(tmp_path: Path) -> None:
    content = mean_of(["N", 3, SIDE, SIDE], inputs=[tensor("sizes", TensorProto.INT64, [1, 2])])
    draft = opened(tmp_path, content)
    assert scores(draft, (51, 51, 51)) == pytest.approx([0.2], abs=0.001)
    assert "Input 'sizes' int64 (1, 2) isn't used and is left out." in draft.assumptions


def test_of_two_inputs_the_picture_is_named_and_the_other_gets_a_value(tmp_path: Path) -> None:
    content = mean_of(
        ["N", 3, SIDE, SIDE],
        inputs=[tensor("gain", FLOAT, [1])],
        last=[node("Mul", ["score", "gain"], ["strong"])],
        out=[tensor("strong", FLOAT, ["N"])],
    )
    with pytest.raises(InvalidConfiguration) as caught:
        opened(tmp_path, content)
    advice = str(caught.value)
    assert "The picture is 'image', and the agent supplies nothing else" in advice
    assert '{"constants": {"gain": [0]}}' in advice

    draft = opened(tmp_path, content, constants={"gain": [0.5]})
    assert scores(draft, (255, 255, 255)) == pytest.approx([0.5], abs=0.001)
    with pytest.raises(InvalidConfiguration, match=r"constants\.gain doesn't fit 'gain' float32"):
        opened(tmp_path, content, constants={"gain": "much"})


def test_of_two_pictures_one_is_the_picture_and_the_other_a_constant(tmp_path: Path) -> None:
    other = tensor("reference", FLOAT, ["N", 3, SIDE, SIDE])
    content = mean_of(
        ["N", 3, SIDE, SIDE],
        inputs=[other],
        last=[node("ReduceMean", ["reference"], ["base"], axes=[1, 2, 3], keepdims=0),
              node("Sub", ["score", "base"], ["above"])],
        out=[tensor("above", FLOAT, ["N"])],
    )  # fmt: skip
    with pytest.raises(InvalidConfiguration, match=r"name it as input\.tensor, .*\{NAME: VALUE"):
        opened(tmp_path, content)
    image = {"tensor": "image", "scale": 1 / 255}
    with pytest.raises(InvalidConfiguration, match=r'\{"constants": \{"reference": 0\}\}'):
        opened(tmp_path, content, input=image)
    draft = opened(tmp_path, content, input=image, constants={"reference": 0.1})
    assert scores(draft, (51, 51, 51)) == pytest.approx([0.1], abs=0.001)


def softmax(
    folder: Path, score: str, batch: Sequence[Any] = ("N",), shape: Sequence[Any] = ("N", 2)
) -> PackageDraft:
    """Two classes: (mean of the picture, 1 - that)."""
    axes = [len(batch) + axis for axis in range(3)]
    content = mean_of(
        [*batch, 3, SIDE, SIDE],
        axes=axes,
        last=[
            node("Reshape", ["score", "column"], ["first"]),
            node("Sub", ["divisor", "first"], ["second"]),
            node("Concat", ["first", "second"], ["both"], axis=1),
            node("Reshape", ["both", "form"], ["probabilities"]),
        ],
        out=[tensor("probabilities", FLOAT, shape)],
    )
    made = onnx.load_model_from_string(content)
    form = [-1 if axis == "N" else axis for axis in shape]
    for name, values in {"column": [-1, 1], "form": form}.items():
        made.graph.initializer.append(graphs.constant(name, values, np.int64))
    outputs = {"outputs": {"score": score}} if score else {}
    return opened(folder, made.SerializeToString(), **outputs)


@pytest.mark.parametrize(
    ("batch", "shape"),
    [
        (["N"], ["N", 2]),
        (["N"], ["N", 2, 1, 1]),
        ([1], [1, 2]),
        ([1], [2]),
        ([], [2]),
        ([], [1, 2]),
    ],
)
@pytest.mark.parametrize(
    ("score", "expected"),
    [("probabilities[0]", 0.2), ("probabilities[1]", 0.8), ("1-probabilities[0]", 0.8)],
)
def test_one_class_of_two_can_be_the_score(
    tmp_path: Path, score: str, expected: float, batch: Sequence[Any], shape: Sequence[Any]
) -> None:
    found = scores(softmax(tmp_path, score, batch, shape), (51, 51, 51))
    assert found == pytest.approx([expected], abs=0.001)
    with pytest.raises(InvalidConfiguration, match=r"'probabilities' holds 2 classes"):
        softmax(tmp_path, "", batch, shape)


@pytest.mark.parametrize(
    ("batch", "shape", "words"),
    [(["N"], [2], "has 2 items for a batch of 1"), ([4], [8], "float32 (8) must be (4) or (4, 1)")],
)
def test_two_classes_are_no_scores_of_a_batch(
    tmp_path: Path, batch: Sequence[Any], shape: Sequence[Any], words: str
) -> None:
    draft = softmax(tmp_path, "", batch, shape)
    (sentence,) = check(draft.read(MODEL_FILE), draft.manifest, graphs.CPU).of("error")
    assert words in sentence


def test_an_output_is_read_as_it_comes_not_as_the_file_has_it(tmp_path: Path) -> None:
    made = onnx.load_model_from_string(mean_of([3, SIDE, SIDE], out=[tensor("score", FLOAT, None)]))
    draft = opened(tmp_path, made.SerializeToString(), outputs={"score": "score"})
    (sentence,) = check(draft.read(MODEL_FILE), draft.manifest, graphs.CPU).of("error")
    assert "Output 'score' has no items for a batch of 1" in sentence


def test_two_classes_are_named_with_what_to_declare(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration) as caught:
        softmax(tmp_path, "")
    assert "'probabilities' holds 2 classes" in str(caught.value)
    assert '{"outputs": {"score": "probabilities[1]"}}' in str(caught.value)
    with pytest.raises(
        InvalidConfiguration,
        match="There is no output chances; outputs names some of probabilities",
    ):
        softmax(tmp_path, "chances")


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (["N", 4, SIDE, SIDE], r"^Input 'image' float32 \(\?, 4, 16, 16\) isn't a picture: "),
        (["N", 3, SIDE, SIDE, 2], "isn't a picture"),
    ],
)
def test_an_input_that_is_no_picture_is_not_asked_for_its_size(
    tmp_path: Path, shape: Any, words: str
) -> None:
    with pytest.raises(InvalidConfiguration, match=words):
        opened(tmp_path, mean_of(shape))


def test_a_class_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match=r"There is no output probabilities\[2\]"):
        softmax(tmp_path, "probabilities[2]")


def test_everything_that_is_missing_is_said_at_once(tmp_path: Path) -> None:
    content = mean_of(
        ["N", 3, "height", "width"],
        inputs=[tensor("gain", FLOAT, [1])],
        last=[node("Mul", ["score", "gain"], ["strong"]), node("Loud", ["strong"], ["x"],
              domain="own")],
        out=[tensor("x", FLOAT, ["N", 1, 1])], domains=[("own", 1)], opset=13,
    )  # fmt: skip
    content = graphs.altered(content, opset=25)
    with pytest.raises(InvalidConfiguration) as caught:
        opened(tmp_path, content, input={}, name=None)
    for words in ("input.height, input.width, input.scale", '"gain"', "opset 25", "'own'"):
        assert words in str(caught.value)


def test_a_graph_that_fits_stays_as_it_is(tmp_path: Path) -> None:
    content = mean_of(["N", 3, SIDE, SIDE])
    assert opened(tmp_path, content).read(MODEL_FILE) == content


def test_synthetic_pictures_are_of_the_models_size() -> None:
    spec = InputSpec(tensor="image", height=24, width=40)
    shapes = {each.shape for each in meaning.synthetic(spec.height, spec.width).pictures}
    assert shapes == {(24, 40, 3)}
