"""Recipes written to do harm: YAML that grows, runs, hides or says two things at once.

`tests/packaging/migrate/test_documents.py` has the plain kinds; these are the odd ones.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Dict

import pytest

from edge_agent.errors import InvalidConfiguration
from edge_agent.packaging.migrate import documents

MIB = 1024 * 1024
RECIPE = "ComponentName: plant.Camera\nRecipeFormatVersion: 2020-01-25\n"


def refusal(tmp_path: Path, content: str) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    with pytest.raises(InvalidConfiguration) as caught:
        documents.read(path)
    return str(caught.value)


def quadratic() -> str:
    """No nesting: one long text, meant ten thousand times."""
    return f"a: &a {'x' * 10_000}\nb: [{', '.join(['*a'] * 10_000)}]\n"


REFUSED: Dict[str, tuple[str, str]] = {
    "aliases of one long text": (quadratic(), "it uses an alias (*name) too often"),
    "an alias inside itself": ("a: &a [*a]\n", "it uses an alias (*name) inside"),
    "a merge of an alias": ("a: &a {x: 1}\nb:\n  <<: *a\n", "'<<'"),
    "a merge written out": ("a: 1\n<<: {a: 2, b: 3}\n", "'<<'"),
    "merges in a list": ("<<: [{a: 1}, {a: 2}]\n", "'<<'"),
    "a merge by its tag": ("? !!merge x\n: {a: 1}\n", "'<<'"),
    "a key twice in a list's object": ("a:\n- {b: 1, b: 2}\n", "key 'b' stands twice"),
    "a key twice, written in two ways": ('"a": 1\n\'a\': 2\n', "key 'a' stands twice"),
    "a key twice, escaped": ('a: 1\n"\\x61": 2\n', "key 'a' stands twice"),
    "an object of Python": ("a: !!python/object:subprocess.Popen {args: id}\n", "neither"),
    "a new object of Python": ("a: !!python/object/new:os.system [id]\n", "neither"),
    "a name of Python": ("a: !!python/name:os.system\n", "neither"),
    "a module of Python": ("a: !!python/module:antigravity\n", "neither"),
    "a tuple of Python": ("a: !!python/tuple [1]\n", "neither"),
    "a tag by its address": ("a: !<tag:yaml.org,2002:python/name:os.system> x\n", "neither"),
    "a tag of its own": (
        "%TAG ! tag:yaml.org,2002:python/\n---\na: !name:os.system x\n", "neither",
    ),
    "ordered pairs": ("a: !!omap [b: 1]\n", "type tuple"),
    "a date by its tag": ("a: !!timestamp 2020-01-25\n", "type date"),
    "bytes": ("a: !!binary aGk=\n", "type bytes"),
    "a number to the base 60": ("a: " + "1:" * 200_000 + "1\n", "to the base 60"),
    "a fraction to the base 60": ("a: " + "1:" * 200_000 + "1.5\n", "to the base 60"),
    "a time of day": ("a: 12:30\n", "put it in quotes"),
    "a number to the base 60 by its tag": ("a: !!int '1:30'\n", "to the base 60"),
    "a number of many digits": ("a: " + "9" * 900_000 + "\n", "it has a number of 90000"),
    "a number of many digits to the base 16": ("a: 0x" + "f" * 900_000, "it has a number of 90000"),
    "lists in lists": ("a: " + "[" * 200_000, ""),
    "lists in lists, by lines": ("- " * 200_000 + "a\n", ""),
    "keys in keys": ("? " * 200_000 + "a\n", ""),
    "objects in objects": ("a: " + "{a: " * 100_000, ""),
    "a second document": (RECIPE + "---\na: 1\n", "a second document"),
    "10 MiB": (RECIPE + "#" * 10 * MIB, f"more than {MIB} bytes"),
}  # fmt: skip

LIMITED = """
import resource, sys
from pathlib import Path
from edge_agent.errors import InvalidConfiguration
from edge_agent.packaging.migrate import documents
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
try:
    documents.read(Path(sys.argv[1]))
except InvalidConfiguration as error:
    print(error)
else:
    print("taken")
"""


@pytest.mark.parametrize("kind", REFUSED)
def test_a_hostile_recipe_is_refused_in_little_time_and_memory(tmp_path: Path, kind: str) -> None:
    """In a process of its own, with 1 GiB and 20 s of a processor, most of it for its start."""
    content, words = REFUSED[kind]
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith(str(path))
    assert words in done.stdout
    assert len(done.stdout) < 1000


def test_a_recipe_without_an_end_is_read_no_further_than_the_limit() -> None:
    with pytest.raises(InvalidConfiguration, match=f"more than {MIB} bytes"):
        documents.read(Path("/dev/zero"))


def test_nothing_runs_whatever_the_recipe_says(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for tag in ("python/object/apply:os.mkdir", "python/object/new:os.mkdir"):
        refusal(tmp_path, f"a: !!{tag} ['{mark}']\n")
        refusal(tmp_path, f"!!{tag} ['{mark}']\n")
    assert not os.path.lexists(mark)
