"""Files are read whatever wrote them, and nothing in them can hurt."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from edge_agent.errors import InvalidConfiguration
from edge_agent.packaging.migrate import documents

RECIPE = "ComponentName: plant.Camera\nRecipeFormatVersion: 2020-01-25\nVersion: 1.0\n"


def read(tmp_path: Path, content: bytes) -> object:
    path = tmp_path / "file"
    path.write_bytes(content)
    return documents.read(path)


def refusal(tmp_path: Path, content: bytes) -> str:
    with pytest.raises(InvalidConfiguration) as caught:
        read(tmp_path, content)
    return str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        RECIPE.encode(),
        b"\xef\xbb\xbf" + RECIPE.encode(),
        RECIPE.replace("\n", "\r\n").encode(),
        b"---\n" + RECIPE.encode(),
        b'\xef\xbb\xbf{"ComponentName": "plant.Camera",\r\n'
        b'"RecipeFormatVersion": "2020-01-25", "Version": 1.0}',
        RECIPE.replace("\n", "\r\n").encode("utf-16"),  # as PowerShell's > writes it
        b"# of line 4\n" + RECIPE.replace("\n", "  # kept\n").encode(),
        b"ComponentName: &name plant.Camera\n" + RECIPE.partition("\n")[2].encode(),
    ],
)
def test_json_and_yaml_of_any_editor_hold_the_same(tmp_path: Path, content: bytes) -> None:
    expected = {"ComponentName": "plant.Camera", "RecipeFormatVersion": "2020-01-25"}

    assert read(tmp_path, content) == {**expected, "Version": 1.0}


def test_an_answer_of_get_component_holds_a_recipe(tmp_path: Path) -> None:
    answer = {"recipeOutputFormat": "YAML", "recipe": base64.b64encode(RECIPE.encode()).decode()}

    assert read(tmp_path, json.dumps(answer).encode())["ComponentName"] == "plant.Camera"  # type: ignore[index]
    assert "isn't base64" in refusal(tmp_path, json.dumps({**answer, "recipe": "?"}).encode())


def test_a_request_to_create_a_component_holds_a_recipe(tmp_path: Path) -> None:
    for recipe in (RECIPE, base64.encodebytes(RECIPE.encode()).decode()):
        request = json.dumps({"inlineRecipe": recipe, "tags": {}}).encode()
        assert read(tmp_path, request)["ComponentName"] == "plant.Camera"  # type: ignore[index]


def test_an_alias_stands_for_what_it_names(tmp_path: Path) -> None:
    text = b"a: &rate {fast: 5}\nb: [*rate, *rate]\n"
    assert read(tmp_path, text) == {"a": {"fast": 5}, "b": [{"fast": 5}, {"fast": 5}]}


def bomb() -> bytes:
    """Nine lines that stand for a billion words."""
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    for level in range(1, 9):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]")
    return "\n".join(lines).encode()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (bomb(), "it uses an alias"),
        (b"a: &a\n  b: *a\n", "it uses an alias"),
        (b"!!python/object/apply:os.system ['true']", "neither JSON nor YAML"),
        (b"a: !!binary aGk=", "a value of type bytes"),
        (b"a: !!set {b}", "a value of type set"),
        (b"a: .nan", "isn't finite"),
        (b'{"a": Infinity}', "isn't finite"),
        (b"on: 1", "key True isn't text; put it in quotes"),
        (b"1: 1", "key 1 isn't text"),
        (b"[a]: 1", ""),
        (b"a: 1\na: 2", "key 'a' stands twice"),
        (b'{"a": 1, "a": 2}', "key 'a' appears twice"),
        (b'{"a": ', "isn't JSON"),
        (b"a: [1", "neither JSON nor YAML at line"),
        (b"a: 1\n---\nb: 2", "it holds a second document at line 2"),
        (b"a: &b {c: 1}\nd:\n  <<: *b", "it merges objects ('<<') at line 3"),
        (b"a: [1, {b: .inf}]", "a.1.b: it has a number that isn't finite"),
        (b"\xff\xfe", "must hold one object"),
        (b"a: \xff", "it isn't UTF-8 text (byte 3); save it as UTF-8"),
        (b"\x00", "neither JSON nor YAML"),
        (b"[1]", "must hold one object, not a list"),
        (b"", "must hold one object, not nothing"),
        (b"[" * 100_000, ""),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "nested"),
        (b"a: " + b"[" * 60 + b"]" * 60, "nested more than 40 levels deep"),
        (b" " * (1024 * 1024 + 1), "more than 1048576 bytes"),
    ],
)
def test_what_isnt_plain_values_is_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    assert sentence in refusal(tmp_path, content)


def test_a_refusal_cites_no_value(tmp_path: Path) -> None:
    assert "hunter2" not in refusal(tmp_path, b"password: hunter2\n  : [")
    assert "hunter2" not in refusal(tmp_path, b'{"password": "hunter2"')


def test_a_file_that_isnt_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match="gone: No such file"):
        documents.read(tmp_path / "gone")
