"""The service model is botocore 1.40.60's, without its documentation."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Dict

import pytest

from edge_agent.service.wire import model
from edge_agent.service.wire.model import LOOKOUT_FOR_VISION, service_model
from edge_agent.service.wire.patterns import compiled
from tests import ROOT
from tests.service.aws import PYTHON, needs_aws

FILE = Path(model.__file__).with_name(f"{LOOKOUT_FOR_VISION}.json")
ORIGINAL = """
import json, sys, botocore.loaders
loader = botocore.loaders.Loader()
json.dump(loader.load_service_model("lookoutvision", "service-2", "2020-11-20"), sys.stdout)
"""
PATTERNS = sorted(
    {
        shape["pattern"]
        for shape in json.loads(FILE.read_text())["shapes"].values()
        if "pattern" in shape
    }
)


def without_documentation(value: Any) -> Any:
    """Drop the texts, not a member that has this name."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if key != "documentation" or item == {}}
        return {key: without_documentation(item) for key, item in kept.items()}
    return [without_documentation(item) for item in value] if isinstance(value, list) else value


@needs_aws
def test_the_model_is_the_originals() -> None:
    printed = subprocess.run([str(PYTHON), "-c", ORIGINAL], capture_output=True, check=True).stdout
    original: Dict[str, Any] = json.loads(printed)
    ours = json.loads(FILE.read_text())
    assert list(ours["operations"]) == list(original["operations"])
    for part in ("metadata", "operations", "shapes"):
        assert ours[part] == without_documentation(original[part])
    assert "documentation" not in FILE.read_text()


@needs_aws
def test_the_script_writes_the_file() -> None:
    words = [str(ROOT / "scripts" / "service_model"), "lookoutvision", "2020-11-20"]
    written = subprocess.run(words, capture_output=True, check=True, text=True).stdout
    assert written == FILE.read_text()


def test_all_operations_are_there() -> None:
    assert len(service_model(LOOKOUT_FOR_VISION).operation_names) == 22


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pattern_refuses_some_text(pattern: str) -> None:
    assert not compiled(pattern).fullmatch("\u2603\n")


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        ("train|test", "train", True),
        ("train|test", "trainer", False),  # as a whole, though the pattern has no anchors
        ("^[a-z]+$", "a\n", False),
        (".*", "a\u2028b", False),
        (".*", "a\rb", False),
        (".*\\S.*", "\u00a0", True),  # a space of Unicode, which isn't one of Java's \s
        (".*\\S.*", " \t ", False),
        ("[.]", "x", False),
        ("^([\\p{L}\\p{Z}\\p{N}_.:/=+\\-@]*)$", "Größe 漢字 ٣ \U00020000-@", True),
        ("^([\\p{L}\\p{Z}\\p{N}_.:/=+\\-@]*)$", "a\tb", False),
        ("^([\\p{L}\\p{Z}\\p{N}_.:/=+\\-@]*)$", "a&b", False),
        ("\\p{N}+", "1٣Ⅷ", True),
        ("\\p{N}+", "x", False),
        ("[a-zA-Z0-9-_. ()':,;?]+", "a-b_c (d)", True),
        ("[a-zA-Z0-9-_. ()':,;?]+", "a/b", False),
    ],
)
def test_patterns_are_read_as_java_does(pattern: str, text: str, fits: bool) -> None:
    assert bool(compiled(pattern).fullmatch(text)) is fits
