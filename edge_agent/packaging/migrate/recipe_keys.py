"""The keys of a recipe in the case of the reference: classic takes any case, lite only that one."""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

from edge_agent.errors import InvalidConfiguration

Schema = Any  # None: any value; {"*": ...}: keys are names; [..]: a list; {..}: an object

STEP = {"Script": None, "RequiresPrivilege": None, "Skipif": None, "Timeout": None, "Setenv": None}
PHASES = ("bootstrap", "install", "startup", "run", "shutdown", "recover")
ARTIFACT = {
    "URI": None,
    "Unarchive": None,
    "Permission": {"Read": None, "Execute": None},
    "Digest": None,
    "Algorithm": None,
}
MANIFEST = {
    "Name": None,
    "Platform": {"os": None, "architecture": None, "runtime": None},
    "Lifecycle": {**dict.fromkeys(PHASES, STEP), "Setenv": None},
    "Selections": None,
    "Artifacts": [ARTIFACT],
}
RECIPE = {
    "RecipeFormatVersion": None,
    "ComponentName": None,
    "ComponentVersion": None,
    "ComponentDescription": None,
    "ComponentPublisher": None,
    "ComponentType": None,
    "ComponentSource": None,
    "ComponentConfiguration": {"DefaultConfiguration": {"*": None}},
    "ComponentDependencies": {"*": {"VersionRequirement": None, "DependencyType": None}},
    "Manifests": [MANIFEST],
    "Lifecycle": None,
}


def name_of(values: Dict[str, Any]) -> Any:
    """Return the component's name, whatever the key's case; None when there is none."""
    return next((value for key, value in values.items() if key.lower() == "componentname"), None)


def defaults(recipe: Dict[str, Any]) -> Dict[str, Any]:
    """Return the settings of a canonical recipe."""
    settings: Dict[str, Any] = recipe.get("ComponentConfiguration", {}).get(
        "DefaultConfiguration", {}
    )
    return settings


def canonical(values: Dict[str, Any]) -> Tuple[Dict[str, Any], List[str], List[str]]:
    """Return the recipe, the paths of keys whose case was changed, and those of unknown keys.

    Unknown keys are left out, and so is null, except in settings. A step that is only text becomes
    its Script. Raises InvalidConfiguration when a list or an object should stand somewhere.
    """
    renamed: List[str] = []
    unknown: List[str] = []
    return _object(values, RECIPE, "", renamed, unknown), renamed, unknown


def _value(value: Any, schema: Schema, path: str, renamed: List[str], unknown: List[str]) -> Any:
    if schema is None:
        return value
    if schema is STEP and isinstance(value, str):
        return {"Script": value}
    if isinstance(schema, list):
        if not isinstance(value, list):
            raise InvalidConfiguration(f"{path} must be a list.")
        return [
            _value(inner, schema[0], f"{path}.{place}", renamed, unknown)
            for place, inner in enumerate(value)
        ]
    if not isinstance(value, dict):
        raise InvalidConfiguration(f"{path} must be an object.")
    return _object(value, schema, f"{path}.", renamed, unknown)


def _object(
    values: Dict[str, Any], schema: Schema, prefix: str, renamed: List[str], unknown: List[str]
) -> Dict[str, Any]:
    known = {key.lower(): key for key in schema}
    found: Dict[str, Any] = {}
    for given, value in values.items():
        key = given if "*" in schema else known.get(given.lower())
        if key is None:
            unknown.append(prefix + given)
            continue
        if key in found:
            raise InvalidConfiguration(f"{prefix}{key} stands there twice, in different case.")
        if key != given:
            renamed.append(prefix + given)
        inner = schema.get(key, schema.get("*"))
        if value is not None or (inner is None and "*" in schema):
            found[key] = _value(value, inner, prefix + key, renamed, unknown)
    return found
