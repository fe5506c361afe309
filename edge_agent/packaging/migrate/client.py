"""A component that calls the agent or a model: what works, and its recipe for both nuclei."""

from __future__ import annotations

import json
from typing import Any, Dict, List

from edge_agent import __version__
from edge_agent.errors import InvalidConfiguration
from edge_agent.packaging.migrate import manifests, versions
from edge_agent.packaging.migrate.manifests import Draft
from edge_agent.packaging.migrate.migration import Notes, without_values
from edge_agent.packaging.migrate.recipe_keys import defaults
from edge_agent.packaging.migrate.scripts import Untranslatable
from edge_agent.packaging.recipe import AGENT, AGENT_VERSIONS, check

TYPE = "aws.greengrass.generic"


def migrate(recipe: Dict[str, Any], notes: Notes) -> None:
    """Write our recipe of the component, unless a person must change the old one first."""
    name = str(recipe["ComponentName"])
    try:
        version = versions.next_patch(str(recipe.get("ComponentVersion")))
        _check_kind(recipe)
        draft = Draft(notes, name, version, _with_plain_resources(defaults(recipe), name, notes))
        made = check(json.dumps(_ours(recipe, draft), ensure_ascii=False).encode())
    except (Untranslatable, InvalidConfiguration, ValueError) as error:
        notes.migration.refused.add(name)
        notes.person(name, f"No recipe is written. {without_values(error)}")
        return
    notes.migration.versions[name] = version
    notes.changed(
        name, f"A recipe for both nuclei, of version {version}, as a published one can't change.",
        ["edge-agent", "publish", notes.migration.path(name), "--bucket", "BUCKET"],
    )  # fmt: skip
    place = f"{name}/artifacts/{name}/{version}"
    notes.migration.write(f"{name}/recipes/{name}-{version}.json", made.to_json())
    notes.migration.write(f"{name}/recipe.yaml", made.to_yaml())
    for file, content in draft.files.items():
        notes.migration.write(f"{place}/{file}", content.encode())


def _check_kind(recipe: Dict[str, Any]) -> None:
    if recipe.get("ComponentType", TYPE) != TYPE or "Lifecycle" in recipe:
        raise Untranslatable(
            f"Only components of type {TYPE} with a Lifecycle in each manifest run on both nuclei."
        )


def _ours(recipe: Dict[str, Any], draft: Draft) -> Dict[str, Any]:
    return {
        "RecipeFormatVersion": recipe.get("RecipeFormatVersion", ""),
        "ComponentName": draft.name,
        "ComponentVersion": draft.version,
        "ComponentDescription": recipe.get("ComponentDescription") or draft.name,
        "ComponentPublisher": recipe.get("ComponentPublisher", ""),
        "ComponentConfiguration": {"DefaultConfiguration": draft.settings},
        "ComponentDependencies": _dependencies(recipe, draft.notes),
        "Manifests": manifests.rewrite(recipe.get("Manifests", []), draft),
    }


def _dependencies(recipe: Dict[str, Any], notes: Notes) -> Dict[str, Dict[str, str]]:
    ours = {}
    for name, given in recipe.get("ComponentDependencies", {}).items():
        requirement = str(given.get("VersionRequirement", "*"))
        wanted, ours_name = requirement, name
        if name == AGENT:
            ours_name, wanted = notes.migration.agent, _of_agent(requirement, notes)
        elif name in notes.migration.models:
            _check_model(name, requirement, notes)
        else:
            notes.maps(name, "The dependency is kept.")
        ours[ours_name] = {
            "VersionRequirement": wanted,
            "DependencyType": str(given.get("DependencyType", "HARD")).upper(),
        }
    return ours


def _of_agent(requirement: str, notes: Notes) -> str:
    """Return the requirement that our agent meets."""
    agent = notes.migration.agent
    if versions.satisfies(__version__, requirement):
        if agent == AGENT:
            notes.maps(agent, f"The dependency {requirement} takes our agent {__version__}.")
        else:
            notes.changed(AGENT, f"The dependency is on {agent} now.")
        return requirement
    notes.changed(
        AGENT, f"The dependency {requirement} is {agent} {AGENT_VERSIONS} now, as ours is "
        f"{__version__}.",
    )  # fmt: skip
    return AGENT_VERSIONS


def _check_model(name: str, requirement: str, notes: Notes) -> None:
    version = notes.migration.versions[name]
    if versions.satisfies(version, requirement):
        notes.maps(name, f"The dependency {requirement} takes the new model, {version}.")
    else:
        notes.person(
            name, f"The dependency {requirement} doesn't take the new model, {version}: widen it."
        )


def _with_plain_resources(settings: Dict[str, Any], name: str, notes: Notes) -> Dict[str, Any]:
    """Write a `?` in a resource of accessControl as lite wants it."""
    control = settings.get("accessControl")
    if not isinstance(control, dict):
        return settings
    escaped = _escaped(control)
    if escaped != control:
        notes.changed(f"{name} accessControl", "A ? in resources is ${?}; lite refuses it bare.")
    else:
        notes.maps(f"{name} accessControl", "It is kept.")
    return {**settings, "accessControl": escaped}


def _escaped(value: Any, is_resource: bool = False) -> Any:
    if isinstance(value, dict):
        return {key: _escaped(inner, key == "resources") for key, inner in value.items()}
    if isinstance(value, list):
        items: List[Any] = value
        return [_escaped(inner, is_resource) for inner in items]
    if is_resource and isinstance(value, str):
        return value.replace("${?}", "?").replace("?", "${?}")
    return value
