from __future__ import annotations

import json
from typing import Any, Dict

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent import manifest
from edge_agent.errors import InvalidPackage
from tests import ROOT
from tests.fakes import micro

SCHEMA = ROOT / "docs" / "manifest.schema.json"


def values(task: str = "anomaly_map", **changes: Any) -> Dict[str, Any]:
    return micro.manifest(task, b"model", **changes)


def parse(content: Any) -> manifest.Manifest:
    return manifest.parse(json.dumps(content).encode())


@pytest.mark.parametrize("task", ["classification", "segmentation", "anomaly_map"])
def test_writing_and_reading_back_gives_an_equal_manifest(task: str) -> None:
    first = parse(values(task))
    assert manifest.parse(first.to_json()) == first


@pytest.mark.parametrize("task", ["classification", "segmentation", "anomaly_map"])
def test_what_is_written_fits_the_published_schema(task: str) -> None:
    written = json.loads(parse(values(task)).to_json())
    jsonschema.validate(written, json.loads(SCHEMA.read_text()))


def test_the_published_schema_is_the_one_of_the_code() -> None:
    assert json.loads(SCHEMA.read_text()) == manifest.schema(), "run scripts/protos"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"colour": 1}, "colour: unknown key; known here: build, classes, created"),
        ({"name": "white space"}, "name: string should match"),
        ({"version": 1}, "version: input should be a valid string (it is 1)"),
        ({"input": {"tensor": "x", "height": "64", "width": 64}}, "input.height"),
        ({"input": {"tensor": "x", "height": 64, "width": 64, "std": [1.0, 0.0, 1.0]}}, "std"),
        ({"outputs": {"score": "score"}}, "must name outputs.map"),
        ({"decision": {"threshold": 1.5}}, "decision.threshold"),
        ({"decision": {"treshold": 0.5}}, "decision.treshold: unknown key; known here: calib"),
        ({"classes": [{"name": "x", "color": "green"}]}, "classes.0.color"),
        ({"runtime": {"min_inference_units": 2}}, "max_inference_units is below"),
        ({"runtime": {"batch_sizes": []}}, "runtime.batch_sizes"),
        ({"files": []}, "files must list model.onnx"),
        ({"format": 2}, "format 2; this agent reads up to 1. Update the agent"),
        ({"format": "1"}, "format"),
        ({"statistics": {"normal_scores": {"edges": [0.0], "counts": [1]}}}, "one edge more"),
    ],
)
def test_a_wrong_manifest_is_refused_with_the_field_named(
    changes: Dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidPackage) as caught:
        parse(values(**changes))
    assert words in str(caught.value)


def test_an_unknown_task_is_refused_with_the_known_ones_named() -> None:
    with pytest.raises(InvalidPackage, match="'classification', 'segmentation' or 'anomaly_map'"):
        parse({**values(), "task": "detection"})


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../model.onnx", "a/../../b", "a//b", "./a", "a\\b", ""]
)
def test_a_file_outside_the_package_is_refused(path: str) -> None:
    entry = {"path": path, "size": 1, "sha256": "0" * 64}
    with pytest.raises(InvalidPackage, match=r"files\.1\.path"):
        parse({**values(), "files": [*values()["files"], entry]})


@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
).map(lambda content: json.dumps(content).encode()))  # fmt: skip
def test_any_bytes_are_read_or_refused_with_a_sentence(content: bytes) -> None:
    with pytest.raises(InvalidPackage, match=r"manifest\.json"):
        manifest.parse(content)


def test_an_anomaly_map_without_classes_has_one_in_the_second_colour() -> None:
    (only,) = parse(values()).anomaly_classes
    assert (only.name, only.color) == ("anomaly", "#23A436")
