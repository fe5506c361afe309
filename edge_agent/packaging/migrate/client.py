"""A component that calls the agent or a model: what works, and its recipe for both nuclei."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from typing import Callable, Dict, List, Optional, Pattern, Tuple, TypeVar

from edge_agent import __version__
from edge_agent.errors import InvalidConfiguration
from edge_agent.packaging.json_document import Document, inner, objects
from edge_agent.packaging.migrate import artifacts, versions
from edge_agent.packaging.migrate.canonical import defaults
from edge_agent.packaging.migrate.migration import Notes, without_values
from edge_agent.packaging.migrate.scripts import Untranslatable, translate
from edge_agent.packaging.recipe import AGENT, AGENT_VERSIONS, Recipe, check

T = TypeVar("T")

TYPE = "aws.greengrass.generic"
ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "arm64": "aarch64", "aarch64": "aarch64"}
ANY = ("*", "all", "")
LONGEST_EXPRESSION = 100  # characters
REPEATS = 4  # in an expression; (.*)*, nested further, takes ages even for so short a name
TIMEOUT_S = 120  # of install, where none is given
NOTHING: Document = {"Script": "exec true"}  # in place of a step that has to be changed first
IGNORED = {
    "bootstrap": "Nucleus lite runs it only in part: do it in install.",
    "shutdown": "Nucleus lite never runs it: end the program at SIGTERM, within 5 s.",
    "recover": "Nucleus lite never runs it: clean up when the program starts.",
}


def migrate(recipe: Document, notes: Notes) -> None:
    """Write our recipe of the component, unless a person must change the old one first."""
    name = str(recipe["ComponentName"])
    draft = MigratedComponent(notes, name, _with_plain_resources(defaults(recipe), name, notes))
    made = _made(recipe, draft)
    if made is None or draft.problems:
        notes.migration.refused.add(name)
        notes.person(name, f"No recipe is written. {' '.join(draft.problems)}")
        return
    version = notes.migration.versions[name] = draft.version
    notes.changed(
        name, f"A recipe for both nuclei, of version {version}, as a published one can't change.",
        ["edge-agent", "publish", notes.migration.path(name), "--bucket", "BUCKET"],
    )  # fmt: skip
    place = f"{name}/artifacts/{name}/{version}"
    notes.migration.write(f"{name}/recipes/{name}-{version}.json", made.to_json())
    notes.migration.write(f"{name}/recipe.yaml", made.to_yaml())
    for file, content in draft.files.items():
        notes.migration.write(f"{place}/{file}", content.encode())


def _made(recipe: Document, draft: MigratedComponent) -> Optional[Recipe]:
    """Return our recipe; `draft.problems` are all reasons why there is none."""
    if str(recipe.get("ComponentType", TYPE)).lower() != TYPE:
        draft.problems.append(
            f"ComponentType: only components of type {TYPE} run on both nuclei; give this one a "
            "run script and that type."
        )
    ours = _ours(recipe, draft)
    if not ours["Manifests"]:
        draft.problems.append(
            f"Manifests: none of the {len(objects(recipe, 'Manifests'))} given is for Linux on "
            f"{' or '.join(sorted(set(ARCHITECTURES.values())))}; add one, with its Lifecycle."
        )
        return None
    content = json.dumps(ours, ensure_ascii=False).encode()
    return draft.attempt("", lambda: check(content), None)


def _ours(recipe: Document, draft: MigratedComponent) -> Document:
    draft.version = draft.attempt(
        "ComponentVersion: ", lambda: versions.next_patch(_version(recipe)), draft.version
    )
    return {
        "RecipeFormatVersion": recipe.get("RecipeFormatVersion", ""),
        "ComponentName": draft.name,
        "ComponentVersion": draft.version,
        "ComponentDescription": recipe.get("ComponentDescription") or draft.name,
        "ComponentPublisher": recipe.get("ComponentPublisher", ""),
        "ComponentConfiguration": {"DefaultConfiguration": draft.settings},
        "ComponentDependencies": _dependencies(recipe, draft),
        "Manifests": _manifests(recipe, draft),
    }


def _version(recipe: Document) -> str:
    if "ComponentVersion" not in recipe:
        raise Untranslatable("it is missing; write one, such as 1.0.0.")
    return str(recipe["ComponentVersion"])


def _dependencies(recipe: Document, draft: MigratedComponent) -> Dict[str, Document]:
    ours: Dict[str, Document] = {}
    dependencies = inner(recipe, "ComponentDependencies")
    for name in dependencies:
        given = inner(dependencies, name)
        if name == artifacts.DOCKER_MANAGER:
            draft.notes.changed(name, "The dependency is left out: nucleus lite has no such thing.")
            continue
        new = draft.notes.migration.agent if name == AGENT else name
        made = _Dependency(name, given, draft.notes)
        ours[new] = draft.attempt(f"ComponentDependencies.{name}: ", made.migrate, {})
    return {name: dependency for name, dependency in ours.items() if dependency}


@dataclass
class _Dependency:
    name: str
    given: Document
    notes: Notes

    def migrate(self) -> Document:
        """Return ours. Raises Untranslatable, ValueError."""
        requirement = str(self.given.get("VersionRequirement", "*"))
        kind = str(self.given.get("DependencyType", "HARD")).upper()
        if kind not in ("HARD", "SOFT"):
            raise Untranslatable("DependencyType must be HARD or SOFT.")
        if self.name == AGENT:
            requirement = _of_agent(requirement, self.notes)
        elif self.name in self.notes.migration.models:
            _check_model(self.name, requirement, self.notes)
        else:
            self.notes.maps(self.name, "The dependency is kept.")
            return {"VersionRequirement": requirement, "DependencyType": kind}
        if kind == "HARD":
            self.notes.changed(
                self.name,
                "The dependency is SOFT now: with HARD, nucleus lite stops this component for good "
                "when the other one ends with an error. It may start first, so it must try again "
                "until it is answered.",
            )
        return {"VersionRequirement": requirement, "DependencyType": "SOFT"}


def _of_agent(requirement: str, notes: Notes) -> str:
    """Return the requirement that our agent meets."""
    agent = notes.migration.agent
    if versions.satisfies(__version__, requirement):
        if agent == AGENT:
            notes.maps(agent, f"The dependency {requirement} includes our agent {__version__}.")
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
        notes.maps(name, f"The dependency {requirement} includes the new model, {version}.")
    else:
        notes.person(
            name, f"The dependency {requirement} excludes the new model, {version}: extend it."
        )


def _with_plain_resources(settings: Document, name: str, notes: Notes) -> Document:
    """Write a `?` in a resource of accessControl as lite needs it."""
    control = settings.get("accessControl")
    if not isinstance(control, dict):
        return settings
    escaped = _escaped(control)
    if escaped != control:
        notes.changed(f"{name} accessControl", "A ? in resources is ${?}; lite refuses it bare.")
    else:
        notes.maps(f"{name} accessControl", "It is kept.")
    return {**settings, "accessControl": escaped}


def _escaped(value: object, is_resource: bool = False) -> object:
    if isinstance(value, dict):
        return {key: _escaped(entry, key == "resources") for key, entry in value.items()}
    if isinstance(value, list):
        return [_escaped(entry, is_resource) for entry in value]
    if is_resource and isinstance(value, str):
        return value.replace("${?}", "?").replace("?", "${?}")
    return value


@dataclass
class MigratedComponent:
    """The component that is being written; `files` are its new artifacts.

    `problems` are sentences about what a person must change first.
    """

    notes: Notes
    name: str
    settings: Document
    version: str = "0.0.0"
    problems: List[str] = field(default_factory=list)
    files: Dict[str, str] = field(default_factory=dict)
    _numbers: Dict[str, int] = field(default_factory=lambda: defaultdict(int))  # of files
    _names: Dict[Tuple[str, str], str] = field(default_factory=dict)  # by phase and content

    def attempt(self, where: str, make: Callable[[], T], otherwise: T) -> T:
        """Return what is made; when that fails, note why and go on with `otherwise`."""
        try:
            return make()
        except (Untranslatable, InvalidConfiguration, ValueError) as error:
            self.problems.append(f"{where}{without_values(error)}")
            return otherwise

    def name_of(self, phase: str, content: str) -> str:
        """Return the name of the file with what a phase does; empty for no content."""
        if not content:
            return ""
        name = self._names.get((phase, content))
        if name is None:
            number = 1 + self._numbers[phase]
            self._numbers[phase] = number
            name = f"{phase}.sh" if number == 1 else f"{phase}-{number}.sh"
            self._names[phase, content] = name
            self.files[name] = content
        return name


def _manifests(recipe: Document, draft: MigratedComponent) -> List[Document]:
    """Return our manifests, one an architecture."""
    ours: List[Document] = []
    for place, manifest in enumerate(objects(recipe, "Manifests")):
        at, where = f"Manifests.{place}", f"{draft.name} Manifests.{place}"
        platform = inner(manifest, "Platform")
        nowhere: List[str] = []
        make = partial(_architectures, platform, where, draft.notes)
        found = draft.attempt(f"{at}.", make, nowhere)
        if found:
            steps, files = _lifecycle(inner(manifest, "Lifecycle"), at, draft)
            body = {"Lifecycle": steps, "Artifacts": [*_artifacts(manifest, at, draft), *files]}
        for architecture in found:
            platform = {"os": "linux", "runtime": "*", "architecture": architecture}
            ours.append({"Platform": platform, **body})
    return ours


def architectures_of(platform: Document) -> List[str]:
    """Return which of our architectures a manifest is for. Raises Untranslatable."""
    found = _matching(platform.get("architecture", "*"), list(ARCHITECTURES))
    return list(dict.fromkeys(ARCHITECTURES[name] for name in found))


def _architectures(platform: Document, where: str, notes: Notes) -> List[str]:
    if not _matching(platform.get("os", "*"), ["linux"]):
        notes.changed(where, "Left out: it isn't for Linux, and the agent runs only there.")
        return []
    architectures = architectures_of(platform)
    if not architectures:
        notes.changed(where, "Left out: the agent runs on amd64 and aarch64 only.")
    elif "runtime" not in platform or len(architectures) > 1:
        notes.changed(where, f"Platform: runtime * and architecture {' and '.join(architectures)}.")
    return architectures


def _matching(pattern: object, names: List[str]) -> List[str]:
    """Return the names that a platform's value stands for: one, any, or /a regular expression/."""
    text = str(pattern)
    if text in ANY:
        return names
    if len(text) > 1 and text.startswith("/") and text.endswith("/"):
        return [name for name in names if _expression(text[1:-1]).fullmatch(name)]
    return [name for name in names if name == text]


