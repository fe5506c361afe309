"""`edge-agent migrate` reads what it is given, reports, and writes only what works."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.cli import main
from edge_agent.errors import EdgeAgentError
from edge_agent.packaging.aws.folder import ComponentFolder
from edge_agent.packaging.migrate.migration import Migration
from edge_agent.packaging.recipe import AGENT, check
from tests.packaging.migrate.originals import client, deployment, job, migrated, model


def write(tmp_path: Path, **documents: Any) -> Dict[str, str]:
    paths = {}
    for name, document in documents.items():
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(document))
        paths[name] = str(path)
    return paths


def test_everything_of_a_line_is_migrated_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = write(tmp_path, line=deployment(), camera=client(), bolts=model(), job=job())
    out = tmp_path / "out"

    code = main(["migrate", *files.values(), "--out", str(out)])

    assert code == 1  # the models have to be trained
    shown = capsys.readouterr().out
    assert "to do    plant.Bolts: The model can't be carried over" in shown
    assert f"edge-agent deploy --from {out / 'line.deployment.json'}" in shown
    written = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert written == [
        "line.deployment.json",
        "plant.Camera/recipe.yaml",
        "plant.Camera/recipes/plant.Camera-1.0.4.json",
    ]
    check((out / written[2]).read_bytes())
    assert ComponentFolder.read(out / "plant.Camera").version == "1.0.4"  # as publish reads it


def test_nothing_left_to_do_is_exit_code_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = write(tmp_path, camera=client())

    assert main(["migrate", files["camera"], "--out", str(tmp_path / "out"), "--json"]) == 0

    report = json.loads(capsys.readouterr().out)
    assert {finding["status"] for finding in report["findings"]} == {"maps", "changed"}
    assert report["files"] == sorted(
        str(path) for path in (tmp_path / "out").rglob("*") if path.is_file()
    )


def test_the_agents_recipe_gives_our_components_configuration(tmp_path: Path) -> None:
    socket = {"Socket": "unix:///run/l4v.sock"}
    recipe = {**client(), "ComponentName": AGENT}
    recipe["ComponentConfiguration"] = {"DefaultConfiguration": socket}

    for document in (recipe, socket, {"socket": socket["Socket"]}):
        migration = migrated(tmp_path, document)
        assert json.loads(migration.files[f"{AGENT}.configuration.json"]) == socket
        assert not migration.needs_a_person


def test_a_model_component_of_ours_is_left_alone(tmp_path: Path) -> None:
    ours = {"DefaultConfiguration": {"Autostart": False, "Records": "models.d"}}
    migration = migrated(tmp_path, model(ComponentConfiguration=ours))

    assert not migration.needs_a_person
    assert not migration.files


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({"a": 1}, "can't be migrated. Expected a recipe"),
        ({"Socket": "unix:///a", "Other": 1}, "can't be migrated. Expected a recipe"),
        ({"ComponentName": "../../etc"}, "isn't a valid name"),
        ({"ComponentName": ".."}, "isn't a valid name"),
        ({"ComponentName": "{COMPONENT_NAME}"}, "greengrass-build/recipes"),
        ({"ComponentName": "a", "Manifests": {}}, "Manifests must be a list"),
        ({"ComponentName": "a", "Manifests": [1]}, "Manifests.0 must be an object"),
        ({"ComponentName": "a", "componentname": "b"}, "twice, in different case"),
    ],
)
def test_what_cant_be_told_is_an_error(
    document: Dict[str, Any], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = write(tmp_path, document=document)

    assert main(["migrate", files["document"], "--out", str(tmp_path / "out")]) == 2

    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_output_folder_in_use_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = write(tmp_path, camera=client())

    assert main(["migrate", files["camera"], "--out", str(tmp_path)]) == 2
    assert "isn't an empty folder" in capsys.readouterr().err


def test_a_target_that_is_no_arn_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = write(tmp_path, camera=client())
    words = ["--out", str(tmp_path / "out"), "--target-arn", "presses"]

    assert main(["migrate", files["camera"], *words]) == 2
    assert capsys.readouterr().err == (
        "edge-agent: --target-arn must be the ARN of a thing or a group, such as "
        "arn:aws:iot:eu-west-1:123456789012:thinggroup/NAME.\n"
    )
    assert not (tmp_path / "out").exists()


def test_two_files_that_would_become_one_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = write(tmp_path, one=client(), two=client(ComponentDescription="Another"))

    assert main(["migrate", *files.values(), "--out", str(tmp_path / "out")]) == 2
    assert "migrate them one by one" in capsys.readouterr().err


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 700) | st.text(max_size=8)
    | st.sampled_from(["linux", "*", "1.0.0", "{artifacts:path}/a", "a; b", "/amd64|a/", AGENT]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(min_size=1, max_size=8), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def paths(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a document."""
    if not isinstance(value, (dict, list)):
        return [way]
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    below = [found for key, part in inner for found in paths(part, (*way, key))]
    return [way, *below] if way else below


@st.composite
def damaged(draw: st.DrawFn) -> Any:
    """One of the originals with up to three places replaced by something else."""
    original = draw(st.sampled_from([client(), model(), deployment(), job()]))
    document = json.loads(json.dumps(original))
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(paths(document)))
        place = document
        for key in way:
            place = place[key]
        place[last] = draw(plain)
    return document


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(document=damaged())
def test_whatever_comes_only_what_works_is_written(document: Any, tmp_path: Path) -> None:
    try:
        migration: Migration = migrated(tmp_path, document)
    except EdgeAgentError:
        return
    assert migration.findings
    for name in migration.files:
        assert not name.startswith("/")
        assert ".." not in Path(name).parts
