"""`edge-agent migrate`: recipes, deployments and packaging jobs of the original → ours."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Callable, List, Tuple

from rich.console import Console
from rich.markup import escape

from edge_agent.errors import InvalidConfiguration
from edge_agent.manifest import NAME_PATTERN
from edge_agent.packaging.aws.deployment import TARGET, check
from edge_agent.packaging.json_document import Document
from edge_agent.packaging.migrate import agent, client, deployment, documents, models
from edge_agent.packaging.migrate.canonical import CanonicalRecipe, defaults, name_of
from edge_agent.packaging.migrate.migration import Migration, Notes
from edge_agent.packaging.recipe import AGENT

Step = Callable[[], None]
OURS = "Records"  # a setting of our model components
WORDS = {"maps": "works", "changed": "changed", "person": "to do"}
COLOURS = {"maps": "green", "changed": "cyan", "person": "yellow"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of `migrate`."""
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE",
        help="recipes, deployments, packaging jobs of the original; JSON or YAML",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="to write")
    parser.add_argument("--target-arn", default="", metavar="ARN", help="of the deployments")
    parser.add_argument(
        "--agent-component", default=AGENT, metavar="NAME", help=f"ours (default: {AGENT})"
    )
    parser.add_argument("--json", action="store_true", help="the report as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Migrate and report; 1 when something is left for a person to do."""
    out: Path = arguments.out
    if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        raise InvalidConfiguration(f"{out} exists and isn't an empty folder; choose another --out.")
    if arguments.target_arn:
        check(arguments.target_arn, TARGET, "--target-arn")
    migration = Migration(out, arguments.agent_component, arguments.target_arn)
    migrate(arguments.files, migration)
    for name, content in migration.files.items():
        _write(out / name, content)
    _show(migration, arguments.json)
    return 1 if migration.needs_a_person else 0


def migrate(files: List[Path], migration: Migration) -> None:
    """Find what becomes of every file: models first, as the others name them, deployments last."""
    steps, refusals = [], []
    for path in files:
        try:
            steps.append(_step(documents.read(path), migration.of(str(path)), path))
        except InvalidConfiguration as error:
            refusals.append(str(error))
    if refusals:
        raise InvalidConfiguration("\n".join(refusals))
    for _, step in sorted(steps, key=lambda found: found[0]):
        step()


def _step(values: Document, notes: Notes, path: Path) -> Tuple[int, Step]:
    """Return when a file's turn is, and what is to be done with it."""
    try:
        return _step_of(values, notes)
    except InvalidConfiguration as error:
        raise InvalidConfiguration(f"{path}: {error}") from None


def _step_of(values: Document, notes: Notes) -> Tuple[int, Step]:
    if name_of(values) is not None:
        return _recipe_step(values, notes)
    job = models.job_of(values)
    if job:
        return 0, lambda: models.migrate_job(job, notes)
    given = deployment.read(values)
    if given is not None:
        return 2, lambda: deployment.migrate(given, notes)
    if agent.matches(values):
        return 1, lambda: agent.migrate(values, notes)
    raise InvalidConfiguration(
        "It can't be migrated. Expected a recipe (ComponentName), a deployment "
        "(components, componentsToMerge), a packaging job (ModelPackagingDescription) or the "
        "agent's configuration (Socket)."
    )


def _recipe_step(values: Document, notes: Notes) -> Tuple[int, Step]:
    canonical = CanonicalRecipe.of(values)
    recipe = canonical.recipe
    name = str(recipe.get("ComponentName"))
    if not re.fullmatch(NAME_PATTERN, name) or not name.strip("."):
        raise InvalidConfiguration(
            f"ComponentName {name!r} isn't a valid name. Of a project of gdk, give the recipe that "
            "it builds, in greengrass-build/recipes."
        )
    if canonical.renamed:
        few = _few(list(dict.fromkeys(canonical.renamed)))
        notes.changed(name, f"Keys in the reference's case, as lite needs them: {few}.")
    for place in canonical.moved:
        notes.changed(f"{name} {place}", "It has its part of the recipe's Lifecycle now.")
    for key in dict.fromkeys(canonical.unknown):
        notes.person(f"{name} {key}", "Left out: recipes have no such key on both nuclei.")
    if name == AGENT:
        agent.component(notes)
        return 1, lambda: agent.migrate(defaults(recipe), notes)
    if OURS in defaults(recipe):
        notes.maps(name, "It is a model component of ours already.")
        return 0, lambda: None
    if models.matches(recipe):
        return 0, lambda: models.migrate(recipe, notes)
    return 1, lambda: client.migrate(recipe, notes)


def _few(paths: List[str]) -> str:
    shown = ", ".join(paths[:5])
    return shown if len(paths) <= 5 else f"{shown} and {len(paths) - 5} more"


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise InvalidConfiguration(f"{path} can't be written: {error.strerror}.") from None


def _show(migration: Migration, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(migration.to_json(), indent=2, ensure_ascii=False) + "\n")
        return
    source = ""
    console = Console(soft_wrap=True, highlight=False)
    for found in migration.findings:
        if found.source != source:
            source = found.source
            console.print(f"[bold]{escape(source)}")
        word = f"[{COLOURS[found.status]}]{WORDS[found.status]:7}[/]"
        console.print(f"  {word}  {escape(f'{found.thing}: {found.message}')}")
        for line in found.commands:
            console.print(f"             {escape(line)}")
    for file in migration.paths:
        console.print(f"Written: {escape(file)}")
