"""The answer for a frame is the same alone or in any batch, whatever happens to its neighbours.

Bit-equal for the micro models. Graphs whose kernels choose another order of summation for another
batch size may differ in the last bits; for those the limit is 1e-5 of the score.
"""

from __future__ import annotations

from typing import Any, Dict, List

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.errors import AgentUnavailable
from edge_agent.manifest import Manifest
from edge_agent.runtime.backends.base import BackendOptions
from edge_agent.runtime.backends.ort import OrtBackend
from edge_agent.runtime.batching.batch import Item
from edge_agent.runtime.models.inference_unit import InferenceUnit
from edge_agent.runtime.vision.frame import OpenFrame
from edge_agent.types import Caller, Frame, Prediction
from tests.fakes import micro

LARGEST_BATCH = 5
TOLERANCE = {"classification": 0.0, "anomaly_map": 0.0, "segmentation": 0.0, "convolutions": 1e-5}


def unit(kind: str) -> InferenceUnit:
    task, model = (
        ("classification", micro.slow(3)) if kind == "convolutions" else (kind, micro.graph(kind))
    )
    values = micro.manifest(task, model, runtime={"batch_sizes": [LARGEST_BATCH]})
    manifest = Manifest.model_validate(values)
    return InferenceUnit(
        OrtBackend(model, manifest, BackendOptions(threads=2, cpu_batches=True)), manifest
    )


UNITS: Dict[str, InferenceUnit] = {kind: unit(kind) for kind in TOLERANCE}


def item(seed: int) -> Item:
    random = np.random.default_rng(seed)
    shape = (int(random.integers(64, 200)), int(random.integers(64, 200)), 3)
    pixels = random.integers(0, 256, shape, dtype=np.uint8)
    return Item(OpenFrame(Frame(pixels)), 0.0, Caller())


def broken() -> Item:
    return Item(OpenFrame(Frame(np.zeros((0, 0, 3), np.uint8))), 0.0, Caller())


def alone(kind: str, seed: int) -> Prediction:
    single = item(seed)
    UNITS[kind].compute([single])
    prediction: Prediction = single.future.result(0)
    return prediction


def same(kind: str, one: Prediction, other: Prediction) -> bool:
    if abs(one.score - other.score) > TOLERANCE[kind]:
        return False
    if TOLERANCE[kind] or one.mask is None:
        return one.is_anomalous == other.is_anomalous and one.mask is other.mask is None
    assert other.mask is not None
    return (
        (one.anomalies, one.regions, one.confidence)
        == (other.anomalies, other.regions, other.confidence)
    ) and np.array_equal(one.mask, other.mask)


@pytest.mark.parametrize("kind", TOLERANCE)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_frame_gets_the_same_answer_alone_and_in_any_company(kind: str, data: Any) -> None:
    fates = st.sampled_from(["computed", "computed", "given up", "broken"])
    company = data.draw(
        st.lists(st.tuples(st.integers(0, 40), fates), min_size=1, max_size=LARGEST_BATCH)
    )
    batch: List[Item] = []
    for seed, fate in company:
        batch.append(broken() if fate == "broken" else item(seed))
        if fate == "given up":
            batch[-1].fail(AgentUnavailable("hung"))
    UNITS[kind].compute(batch)
    for (seed, fate), one in zip(company, batch):
        if fate == "computed":
            assert same(kind, one.future.result(0), alone(kind, seed))
        else:
            assert one.future.exception(0) is not None
