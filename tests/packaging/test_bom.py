"""Bills of materials: valid by the official schema, complete, and the same on every day."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any, Dict

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from edge_agent.errors import InvalidConfiguration
from edge_agent.manifest import FileEntry, Manifest, parse
from edge_agent.packaging import bom
from tests.fakes import micro

GOLDEN = FileEntry.of("golden/0.png", b"picture")
BILL = FileEntry.of(bom.FILE_NAME, b"bill")


def read(content: bytes) -> Dict[str, Any]:
    """What every bill must be: valid, and each reference names a part that is there."""
    error = JsonStrictValidator(SchemaVersion.V1_5).validate_str(content.decode())
    assert error is None, error
    bill: Dict[str, Any] = json.loads(content)
    parts = [bill["metadata"]["component"], *bill["components"]]
    references = [part["bom-ref"] for part in parts]
    assert len(set(references)) == len(references)
    for entry in bill["dependencies"]:
        assert {entry["ref"], *entry["dependsOn"]} <= set(references)
    return bill


def manifest(**changes: Any) -> Manifest:
    model = micro.graph("classification")
    values = micro.manifest("classification", model, version="7", **changes)
    files = [FileEntry.of("model.onnx", model).model_dump(), GOLDEN.model_dump()]
    return parse(json.dumps({**values, "files": files}).encode())


def test_the_bill_of_a_model_names_its_files_with_their_digests() -> None:
    bill = read(bom.of_model(manifest()))
    model = bill["metadata"]["component"]
    assert (model["type"], model["name"], model["version"]) == (
        "machine-learning-model", "classification", "7",
    )  # fmt: skip
    digest = hashlib.sha256(micro.graph("classification")).hexdigest()
    assert model["hashes"] == [{"alg": "SHA-256", "content": digest}]
    assert model["licenses"] == [{"license": {"name": "unknown"}}]
    assert {part["name"]: part["hashes"][0]["content"] for part in bill["components"]} == {
        "model.onnx": digest,
        "golden/0.png": GOLDEN.sha256,
    }


def test_the_training_data_are_named_by_their_digest_when_it_is_known() -> None:
    known = read(bom.of_model(manifest(source_digest="ab" * 32)))
    unknown = read(bom.of_model(manifest()))
    parameters = known["metadata"]["component"]["modelCard"]["modelParameters"]
    (data,) = parameters["datasets"]
    assert data["contents"]["properties"] == [{"name": "sha256", "value": "ab" * 32}]
    assert "datasets" not in unknown["metadata"]["component"]["modelCard"]["modelParameters"]


def test_a_bill_that_the_package_lists_already_changes_nothing() -> None:
    first = manifest()
    again = first.model_copy(update={"files": (*first.files, BILL)})
    assert bom.of_model(again) == bom.of_model(first)


def wheel(folder: Path, name: str, version: str, *lines: str, tag: str = "py3-none-any") -> Path:
    """A wheel as far as a bill looks at it."""
    file = folder / f"{name.replace('-', '_')}-{version}-{tag}.whl"
    inside = f"{name.replace('-', '_')}-{version}.dist-info/METADATA"
    head = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines]
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{name}/__init__.py", "")
        archive.writestr(inside, "\n".join([*head, "", "# Description\nLicense: in the text\n"]))
    return file


LICENSES = {
    "expression": (
        ["License-Expression: MIT OR Apache-2.0"],
        [{"expression": "MIT OR Apache-2.0"}],
    ),
    "line": (["License: BSD-3-Clause"], [{"license": {"name": "BSD-3-Clause"}}]),
    "classifiers": (
        [
            "License: UNKNOWN",
            "Classifier: Programming Language :: Python",
            "Classifier: License :: OSI Approved :: Apache Software License",
        ],
        [{"license": {"name": "Apache Software License"}}],
    ),
    "whole-text": (
        [
            "License: Copyright (c) somebody",
            "        All rights reserved.",
            "Classifier: License :: OSI Approved :: BSD License",
        ],
        [{"license": {"name": "BSD License"}}],
    ),
    "none": ([], [{"license": {"name": "unknown"}}]),
}


@pytest.mark.parametrize("case", LICENSES)
def test_the_licence_of_a_wheel_comes_from_its_metadata(tmp_path: Path, case: str) -> None:
    lines, licenses = LICENSES[case]
    bill = read(bom.of_agent("agent", "1.0.0", [wheel(tmp_path, "part", "1.0", *lines)]))
    assert bill["components"][0]["licenses"] == licenses


def test_the_bill_of_the_agent_names_its_wheels_and_what_they_need(tmp_path: Path) -> None:
    needs = [
        "Requires-Dist: Other_Part>=1 ; python_version < '3.9'",
        "Requires-Dist: optional ; extra == 'more'",
        "Requires-Dist: not-here",
    ]
    one = wheel(tmp_path, "Main.Part", "2.0+cpu", *needs)
    two = wheel(tmp_path, "other-part", "1.0", tag="cp38-cp38-linux_x86_64")
    three = wheel(tmp_path, "other-part", "1.1", tag="cp311-cp311-linux_x86_64")
    four = wheel(tmp_path, "optional", "1.0")
    bill = read(bom.of_agent("my.Agent", "1.3.0", [four, three, two, one]))
    assert bill["metadata"]["component"]["name"] == "my.Agent"
    assert bill["metadata"]["component"]["version"] == "1.3.0"
    parts = {part["bom-ref"]: part for part in bill["components"]}
    assert parts[one.name]["purl"] == "pkg:pypi/main-part@2.0%2Bcpu"
    assert parts[one.name]["hashes"] == [
        {"alg": "SHA-256", "content": hashlib.sha256(one.read_bytes()).hexdigest()}
    ]
    on = {entry["ref"]: set(entry["dependsOn"]) for entry in bill["dependencies"]}
    assert on["agent"] == {one.name, two.name, three.name, four.name}
    assert on[one.name] == {two.name, three.name}
    assert on[two.name] == set()


def test_the_same_parts_give_the_same_bytes_and_others_another_serial_number(
    tmp_path: Path,
) -> None:
    one, two = wheel(tmp_path, "one", "1"), wheel(tmp_path, "two", "1")
    bill = bom.of_agent("agent", "1.0.0", [one, two])
    assert bom.of_agent("agent", "1.0.0", [two, one]) == bill
    other = bom.of_agent("agent", "1.0.0", [one])
    assert read(other)["serialNumber"] != read(bill)["serialNumber"]


def test_what_isnt_a_wheel_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.whl").write_text("hello")
    with zipfile.ZipFile(tmp_path / "empty.whl", "w"):
        pass
    for name in ("text.whl", "empty.whl"):
        with pytest.raises(InvalidConfiguration, match=rf"{name} isn't a wheel"):
            bom.of_agent("agent", "1.0.0", [tmp_path / name])