def _expression(text: str) -> Pattern[str]:
    """Read a regular expression whose match takes no time; others' recipes may have any."""
    if len(text) > LONGEST_EXPRESSION or "{" in text or len(re.findall(r"[*+?]", text)) > REPEATS:
        raise Untranslatable(
            f"Platform: /{text[:LONGEST_EXPRESSION]}/ is more than a choice of architectures; "
            "name them."
        )
    try:
        return re.compile(text)
    except re.error:
        raise Untranslatable(f"Platform: /{text}/ isn't a regular expression.") from None


def _lifecycle(
    lifecycle: Document, at: str, draft: MigratedComponent
) -> Tuple[Document, List[Document]]:
    """Return our steps, and the artifacts they run."""
    where = f"{draft.name} {at}"
    if "startup" in lifecycle or "run" not in lifecycle:
        draft.problems.append(
            f"{at} has {'startup' if 'startup' in lifecycle else 'no run'}; both nuclei need a run "
            "step that keeps the program in the foreground. Change that and migrate again."
        )
    for phase in IGNORED:
        if phase in lifecycle:
            draft.notes.person(f"{where} {phase}", f"Left out. {IGNORED[phase]}")
    steps: Document = {"run": NOTHING}
    files: List[Document] = []
    for phase in ("install", "run"):
        if phase in lifecycle:
            make = partial(_step, phase, lifecycle, where, draft)
            steps[phase] = ours = draft.attempt(f"{at}.Lifecycle.{phase}: ", make, NOTHING)
            name = _file_of(str(ours["Script"]))
            files += [_artifact(draft, name)] if name in draft.files else []
    return steps, files


