from __future__ import annotations

from typing import Any

import pytest

from edge_agent import manifest as manifests
from edge_agent.manifest import Manifest
from edge_agent.runtime.engines.spec import build_spec, ladder, profiles
from edge_agent.targets import BuildSpec
from tests.fakes import micro
from tests.packaging import graphs

MODEL = micro.graph("classification")
ITEM = (micro.SIZE, micro.SIZE, 3)


def described(**runtime: Any) -> Manifest:
    return graphs.described(MODEL, runtime=runtime)


def test_a_model_straight_from_training_gets_a_profile_for_each_batch_size() -> None:
    spec = build_spec(described(batch_sizes=[8, 1], precision="fp16"))

    assert [(one.minimum, one.optimum, one.maximum) for one in spec.profiles] == [
        ((1, *ITEM), (1, *ITEM), (1, *ITEM)),
        ((2, *ITEM), (8, *ITEM), (8, *ITEM)),
    ]
    assert (spec.precision, spec.quantised, spec.calibration) == ("fp16", False, ())


def test_without_pictures_int8_is_what_the_graph_itself_has() -> None:
    assert build_spec(described(precision="int8")).quantised


def test_what_packaging_wrote_is_taken_as_it_is() -> None:
    written = BuildSpec(
        precision="fp32", profiles=profiles(described(batch_sizes=[4]), 4), timing_cache="t.cache"
    )
    packaged = described(precision="fp16").model_copy(update={"build": written})

    assert build_spec(manifests.parse(packaged.to_json())) == written


@pytest.mark.parametrize(
    ("precision", "steps"),
    [("int8", ["int8", "fp16", "fp32"]), ("fp16", ["fp16", "fp32"]), ("fp32", ["fp32"])],
)
def test_numbers_become_more_exact_step_by_step(precision: Any, steps: Any) -> None:
    spec = build_spec(described(precision=precision))

    assert [step.precision for step in ladder(spec)] == steps
    assert ladder(spec)[0] == spec


def test_only_int8_is_calibrated_and_only_fp16_has_a_graph_of_its_own() -> None:
    pictures = ("calibration/000.png",)
    spec = build_spec(described(precision="int8")).model_copy(
        update={"calibration": pictures, "half": "model.half.onnx"}
    )

    told = [(one.calibration, one.half) for one in ladder(spec)[1:]]

    assert told == [((), "model.half.onnx"), ((), None)]
