"""A component that calls the agent or a model: what works, and its recipe for both nuclei."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Dict, List, Pattern, Tuple

from edge_agent import __version__
from edge_agent.errors import InvalidConfiguration
from edge_agent.packaging.json_document import Document, inner, objects
from edge_agent.packaging.migrate import versions
from edge_agent.packaging.migrate.documents import defaults
from edge_agent.packaging.migrate.migration import Notes, without_values
from edge_agent.packaging.migrate.scripts import Untranslatable, translate
from edge_agent.packaging.recipe import AGENT, AGENT_VERSIONS, check

TYPE = "aws.greengrass.generic"
ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "arm64": "aarch64", "aarch64": "aarch64"}
ANY = ("*", "all", "")
LONGEST_EXPRESSION = 100  # characters
REPEATS = 4  # in an expression; (.*)*, nested further, takes ages even for so short a name
TIMEOUT_S = 120  # of install, where none is given
IGNORED = {
    "bootstrap": "Nucleus lite runs it only in part: do it in install.",
    "shutdown": "Nucleus lite never runs it: end the program at SIGTERM, within 5 s.",
    "recover": "Nucleus lite never runs it: clean up when the program starts.",
}


def migrate(recipe: Document, notes: Notes) -> None:
    """Write our recipe of the component, unless a person must change the old one first."""
    name = str(recipe["ComponentName"])
    try:
        version = versions.next_patch(str(recipe.get("ComponentVersion")))
        _check_kind(recipe)
        draft = MigratedComponent(
            notes, name, version, _with_plain_resources(defaults(recipe), name, notes)
        )
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


def _check_kind(recipe: Document) -> None:
    if recipe.get("ComponentType", TYPE) != TYPE or "Lifecycle" in recipe:
        raise Untranslatable(
            f"Only components of type {TYPE} with a Lifecycle in each manifest run on both nuclei."
        )


def _ours(recipe: Document, draft: MigratedComponent) -> Document:
    return {
        "RecipeFormatVersion": recipe.get("RecipeFormatVersion", ""),
        "ComponentName": draft.name,
        "ComponentVersion": draft.version,
        "ComponentDescription": recipe.get("ComponentDescription") or draft.name,
        "ComponentPublisher": recipe.get("ComponentPublisher", ""),
        "ComponentConfiguration": {"DefaultConfiguration": draft.settings},
        "ComponentDependencies": _dependencies(recipe, draft.notes),
        "Manifests": _manifests(recipe, draft),
    }


def _dependencies(recipe: Document, notes: Notes) -> Dict[str, Dict[str, str]]:
    ours = {}
    dependencies = inner(recipe, "ComponentDependencies")
    for name in dependencies:
        given = inner(dependencies, name)
        requirement = str(given.get("VersionRequirement", "*"))
        ours_name, ours_requirement = name, requirement
        if name == AGENT:
            ours_name, ours_requirement = notes.migration.agent, _of_agent(requirement, notes)
        elif name in notes.migration.models:
            _check_model(name, requirement, notes)
        else:
            notes.maps(name, "The dependency is kept.")
        ours[ours_name] = {
            "VersionRequirement": ours_requirement,
            "DependencyType": str(given.get("DependencyType", "HARD")).upper(),
        }
    return ours


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
    """The component that is being written; `files` are its new artifacts."""

    notes: Notes
    name: str
    version: str
    settings: Document
    files: Dict[str, str] = field(default_factory=dict)
    _numbers: Dict[str, int] = field(default_factory=lambda: defaultdict(int))  # of files
    _names: Dict[Tuple[str, str], str] = field(default_factory=dict)  # by phase and content

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
    """Return our manifests, one an architecture. Raises Untranslatable."""
    ours: List[Document] = []
    for place, manifest in enumerate(objects(recipe, "Manifests")):
        where = f"{draft.name} Manifests.{place}"
        architectures = _architectures(inner(manifest, "Platform"), where, draft.notes)
        if architectures:
            steps, files = _lifecycle(inner(manifest, "Lifecycle"), where, draft)
            body = {"Lifecycle": steps, "Artifacts": [*_artifacts(manifest), *files]}
        for architecture in architectures:
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
    lifecycle: Document, where: str, draft: MigratedComponent
) -> Tuple[Document, List[Document]]:
    """Return our steps, and the artifacts they run."""
    if "startup" in lifecycle or "run" not in lifecycle:
        raise Untranslatable(
            f"{where} has {'startup' if 'startup' in lifecycle else 'no run'}; both nuclei need a "
            "run step that keeps the program in the foreground. Change that and migrate again."
        )
    for phase in IGNORED:
        if phase in lifecycle:
            draft.notes.person(f"{where} {phase}", f"Left out. {IGNORED[phase]}")
    steps: Document = {}
    files: List[Document] = []
    for phase in ("install", "run"):
        if phase in lifecycle:
            step = inner(lifecycle, phase)
            environment = _environment(lifecycle.get("Setenv", {}), step.get("Setenv", {}))
            steps[phase] = ours = _step(phase, step, environment, where, draft)
            name = _file_of(str(ours["Script"]))
            files += [_artifact(draft, name)] if name in draft.files else []
    return steps, files


def _step(
    phase: str, step: Document, environment: Document, where: str, draft: MigratedComponent
) -> Document:
    thing = f"{where} {phase}"
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
    return {"Script": program, "Timeout": _seconds(step.get("Timeout", TIMEOUT_S), where)}


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


def _seconds(value: object, where: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,5}", str(value)):
        raise Untranslatable(f"{where} install: Timeout must be a whole number of seconds.")
    return int(str(value))


def _artifacts(manifest: Document) -> List[Document]:
    """Return them with the classic nucleus's defaults; digests are made by the service."""
    return [
        {
            "URI": artifact.get("URI", ""),
            "Unarchive": str(artifact.get("Unarchive", "NONE")).upper(),
            "Permission": {
                "Read": str(inner(artifact, "Permission").get("Read", "OWNER")).upper(),
                "Execute": str(inner(artifact, "Permission").get("Execute", "NONE")).upper(),
            },
        }
        for artifact in objects(manifest, "Artifacts")
    ]


def _artifact(draft: MigratedComponent, name: str) -> Document:
    return {
        "URI": f"s3://BUCKET_NAME/{draft.name}/{draft.version}/{name}",
        "Unarchive": "NONE",
        "Permission": {"Read": "ALL", "Execute": "ALL"},
    }
