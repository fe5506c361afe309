"""What a graph gives on pictures, beside what its manifest says that it gives."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
import pytest

from edge_agent.packaging.graph import meaning
from edge_agent.packaging.graph.findings import GraphReport
from edge_agent.packaging.graph.meaning import SamplePictures
from tests.fakes import micro
from tests.packaging import graphs
from tests.packaging.graphs import FLOAT, node, tensor

SIDE = 32


def scored(*steps: Any, constants: Sequence[Any] = (), with_map: bool = False) -> bytes:
    """`mean`, of the picture, is 0 to 1; the steps make `score` of it. `map` is 0 to 255."""
    nodes = [
        node("Cast", ["image"], ["float"], to=FLOAT),
        node("ReduceMean", ["float"], ["level"], axes=[1, 2, 3], keepdims=0),
        node("Div", ["level", "most"], ["mean"]),
        *steps,
        *([node("ReduceMean", ["float"], ["map"], axes=[3], keepdims=0)] if with_map else []),
    ]
    outputs = [tensor("score", FLOAT, ["N"])]
    if with_map:
        outputs.append(tensor("map", FLOAT, ["N", SIDE, SIDE]))
    image = tensor("image", graphs.UINT8, ["N", SIDE, SIDE, 3])
    constants = [graphs.constant("most", 255.0), *constants]
    return graphs.model(nodes, [image], outputs, constants)


def linear(factor: float, shift: float = 0.0) -> bytes:
    return scored(
        node("Mul", ["mean", "factor"], ["product"]),
        node("Add", ["product", "shift"], ["score"]),
        constants=[graphs.constant("factor", factor), graphs.constant("shift", shift)],
    )


GOLDEN = {"image": "a.png", "score": 0.9, "anomalous": True}
FILES = [{"path": path, "size": 1, "sha256": 64 * "0"} for path in ("model.onnx", "a.png")]
THRESHOLDED = scored(
    node("Greater", ["mean", "half"], ["verdict"]),
    node("Cast", ["verdict"], ["score"], to=FLOAT),
    constants=[graphs.constant("half", 0.5)],
)
NOT_A_NUMBER = scored(node("Neg", ["mean"], ["less"]), node("Sqrt", ["less"], ["score"]))
INFINITE = scored(node("Log", ["mean"], ["score"]))


def found(
    content: bytes,
    samples: Optional[SamplePictures] = None,
    task: str = "classification",
    **changes: Any,
) -> GraphReport:
    image = {"tensor": "image", "height": SIDE, "width": SIDE}
    manifest = graphs.described(content, task, input=image, **changes)
    seen = samples or meaning.synthetic(SIDE, SIDE)
    return GraphReport(tuple(meaning.check(content, manifest, seen)))


def photos(*levels: int, anomalous: Sequence[Optional[bool]] = ()) -> SamplePictures:
    pictures = [np.full((SIDE, SIDE, 3), level, np.uint8) for level in levels]
    return SamplePictures(pictures, anomalous or [None] * len(levels), "pictures in photos")


def declarations(sentence: str) -> List[Dict[str, float]]:
    """The calibrations that a sentence offers."""
    parts = sentence.split('{"decision": ')[1:]
    return [json.JSONDecoder().raw_decode(part)[0]["calibration"] for part in parts]


@pytest.mark.parametrize(
    ("content", "given"),
    [
        (linear(50.0), "0 to 50"),
        (linear(100.0), "0 to 100"),
        (linear(12.0, -6.0), "-6 to 6"),
        (linear(5.0, -8.0), "-8 to -3"),
        (linear(1.5), "0 to 1.5"),
    ],
)
def test_values_beyond_0_to_1_are_refused_with_a_declaration_that_is_then_taken(
    content: bytes, given: str
) -> None:
    (sentence,) = found(content).of("error")
    assert f"Output 'score' gives {given} on 10 synthetic pictures" in sentence
    assert "--golden-images" in sentence
    offered = declarations(sentence)
    assert len(offered) == 1 + given.startswith("-")
    for calibration in offered:
        assert found(content, decision={"calibration": calibration}).of("error") == []


@pytest.mark.parametrize("content", [linear(1.0), linear(0.5, 0.2), linear(1.0005)])
def test_values_from_0_to_1_are_what_the_manifest_says(content: bytes) -> None:
    assert found(content).findings == ()


def test_real_pictures_count_more_than_synthetic_ones() -> None:
    assert found(linear(2.0), photos(10, 60, 90, 120)).findings == ()
    assert found(linear(2.0), photos(10, 60, 90, 220)).of("error")


@pytest.mark.parametrize("content", [NOT_A_NUMBER, INFINITE])
def test_what_is_no_number_is_refused(content: bytes) -> None:
    (sentence,) = found(content).of("error")
    assert "Output 'score' isn't a number" in sentence


def test_a_score_that_is_always_the_same_is_refused() -> None:
    (sentence,) = found(linear(0.0, 0.3)).of("error")
    assert "is 0.3 on all of 10 synthetic pictures: it doesn't depend on the picture" in sentence
    clipped = found(linear(0.0, 1.0))  # synthetic pictures may all be far from training
    assert clipped.of("error") == []
    assert "real ones differ" in clipped.of("warning")[0]
    (sentence,) = found(linear(0.0, 1.0), photos(1, 2, 3, 4)).of("error")
    assert "is 1 on all of 4 pictures in photos: it doesn't depend on the picture" in sentence


@pytest.mark.parametrize(("levels", "score"), [((10, 20, 30, 40), 0), ((150, 160, 170, 180), 1)])
def test_parts_of_one_kind_may_all_have_the_same_score_at_the_end_of_the_scale(
    levels: Sequence[int], score: int
) -> None:
    for known in (None, bool(score)):
        samples = photos(*levels, anomalous=[known] * 4)
        report = found(THRESHOLDED, samples)
        assert report.of("error") == []
        sentence, *others = report.of("warning")
        assert f"is {score} on all of 4 pictures in photos. That is right if" in sentence
        assert len(others) == (score == 1 and known is None)  # all anomalous at the threshold
    both = photos(*levels, anomalous=[False, False, True, True])
    assert "doesn't depend on the picture" in found(THRESHOLDED, both).of("error")[0]


def test_a_graph_that_gives_verdicts_is_said_to() -> None:
    (sentence,) = found(THRESHOLDED).of("warning")
    assert "The scores are only 0 or 1 on 10 synthetic pictures" in sentence


def test_a_map_alone_is_compared_as_well() -> None:
    content = scored(node("Identity", ["mean"], ["score"]), with_map=True)
    (sentence,) = found(content, task="anomaly_map", outputs={"map": "map"}).of("error")
    assert "Output 'map' gives 0 to 255" in sentence
    (sentence,) = found(content, task="anomaly_map").of("error")
    assert "Output 'map' gives 0 to 255" in sentence
    assert "One calibration holds for all outputs, and 'score' gives 0 to 1 already" in sentence


def test_two_outputs_beyond_0_to_1_are_named_together() -> None:
    content = scored(node("Mul", ["mean", "most"], ["score"]), with_map=True)
    (sentence,) = found(content, task="anomaly_map").of("error")
    assert sentence.startswith("Outputs 'score' and 'map' give 0 to 255 on 10 synthetic pictures")


def test_a_score_that_falls_with_anomalies_is_refused() -> None:
    labels = [False, False, True, True]
    assert found(linear(1.0), photos(10, 20, 200, 220, anomalous=labels)).findings == ()
    (sentence,) = found(linear(1.0), photos(200, 220, 10, 20, anomalous=labels)).of("error")
    assert "it says how normal a part is" in sentence
    assert '{"outputs": {"score": "1-score"}}' in sentence


def test_pictures_that_are_all_anomalous_are_a_warning() -> None:
    report = found(linear(1.0), photos(150, 160, 170, 180))
    assert report.of("error") == []
    assert (
        "All of 4 pictures in photos are anomalous at the threshold 0.5" in report.of("warning")[0]
    )


def test_golden_samples_of_another_graph_are_refused() -> None:
    (sentence,) = found(linear(1.0), photos(51), golden=[GOLDEN], files=FILES).of("error")
    assert "score of a.png is 0.2000, not 0.9000" in sentence
    assert "Make the golden samples again" in sentence


@pytest.mark.parametrize("task", ["classification", "anomaly_map", "segmentation"])
def test_models_that_mean_what_they_say_pass(task: str) -> None:
    content = micro.graph(task)
    manifest = graphs.described(content, task)
    seen = meaning.synthetic(micro.SIZE, micro.SIZE)
    report = GraphReport(tuple(meaning.check(content, manifest, seen)))
    assert report.of("error") == []
