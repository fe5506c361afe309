"""What the lines of datasets say about masks, and figures of pixels."""

from __future__ import annotations

import json
from typing import Any, Dict, Mapping, Optional

import numpy as np
import pytest

from edge_agent.service.work.anomaly_masks import (
    AnomalyMask,
    PixelMetrics,
    only_anomaly,
    truth_of,
)

MASK = "s3://bucket/masks/1.png"


def line(colors: object, key: str = "anomaly-mask-ref") -> Dict[str, Any]:
    metadata = {"internal-color-map": colors, "type": "groundtruth/semantic-segmentation"}
    return {"source-ref": "s3://bucket/1.png", key: MASK, f"{key}-metadata": metadata}


def colored(**colors: str) -> Mapping[str, Mapping[str, str]]:
    return {
        str(number): {"class-name": name, "hex-color": color}
        for number, (name, color) in enumerate(colors.items())
    }


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (line(colored(cracked="#23a436")), AnomalyMask(MASK, {"cracked": "#23A436"})),
        (line(colored(BACKGROUND="#ffffff", b="#010203")), AnomalyMask(MASK, {"b": "#010203"})),
        (line(colored(bent="#010203"), "own-ref"), AnomalyMask(MASK, {"bent": "#010203"})),
        (line(colored(BACKGROUND="#ffffff")), None),
        (line(colored(bent="green")), None),
        (line({"0": "bent"}), None),
        (line(None), None),
        ({"source-ref": "s3://bucket/1.png", "source-ref-metadata": {}}, None),
    ],
)  # fmt: skip
def test_a_line_names_its_mask_by_colours(
    content: Dict[str, Any], expected: Optional[AnomalyMask]
) -> None:
    assert AnomalyMask.of(content) == expected


def test_the_only_anomaly_of_all_masks_is_named() -> None:
    cracked, bent = line(colored(cracked="#23A436")), line(colored(bent="#010203"))
    assert only_anomaly([cracked, {"source-ref": "a"}, cracked]) == ("cracked", "#23A436")
    assert only_anomaly([cracked, bent]) is None
    assert only_anomaly([{"source-ref": "a"}]) is None


def test_pixels_of_any_anomalys_colour_are_anomalous() -> None:
    picture = np.full((1, 3, 3), 255, np.uint8)
    picture[0, 0], picture[0, 1] = (1, 2, 3), (0x23, 0xA4, 0x36)
    mask = AnomalyMask(MASK, {"bent": "#010203", "cracked": "#23A436"})
    assert truth_of(picture, mask).tolist() == [[True, True, False]]


def test_figures_count_pixels_over_all_images() -> None:
    metrics = PixelMetrics("bent")
    metrics.add(np.array([[1, 1, 0, 0]], bool), np.array([[1, 0, 1, 0]], bool))
    metrics.add(np.zeros((1, 4), bool), np.array([[1, 0, 0, 0]], bool))
    found = metrics.to_json()
    assert found == {
        "ClassName": "bent",
        "Precision": pytest.approx(1 / 3),
        "Recall": pytest.approx(1 / 2),
        "F1Score": pytest.approx(0.4),
        "AIOU": pytest.approx(1 / 3),
    }
    assert json.loads(json.dumps(found)) == found


def test_figures_are_0_where_nothing_was_seen() -> None:
    figures = PixelMetrics().to_json()
    assert {figures[name] for name in ("Precision", "Recall", "F1Score", "AIOU")} == {0.0}
    assert figures["ClassName"] == "anomaly"
