"""A recipe as both nuclei read it: keys in the reference's case, in each manifest the lifecycle it
runs.

Classic takes keys of any case and a lifecycle of the whole recipe, lite neither.
"""  # noqa: D205

from __future__ import annotations

from dataclasses import dataclass, field
from typing import List, Mapping, Optional, Set

from edge_agent.errors import InvalidConfiguration
from edge_agent.fields import kind_of
from edge_agent.packaging.json_document import Document, inner, objects

# Schemas of recipes. None: any value; {"*": ...}: keys are names; [..]: a list; {..}: an object
STEP = {"Script": None, "RequiresPrivilege": None, "Skipif": None, "Timeout": None, "Setenv": None}
PHASES = ("bootstrap", "install", "startup", "run", "shutdown", "recover")
ARTIFACT = {
    "URI": None,
    "Unarchive": None,
    "Permission": {"Read": None, "Execute": None},
    "Digest": None,
    "Algorithm": None,
}
LIFECYCLE = {**dict.fromkeys(PHASES, STEP), "Setenv": None}
MANIFEST = {
    "Name": None,
    "Platform": {"os": None, "architecture": None, "runtime": None},
    "Lifecycle": LIFECYCLE,
    "Selections": [None],
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
ALL = "all"  # what a manifest selects of the recipe's lifecycle when nothing else is there


@dataclass
class CanonicalRecipe:
    """A recipe without unknown keys, and without null except in settings.

    A step that is only text has become its Script. `renamed` are the paths of keys whose case was
    changed, `unknown` those left out, `moved` the manifests whose lifecycle was the recipe's own.
    """

    recipe: Document = field(default_factory=dict)
    renamed: List[str] = field(default_factory=list)
    unknown: List[str] = field(default_factory=list)
    moved: List[str] = field(default_factory=list)
    _problems: List[str] = field(default_factory=list)

    @classmethod
    def of(cls, values: Document) -> CanonicalRecipe:
        """Read a recipe. Raises InvalidConfiguration: all that has the wrong form, by its path."""
        made = cls()
        made.recipe = made._object(values, RECIPE, "")
        common = made.recipe.pop("Lifecycle", None) or {}
        if not isinstance(common, dict):
            made._refuse("Lifecycle", "an object", common)
        elif not made._problems:
            made._move(common)
        if made._problems:
            raise InvalidConfiguration(" ".join(dict.fromkeys(made._problems)))
        return made

    def _move(self, common: Document) -> None:
        """Give each manifest without a lifecycle its part of the recipe's own."""
        manifests = objects(self.recipe, "Manifests")
        chosen = {place: _selections(manifest) for place, manifest in enumerate(manifests)}
        known = {ALL, *(word for words in chosen.values() for word in words)}
        for place, manifest in enumerate(manifests):
            if common and not manifest.get("Lifecycle"):  # else classic doesn't look at `common`
                part = _selected(common, known, chosen[place])
                manifest["Lifecycle"] = self._value(part or {}, LIFECYCLE, "Lifecycle")
                self.moved.append(f"Manifests.{place}")

    def _value(self, value: object, schema: object, path: str) -> object:
        if schema is None:
            return value
        if schema is STEP and isinstance(value, str):
            return {"Script": value}
        if isinstance(schema, list):
            if not isinstance(value, list):
                return self._refuse(path, "a list", value)
            return [
                self._value(entry, schema[0], f"{path}.{place}")
                for place, entry in enumerate(value)
            ]
        if not isinstance(value, dict) or not isinstance(schema, dict):
            expected = "an object with Script, or a script" if schema is STEP else "an object"
            return self._refuse(path, expected, value)
        return self._object(value, schema, f"{path}.")

    def _object(self, values: Document, schema: Mapping[str, object], prefix: str) -> Document:
        known = {key.lower(): key for key in schema}
        found: Document = {}
        for given, value in values.items():
            key = given if "*" in schema else known.get(given.lower())
            if key is None:
                self.unknown.append(prefix + given)
                continue
            if key in found:
                self._problems.append(f"{prefix}{key} stands there twice, in different case.")
            if key != given:
                self.renamed.append(prefix + given)
            rule = schema.get(key, schema.get("*"))
            if value is None and "*" in schema and rule is not None:
                value = {}  # a dependency without any wish
            if value is not None or "*" in schema:
                found[key] = self._value(value, rule, prefix + key)
        return found

    def _refuse(self, path: str, expected: str, value: object) -> object:
        self._problems.append(f"{path} must be {expected}, not {kind_of(value)}.")
        return None


def name_of(values: Document) -> object:
    """Return the component's name, whatever the key's case; None when there is none."""
    return next((value for key, value in values.items() if key.lower() == "componentname"), None)


def defaults(recipe: Document) -> Document:
    """Return the settings of a canonical recipe."""
    return inner(inner(recipe, "ComponentConfiguration"), "DefaultConfiguration")


def _selections(manifest: Document) -> List[str]:
    selections = manifest.get("Selections")
    return [*map(str, selections)] if isinstance(selections, list) else []


def _selected(lifecycle: object, known: Set[str], chosen: List[str]) -> Optional[object]:
    """Return the part of the recipe's lifecycle that is for a manifest; None if there is none.

    At any level, an object with selection keys stands for the value of the first one chosen.
    """
    if not isinstance(lifecycle, dict):
        return lifecycle
    if known & set(lifecycle):
        key = next((key for key in (*chosen, ALL) if key in lifecycle), None)
        return None if key is None else _selected(lifecycle[key], known, chosen)
    parts = {key: _selected(value, known, chosen) for key, value in lifecycle.items()}
    return {key: part for key, part in parts.items() if part is not None}
