from __future__ import annotations

import json
import math
from typing import Any, Dict

import numpy as np
import pytest

from edge_agent import manifest as package
from edge_agent.errors import InferenceFailed
from edge_agent.runtime.vision.postprocess import Postprocessor
from edge_agent.types import Prediction
from tests.fakes import micro


def judge(
    task: str, raw: Dict[str, Any], width: int = 100, height: int = 80, **changes: Any
) -> Prediction:
    values = micro.manifest(task, b"", **changes)
    post = Postprocessor(package.parse(json.dumps(values).encode()))
    arrays = {name: np.asarray([value], np.float32) for name, value in raw.items()}
    return post.predict(arrays, 0, width, height)


def square_map(size: int = 10, value: float = 0.9) -> Any:
    """Zero but for rows 2 to 3, columns 4 to 6."""
    values = np.zeros((1, size, size), np.float32)
    values[0, 2:4, 4:7] = value
    return values


@pytest.mark.parametrize(
    ("score", "threshold", "anomalous", "confidence"),
    [(0.7, 0.5, True, 0.7), (0.3, 0.5, False, 0.7), (0.5, 0.5, True, 0.5), (0.3, 0.2, True, 0.3)],
)
def test_a_frame_is_anomalous_from_the_threshold_on_and_confidence_is_of_the_verdict(
    score: float, threshold: float, anomalous: bool, confidence: float
) -> None:
    got = judge("classification", {"score": score}, decision={"threshold": threshold})
    assert got.is_anomalous is anomalous
    assert got.confidence == pytest.approx(confidence)
    assert (got.mask, got.anomalies, got.regions) == (None, (), ())


def test_score_and_threshold_are_compared_as_the_client_will_see_them() -> None:
    got = judge("classification", {"score": np.float32(0.7)}, decision={"threshold": 0.7})
    assert got.is_anomalous


def test_confidence_is_never_exactly_zero() -> None:
    got = judge("segmentation", _classes(), decision={"threshold": 0.5, "verdict": "mask"})
    assert not got.is_anomalous
    assert got.confidence > 0


def test_scores_are_clipped_and_calibrated() -> None:
    assert judge("classification", {"score": 7.0}).score == 1.0
    assert judge("classification", {"score": -3.0}).score == 0.0
    calibration = {"calibration": {"scale": 2.0, "shift": -1.0}}
    got = judge("classification", {"score": 1.5}, decision=calibration)
    assert got.score == pytest.approx(1 / (1 + math.exp(-2.0)))


def test_a_score_that_is_no_number_is_a_failure_not_a_verdict() -> None:
    with pytest.raises(InferenceFailed, match="NaN"):
        judge("classification", {"score": math.nan})


def test_mask_areas_and_regions_agree_to_the_pixel() -> None:
    got = judge("anomaly_map", {"score": 0.9, "map": square_map()}, width=97, height=83)
    assert got.mask is not None
    assert got.mask.shape == (83, 97, 3)
    colored = (got.mask == (0x23, 0xA4, 0x36)).all(axis=2)
    white = (got.mask == 255).all(axis=2)
    assert (colored | white).all()
    background, anomaly = got.anomalies
    assert (background.name, background.color) == ("background", "#FFFFFF")
    assert (anomaly.name, anomaly.color) == ("anomaly", "#23A436")
    assert anomaly.area == pytest.approx(colored.sum() / colored.size, abs=1e-9)
    assert background.area + anomaly.area == pytest.approx(1.0)
    (region,) = got.regions
    rows, columns = np.nonzero(colored)
    assert (region.left, region.top) == (columns.min(), rows.min())
    assert region.left + region.width == columns.max() + 1
    assert region.top + region.height == rows.max() + 1
    assert region.area == pytest.approx(anomaly.area)
    assert region.peak == pytest.approx(0.9)


def test_a_normal_frame_has_a_white_mask_and_only_the_background() -> None:
    got = judge("anomaly_map", {"score": 0.1, "map": square_map(value=0.1)})
    assert got.mask is not None
    assert (got.mask == 255).all()
    assert [(found.name, found.area) for found in got.anomalies] == [("background", 1.0)]


def test_regions_below_the_minimum_area_vanish_from_mask_areas_and_list() -> None:
    outputs = {"score": 0.9, "map": square_map()}
    got = judge("anomaly_map", outputs, decision={"minimum_region_area": 0.061})
    assert got.regions == ()
    assert len(got.anomalies) == 1
    kept = judge("anomaly_map", outputs, decision={"minimum_region_area": 0.059})
    assert len(kept.regions) == 1


def test_an_ignore_zone_silences_map_and_score() -> None:
    zone = {"left": 0.4, "top": 0.2, "width": 0.3, "height": 0.2}
    got = judge(
        "anomaly_map", {"score": 0.9, "map": square_map()}, decision={"ignore_zones": [zone]}
    )
    assert not got.is_anomalous
    assert got.score == 0.0
    assert got.regions == ()


def test_the_map_threshold_is_in_calibrated_units() -> None:
    decision = {"pixel_threshold": 0.9, "calibration": {"scale": 1.0, "shift": 0.0}}
    raw = math.log(0.9 / 0.1)
    above = judge(
        "anomaly_map", {"score": raw, "map": square_map(value=raw + 0.01)}, decision=decision
    )
    below = judge(
        "anomaly_map", {"score": raw, "map": square_map(value=raw - 0.01)}, decision=decision
    )
    assert len(above.regions) == 1
    assert below.regions == ()


def test_segmentation_lists_only_types_that_were_found_in_class_order() -> None:
    got = judge("segmentation", _classes(scratch=(0, 2), dent=(5, 7)))
    assert [found.name for found in got.anomalies] == ["background", "scratch", "dent"]
    assert [found.color for found in got.anomalies[1:]] == ["#2CA02C", "#1F77B4"]
    assert sum(found.area for found in got.anomalies) == pytest.approx(1.0)
    only = judge("segmentation", _classes(dent=(5, 7)))
    assert [found.name for found in only.anomalies] == ["background", "dent"]


@pytest.mark.parametrize(
    ("verdict", "score", "found", "anomalous"),
    [
        ("score", 0.9, False, True), ("score", 0.1, True, False),
        ("mask", 0.9, False, False), ("mask", 0.1, True, True),
        ("either", 0.1, True, True), ("either", 0.1, False, False),
        ("both", 0.9, False, False), ("both", 0.9, True, True),
    ],
)  # fmt: skip
def test_the_verdict_rule_decides_between_score_and_mask(
    verdict: str, score: float, found: bool, anomalous: bool
) -> None:
    outputs = _classes(scratch=(0, 2) if found else (0, 0), score=score)
    got = judge("segmentation", outputs, decision={"threshold": 0.5, "verdict": verdict})
    assert got.is_anomalous is anomalous


def test_without_a_score_output_segmentation_scores_the_mean_of_its_mask() -> None:
    outputs = _classes(scratch=(0, 2))
    del outputs["score"]
    got = judge("segmentation", outputs, outputs={"class_maps": "classes"})
    assert got.score == pytest.approx(0.2)


def _classes(
    scratch: Any = (0, 0), dent: Any = (0, 0), score: float = 0.9, size: int = 10
) -> Dict[str, Any]:
    """Class maps in which whole rows belong to a type."""
    maps = np.zeros((3, size, size), np.float32)
    maps[0] = 0.5
    maps[1, scratch[0] : scratch[1]] = 0.8
    maps[2, dent[0] : dent[1]] = 0.8
    return {"score": score, "classes": maps}
