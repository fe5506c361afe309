"""JSON in which two readers find two things, or that costs its reader more than it has bytes.

A person who signs, reviews or filters a document may see the first of two values of a key while the
agent goes by the last: every reader of documents that people write refuses the pair and names it.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

from edge_agent import manifest
from edge_agent.config import CommandsSettings, ModelsSettings, Settings, build, load
from edge_agent.errors import EdgeAgentError
from edge_agent.evaluation.label_manifest import LabelManifest, ManifestOptions
from edge_agent.fields import parse_json, read_json
from edge_agent.packaging import recipe
from edge_agent.packaging.graph.inferred_manifest import read_given
from edge_agent.packaging.migrate import documents
from edge_agent.packaging.target import parse as parse_target
from edge_agent.runtime.models.thresholds import ThresholdOverrides
from edge_agent.runtime.packages.deployments import Store
from edge_agent.runtime.packages.records import Record
from edge_agent.runtime.packages.signature import Signature
from edge_agent.runtime.remote.remote_commands import RemoteCommands
from tests.fakes import micro
from tests.packaging.test_recipe import values as a_recipe

Read = Callable[[Path, bytes], Any]


def doubled(document: Any, key: str) -> bytes:
    """Write `document` with one of its keys, at any depth, a second time before the first."""
    text = json.dumps(document)
    place = text.index(f'"{key}":')
    return f'{text[:place]}"{key}": null, {text[place:]}'.encode()


def in_file(read: Callable[[Path], Any]) -> Read:
    def write_and_read(folder: Path, content: bytes) -> Any:
        path = folder / "document.json"
        path.write_bytes(content)
        return read(path)

    return write_and_read


def command(_: Path, content: bytes) -> None:
    commands = RemoteCommands(None, CommandsSettings(allow={"hmi": ("stop",)}), lambda _: None)  # type: ignore[arg-type]
    answer = json.loads(commands.answer("hmi", content))
    assert answer["error"]["status"] == "INVALID_ARGUMENT"
    raise ValueError(answer["error"]["message"])


def logged(read: Callable[[Path], Any]) -> Read:
    """For what is left out with a line in the log; the line becomes the error."""

    def read_it(folder: Path, content: bytes) -> None:
        said: List[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("edge_agent").addHandler(handler)
        try:
            (folder / "document.json").write_bytes(content)
            read(folder)
        finally:
            logging.getLogger("edge_agent").removeHandler(handler)
        raise ValueError(" ".join(said))

    return read_it


MANIFEST = micro.manifest("classification", b"")
SIGNATURE = {"algorithm": "Ed25519", "key": "0" * 16, "signature": "A" * 86 + "=="}
RECORD = {"model_component": "bolts", "package": "/models/bolts", "decision": {"threshold": 0.5}}
THRESHOLDS = {
    "models": [
        {"model": "bolts", "threshold": 0.5, "by": "hmi", "digest": "", "decision": "{}"},
    ]
}
SETTINGS = {"models": {"package_limit_mib": 5}}
SOURCE = {"source-ref": "a.png", "anomaly-label": 1}

# document → (how it is read, a good one, a key in it to write twice)
READERS: Dict[str, Any] = {
    "manifest": (lambda _, content: manifest.parse(content), MANIFEST, "name"),
    "inner-key-of-a-manifest": (lambda _, content: manifest.parse(content), MANIFEST, "threshold"),
    "record": (lambda _, content: read_json(Record, content), RECORD, "package"),
    "record-of-an-agent": (
        logged(lambda folder: Store(ModelsSettings(records=folder)).scan()), RECORD, "package",
    ),
    "decision-of-a-record": (lambda _, content: read_json(Record, content), RECORD, "threshold"),
    "signature": (lambda _, content: read_json(Signature, content), SIGNATURE, "key"),
    "thresholds": (logged(lambda at: ThresholdOverrides(at / "document.json")), THRESHOLDS, "by"),
    "command": (command, {"command": "stop", "model": "bolts"}, "model"),
    "settings": (in_file(lambda path: load(path, {})), SETTINGS, "package_limit_mib"),
    "group-of-settings": (
        lambda _, content: build({}, {}, [f"models={content.decode()}"]),
        SETTINGS["models"], "package_limit_mib",
    ),
    "recipe": (lambda _, content: recipe.check(content), a_recipe(), "ComponentName"),
    "recipe-to-migrate": (in_file(documents.read), a_recipe(), "ComponentName"),
    "rest-of-a-manifest": (in_file(read_given), {"name": "bolts"}, "name"),
    "compiler-options": (
        lambda _, content: parse_target("jetson_xavier", None, content.decode()),
        {"gpu-code": "sm_72"}, "gpu-code",
    ),
    "labels": (
        in_file(lambda path: LabelManifest.read(path, ManifestOptions())), SOURCE, "anomaly-label",
    ),
}  # fmt: skip


@pytest.mark.parametrize("document", READERS)
def test_a_key_that_stands_twice_is_refused_by_its_name(tmp_path: Path, document: str) -> None:
    read, good, key = READERS[document]
    with pytest.raises((ValueError, EdgeAgentError)) as error:
        read(tmp_path, doubled(good, key))
    assert f"key {key!r} appears twice in one object" in str(error.value)


def test_a_key_written_in_two_ways_is_the_same_key() -> None:
    with pytest.raises(ValueError, match="key 'name' appears twice"):
        parse_json('{"name": 1, "n\\u0061me": 2}')


def test_the_same_key_in_two_objects_is_nothing_wrong() -> None:
    assert parse_json('[{"a": 1, "b": {"a": 2}}, {"a": 3}]') == [{"a": 1, "b": {"a": 2}}, {"a": 3}]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_numbers_that_arent_finite_are_refused_where_no_bound_would_catch_them(number: str) -> None:
    calibrated = json.dumps({**MANIFEST, "decision": {"calibration": {"scale": 1, "shift": 0}}})
    with pytest.raises(EdgeAgentError, match=r"manifest\.json isn't JSON: .* isn't finite"):
        manifest.parse(calibrated.replace('"shift": 0', f'"shift": {number}').encode())


@pytest.mark.parametrize("content", ["[" * 500_000, '{"a":' * 200_000, "[" * 900 + "]" * 900])
def test_deep_json_is_refused_with_a_sentence(content: str) -> None:
    for kind in (Settings, Record, Signature):
        with pytest.raises(ValueError, match=r"nested|recursion|document"):
            read_json(kind, content.encode())


def test_a_million_digits_are_refused_at_once() -> None:
    """Converting them would take minutes on an interpreter without a limit of its own."""
    began = time.monotonic()
    with pytest.raises(EdgeAgentError, match="a number has 1000000 digits"):
        manifest.parse(b'{"format": ' + b"9" * 1_000_000 + b"}")
    assert time.monotonic() - began < 2.0