def _step(phase: str, lifecycle: Document, where: str, draft: MigratedComponent) -> Document:
    step, thing = inner(lifecycle, phase), f"{where} {phase}"
    environment = _environment(lifecycle.get("Setenv", {}), step.get("Setenv", {}))
    if str(step.get("RequiresPrivilege", False)).lower() == "true":
        draft.notes.person(
            thing,
            "RequiresPrivilege is left out. If it is needed, deploy the component with runWith "
            "posixUser root.",
        )
    script = step.get("Script")
    program = _program(phase, step, environment, draft)
    if program != script:
        moved = f" ({_file_of(program)} holds what was there)" if _file_of(program) else ""
        draft.notes.changed(thing, f"Script runs one program{moved}, variables in double quotes.")
    if phase == "run":
        if "Timeout" in step:
            draft.notes.changed(thing, "No Timeout: it ends a service on the classic nucleus.")
        return {"Script": program}
    return {"Script": program, "Timeout": _seconds(step.get("Timeout", TIMEOUT_S))}


def _program(phase: str, step: Document, environment: Document, draft: MigratedComponent) -> str:
    """Return the Script; what it runs goes to a file of the draft."""
    what = step.get("Script"), environment, str(step.get("Skipif", ""))
    content = translate(*what, "", draft.settings).file
    return translate(*what, draft.name_of(phase, content), draft.settings).script


def _file_of(script: str) -> str:
    found = re.match(r'exec sh "\{artifacts:path\}/((?:install|run)(?:-\d+)?\.sh)"', script)
    return found.group(1) if found else ""


def _environment(environment: object, own: object) -> Document:
    if not isinstance(environment, dict) or not isinstance(own, dict):
        raise Untranslatable("Setenv must be an object.")
    return {**environment, **own}


def _seconds(value: object) -> int:
    if not re.fullmatch(r"[1-9]\d{0,5}", str(value)):
        raise Untranslatable("Timeout must be a whole number of seconds.")
    return int(str(value))


def _artifacts(manifest: Document, at: str, draft: MigratedComponent) -> List[Document]:
    place = f"{draft.name}/{draft.version}"
    made = []
    for number, artifact in enumerate(objects(manifest, "Artifacts")):
        here = f"{at}.Artifacts.{number}"
        make = partial(artifacts.migrate, artifact, f"{draft.name} {here}", place, draft.notes)
        made.append(draft.attempt(f"{here}: ", make, None))
    return [artifact for artifact in made if artifact]


def _artifact(draft: MigratedComponent, name: str) -> Document:
    return {
        "URI": f"s3://BUCKET_NAME/{draft.name}/{draft.version}/{name}",
        "Unarchive": "NONE",
        "Permission": {"Read": "ALL", "Execute": "ALL"},
    }
