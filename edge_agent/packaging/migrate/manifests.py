"""The manifests of a recipe as both nuclei take them."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Dict, List, Pattern, Tuple

from edge_agent.packaging.migrate.migration import Notes
from edge_agent.packaging.migrate.scripts import Untranslatable, translate

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


@dataclass
class Draft:
    """The component that is being written; `files` are its new artifacts."""

    notes: Notes
    name: str
    version: str
    settings: Dict[str, Any]
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


def rewrite(manifests: List[Dict[str, Any]], draft: Draft) -> List[Dict[str, Any]]:
    """Return our manifests, one an architecture. Raises Untranslatable."""
    ours = []
    for place, manifest in enumerate(manifests):
        where = f"{draft.name} Manifests.{place}"
        architectures = _architectures(manifest.get("Platform", {}), where, draft.notes)
        if architectures:
            steps, files = _lifecycle(manifest.get("Lifecycle", {}), where, draft)
            body = {"Lifecycle": steps, "Artifacts": [*_artifacts(manifest), *files]}
        for architecture in architectures:
            platform = {"os": "linux", "runtime": "*", "architecture": architecture}
            ours.append({"Platform": platform, **body})
    return ours


def architectures_of(platform: Dict[str, Any]) -> List[str]:
    """Return which of our architectures a manifest is for. Raises Untranslatable."""
    found = _matching(platform.get("architecture", "*"), list(ARCHITECTURES))
    return list(dict.fromkeys(ARCHITECTURES[name] for name in found))


def _architectures(platform: Dict[str, Any], where: str, notes: Notes) -> List[str]:
    if not _matching(platform.get("os", "*"), ["linux"]):
        notes.changed(where, "Left out: it isn't for Linux, and the agent runs only there.")
        return []
    architectures = architectures_of(platform)
    if not architectures:
        notes.changed(where, "Left out: the agent runs on amd64 and aarch64 only.")
    elif "runtime" not in platform or len(architectures) > 1:
        notes.changed(where, f"Platform: runtime * and architecture {' and '.join(architectures)}.")
    return architectures


def _matching(wanted: Any, names: List[str]) -> List[str]:
    """Return the names that a platform's value stands for: one, any, or /a regular expression/."""
    text = str(wanted)
    if text in ANY:
        return names
    if len(text) > 1 and text.startswith("/") and text.endswith("/"):
        return [name for name in names if _expression(text[1:-1]).fullmatch(name)]
    return [name for name in names if name == text]


def _expression(text: str) -> Pattern[str]:
    """Read a regular expression that is matched in no time, as no stranger's has to be."""
    if len(text) > LONGEST_EXPRESSION or "{" in text or len(re.findall(r"[*+?]", text)) > REPEATS:
        raise Untranslatable(
            f"Platform: /{text[:LONGEST_EXPRESSION]}/ is more than a choice of architectures; "
            "name them."
        )
    try:
        return re.compile(text)
    except re.error:
        raise Untranslatable(f"Platform: /{text}/ isn't a regular expression.") from None


def _lifecycle(lifecycle: Dict[str, Any], where: str, draft: Draft) -> Any:
    """Return our steps, and the artifacts they run."""
    if "startup" in lifecycle or "run" not in lifecycle:
        raise Untranslatable(
            f"{where} has {'startup' if 'startup' in lifecycle else 'no run'}; both nuclei need a "
            "run step that keeps the program in the foreground. Change that and migrate again."
        )
    for phase in IGNORED:
        if phase in lifecycle:
            draft.notes.person(f"{where} {phase}", f"Left out. {IGNORED[phase]}")
    environment = lifecycle.get("Setenv", {})
    steps, files = {}, []
    for phase in ("install", "run"):
        if phase in lifecycle:
            steps[phase] = _step(phase, lifecycle[phase], environment, where, draft)
            name = _file_of(steps[phase]["Script"])
            files += [_artifact(draft, name)] if name in draft.files else []
    return steps, files


def _step(
    phase: str, step: Dict[str, Any], environment: Dict[str, Any], where: str, draft: Draft
) -> Dict[str, Any]:
    thing = f"{where} {phase}"
    if str(step.get("RequiresPrivilege", False)).lower() == "true":
        draft.notes.person(
            thing,
            "RequiresPrivilege is left out. If it is needed, deploy the component with runWith "
            "posixUser root.",
        )
    script = step.get("Script")
    program = _program(phase, {**step, "Setenv": _merged(environment, step)}, draft)
    if program != script:
        moved = f" ({_file_of(program)} holds what was there)" if _file_of(program) else ""
        draft.notes.changed(thing, f"Script runs one program{moved}, variables in double quotes.")
    if phase == "run":
        if "Timeout" in step:
            draft.notes.changed(thing, "No Timeout: it ends a service on the classic nucleus.")
        return {"Script": program}
    return {"Script": program, "Timeout": _seconds(step.get("Timeout", TIMEOUT_S), where)}


def _program(phase: str, step: Dict[str, Any], draft: Draft) -> str:
    """Return the Script; what it runs goes to a file of the draft."""
    what = step.get("Script"), step["Setenv"], str(step.get("Skipif", ""))
    content = translate(*what, "", draft.settings).file
    return translate(*what, draft.name_of(phase, content), draft.settings).script


def _file_of(script: str) -> str:
    found = re.match(r'exec sh "\{artifacts:path\}/((?:install|run)(?:-\d+)?\.sh)"', script)
    return found.group(1) if found else ""


def _merged(environment: Any, step: Dict[str, Any]) -> Dict[str, Any]:
    own = step.get("Setenv", {})
    if not isinstance(environment, dict) or not isinstance(own, dict):
        raise Untranslatable("Setenv must be an object.")
    return {**environment, **own}


def _seconds(value: Any, where: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,5}", str(value)):
        raise Untranslatable(f"{where} install: Timeout must be a whole number of seconds.")
    return int(value)


def _artifacts(manifest: Dict[str, Any]) -> List[Dict[str, Any]]:
    """Return them with the classic nucleus's defaults; digests are made by the service."""
    return [
        {
            "URI": artifact.get("URI", ""),
            "Unarchive": str(artifact.get("Unarchive", "NONE")).upper(),
            "Permission": {
                "Read": str(artifact.get("Permission", {}).get("Read", "OWNER")).upper(),
                "Execute": str(artifact.get("Permission", {}).get("Execute", "NONE")).upper(),
            },
        }
        for artifact in manifest.get("Artifacts", [])
    ]


def _artifact(draft: Draft, name: str) -> Dict[str, Any]:
    return {
        "URI": f"s3://BUCKET_NAME/{draft.name}/{draft.version}/{name}",
        "Unarchive": "NONE",
        "Permission": {"Read": "ALL", "Execute": "ALL"},
    }
