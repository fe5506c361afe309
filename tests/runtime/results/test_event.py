from __future__ import annotations

import json
from typing import Any, Dict

import jsonschema
import pytest

from edge_agent.runtime.results import event
from edge_agent.runtime.results.event import EventDraft
from edge_agent.types import Anomaly, CameraProblem, Prediction, Region, StageTimes
from tests import ROOT

SCHEMA = json.loads((ROOT / "docs" / "result.schema.json").read_text())
NOW = 1_800_000_000.25


def prediction(regions: int = 1, types: int = 1, name: str = "scratch") -> Prediction:
    return Prediction(
        is_anomalous=True,
        confidence=0.87654321,
        score=0.87654321,
        threshold=0.5,
        anomalies=(
            Anomaly("background", 0.9, "#FFFFFF"),
            *(Anomaly(f"{name}{n}", 0.1 / types, "#23A436") for n in range(types)),
        ),
        regions=tuple(Region(name, n, 2, 3, 4, 0.01, 0.9) for n in range(regions)),
        model_version="3",
        camera_problems=(CameraProblem.DARK,),
    )


def encoded(of: Prediction) -> bytes:
    facts = event.verdict(of, StageTimes(), "left", NOW - 0.5, "a/b.png")
    return event.encode(EventDraft("0" * 36, "result", "bolts", NOW, facts), 2**53, "press-4")


def test_a_result_is_what_the_schema_says() -> None:
    body = json.loads(encoded(prediction()))

    jsonschema.validate(body, SCHEMA)
    assert body["is_anomalous"] is True
    assert body["confidence"] == 0.876543
    assert body["anomalies"] == {"scratch0": {"area": 0.1, "color": "#23A436"}}
    assert body["regions"][0]["width"] == 3
    assert body["camera_problems"] == ["dark"]
    assert body["frame_time"] == "2027-01-15T07:59:59.750Z"
    assert body["capture"] == "a/b.png"
    assert "cut" not in body


@pytest.mark.parametrize(
    "change", [{"sequence": -1}, {"kind": "picture"}, {"confidence": 2}, {"news": 1}]
)
def test_the_schema_refuses_what_is_no_result(change: Dict[str, Any]) -> None:
    body = {**json.loads(encoded(prediction())), **change}

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(body, SCHEMA)


@pytest.mark.parametrize(
    ("regions", "types", "name"),
    [
        (0, 0, "x"),
        (1, 1, "\ud800"),
        (5000, 1, "x"),
        (64, 30, "x" * 200),
        (10, 100, "ß" * 256),
        (0, 1000, '"' * 256),
    ],
)
def test_a_result_fits_into_7000_bytes_and_says_what_was_cut(
    regions: int, types: int, name: str
) -> None:
    whole = prediction(regions, types, name)

    body = encoded(whole)

    values = json.loads(event.late(body))
    jsonschema.validate(values, SCHEMA)
    assert len(event.late(body)) <= 7000
    cut = values.get("cut", {"regions": 0, "anomalies": 0})
    assert len(values["regions"]) + cut["regions"] == regions
    assert len(values["anomalies"]) + cut["anomalies"] == types
    assert b"\n" not in body
