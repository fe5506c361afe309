"""Recipes that both nuclei of AWS IoT Greengrass V2 understand, classic and lite alike.

A recipe is built and checked by the same types, which allow only what works on both: no startup,
shutdown or Skipif, which lite ignores; no Timeout on run, which kills a service on classic. Source:
the component recipe reference, and what nucleus lite 2.6 was seen to do.

URIs of artifacts have the placeholder that `gdk` and publishing fill in; local deployments don't
use them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Dict, Iterator, Optional, Tuple

from pydantic import Field, field_validator, model_validator
from typing_extensions import Annotated, Literal

from edge_agent.errors import InvalidConfiguration
from edge_agent.fields import Strict, read_json
from edge_agent.manifest import NAME_PATTERN, VERSION_PATTERN
from edge_agent.packaging.json_document import Document

LIMIT_BYTES = 8192  # a recipe of lite must be smaller, and have fewer objects
LIMIT_OBJECTS = 255
AGENT = "aws.iot.lookoutvision.EdgeAgent"
AGENT_VERSIONS = ">=1.3.0 <2.0.0"  # earlier ones don't know all of the manifest
ARTIFACT = "model.zip"
INSTALL_WITHIN_S = 600
RECORDS_FOLDER = "models.d"  # in the agent component's work folder

# Lite ends a script at every other brace, and runs what stands before it.
VARIABLE = re.compile(
    r"\{(?:artifacts:path|artifacts:decompressedPath|work:path|kernel:rootPath|iot:thingName"
    r"|configuration:(?P<pointer>/[^{}]+))\}"
)

DependencyKey = Literal["VersionRequirement", "DependencyType"]
Access = Literal["NONE", "OWNER", "ALL"]
Architecture = Literal["aarch64", "amd64"]


class RecipePlatform(Strict):
    """Which devices a manifest is for; lite skips one without `runtime`."""

    os: Literal["linux"]
    runtime: Literal["*"]
    architecture: Architecture


class Permission(Strict):
    """Who may use an artifact; the defaults of the two nuclei differ, so both are needed."""

    Read: Access
    Execute: Access


class Artifact(Strict):
    """A file of the component, on S3 or, in a local deployment, in the artifacts folder."""

    URI: Annotated[str, Field(pattern=r"^s3://[^/]+/.+$")]
    Unarchive: Literal["NONE", "ZIP"]
    Permission: Permission


class Phase(Strict):
    """One program."""

    Script: str

    @field_validator("Script")
    @classmethod
    def _is_one_program(cls, script: str) -> str:
        if not script.startswith("exec ") or "\n" in script:
            raise ValueError("must be one line: exec, then one program with its arguments")
        if re.search(r"[{}]", VARIABLE.sub("", script)):
            raise ValueError("braces are allowed only around the nucleus's own variables")
        if any(script.count('"', 0, found.start()) % 2 == 0 for found in VARIABLE.finditer(script)):
            raise ValueError("every variable must stand in double quotes")
        return script


class Install(Phase):
    """What has to be done before run; by default both nuclei end it after 120 s."""

    Timeout: Annotated[int, Field(gt=0)]  # seconds


class RecipeLifecycle(Strict):
    """The phases both nuclei run."""

    install: Optional[Install] = None
    run: Phase

    @property
    def phases(self) -> Dict[str, Phase]:
        """Those there are, by name."""
        return {name: phase for name, phase in self if phase is not None}


class PlatformManifest(Strict):
    """What is done on one kind of device."""

    Platform: RecipePlatform
    Lifecycle: RecipeLifecycle
    Artifacts: Tuple[Artifact, ...]


class Configuration(Strict):
    """The settings a deployment may change."""

    DefaultConfiguration: Dict[str, object]

    @field_validator("DefaultConfiguration")
    @classmethod
    def _asks_for_plain_resources(cls, values: Document) -> Document:
        for resource in _resources(values.get("accessControl", {})):
            if "?" in resource.replace("${?}", ""):
                raise ValueError(f"resource {resource!r}: lite refuses '?'; write ${{?}} for it")
        return values


class Recipe(Strict):
    """A recipe; field names are the file's own, whose case matters on lite."""

    RecipeFormatVersion: Literal["2020-01-25"]
    ComponentName: Annotated[str, Field(pattern=NAME_PATTERN)]
    ComponentVersion: Annotated[str, Field(pattern=VERSION_PATTERN)]
    ComponentDescription: Annotated[str, Field(min_length=1, max_length=256)]
    ComponentPublisher: str
    ComponentConfiguration: Configuration
    ComponentDependencies: Dict[str, Dict[DependencyKey, str]]
    Manifests: Annotated[Tuple[PlatformManifest, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _has_what_it_inserts(self) -> Recipe:
        # A pointer that leads nowhere ends the script on lite.
        known = self.ComponentConfiguration.DefaultConfiguration
        for manifest in self.Manifests:
            for name, phase in manifest.Lifecycle.phases.items():
                for found in VARIABLE.finditer(phase.Script):
                    pointer = found.group("pointer")
                    if pointer and not _leads_somewhere(pointer, known):
                        raise ValueError(f"{name} inserts {pointer}, which has no default")
        return self

    def begin(self, folder: Path) -> Path:
        """Write the recipe into a component folder; return the new folder for its artifacts."""
        name, version = self.ComponentName, self.ComponentVersion
        artifacts = folder / "artifacts" / name / version
        artifacts.mkdir(parents=True)
        (folder / "recipes").mkdir()
        (folder / "recipes" / f"{name}-{version}.json").write_bytes(self.to_json())
        (folder / "recipe.yaml").write_bytes(self.to_yaml())
        return artifacts

    def to_json(self) -> bytes:
        """Return the recipe as JSON, checked; on lite only JSON keeps the types of settings."""
        values = self.model_dump(mode="json", exclude_unset=True)
        content = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
        check(content.encode())
        return content.encode()

    def to_yaml(self) -> bytes:
        """Return the same as YAML, for people to read; needs PyYAML."""
        values = json.loads(self.to_json())
        text: str = _yaml().safe_dump(
            values, sort_keys=False, allow_unicode=True, width=LIMIT_BYTES
        )
        _check_size(text.encode(), values)
        return text.encode()


def check(content: bytes) -> Recipe:
    """Read a recipe (JSON). Raises InvalidConfiguration: what one of the nuclei would refuse."""
    _check_length(content)
    try:
        recipe = read_json(Recipe, content)
    except ValueError as error:
        raise InvalidConfiguration(f"The recipe can't be used: {error}") from None
    _check_size(content, json.loads(content))
    return recipe


def read_yaml(text: str) -> Document:
    """Return the object in YAML text. Raises InvalidConfiguration. Needs PyYAML."""
    yaml = _yaml()
    try:
        values: Document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidConfiguration(f"The recipe isn't YAML: {error}") from None
    return values


def model_component(
    name: str, version: str, description: str, architecture: Architecture, agent: str
) -> Recipe:
    """Build the recipe of a component that registers its model with the component `agent`."""
    # Lite unpacks no archive of a local deployment: Python takes the program, and the program the
    # package, from the folder or else from the zip.
    folder = f"{{artifacts:decompressedPath}}/{ARTIFACT[: -len('.zip')]}"
    program = f'env PYTHONPATH="{folder}:{{artifacts:path}}/{ARTIFACT}" python3 -m register'
    script = (
        f'exec {program} --name {name} --agent "{{work:path}}../{agent}" '
        '--records "{configuration:/Records}" --autostart "{configuration:/Autostart}" '
        '--threshold "{configuration:/Threshold}"'
    )
    artifact = Artifact(
        URI=f"s3://BUCKET_NAME/{name}/{version}/{ARTIFACT}",
        Unarchive="ZIP",
        Permission=Permission(Read="ALL", Execute="ALL"),
    )
    return Recipe(
        RecipeFormatVersion="2020-01-25",
        ComponentName=name,
        ComponentVersion=version,
        ComponentDescription=description,
        ComponentPublisher="Edge Agent",
        ComponentConfiguration=Configuration(
            DefaultConfiguration={"Autostart": False, "Records": RECORDS_FOLDER, "Threshold": ""}
        ),
        ComponentDependencies={
            # HARD would stop the model with the agent, and lite never starts it again.
            agent: {"VersionRequirement": AGENT_VERSIONS, "DependencyType": "SOFT"}
        },
        Manifests=(
            PlatformManifest(
                Platform=RecipePlatform(os="linux", runtime="*", architecture=architecture),
                Lifecycle=RecipeLifecycle(
                    install=Install(Script=f"{script} --check", Timeout=INSTALL_WITHIN_S),
                    run=Phase(Script=script),
                ),
                Artifacts=(artifact,),
            ),
        ),
    )


def _yaml() -> ModuleType:
    try:
        import yaml
    except ImportError:
        raise InvalidConfiguration(
            "Packaging needs PyYAML: pip install 'edge-agent[package]'."
        ) from None
    module: ModuleType = yaml
    return module


def _check_length(content: bytes) -> None:
    if len(content) >= LIMIT_BYTES:
        raise InvalidConfiguration(
            f"The recipe has {len(content)} bytes; nucleus lite takes fewer than {LIMIT_BYTES}."
        )


def _check_size(content: bytes, values: object) -> None:
    _check_length(content)
    if _objects(values) >= LIMIT_OBJECTS:
        raise InvalidConfiguration(
            f"The recipe has {_objects(values)} keys and values; nucleus lite takes fewer than "
            f"{LIMIT_OBJECTS}. Use fewer settings."
        )


def _objects(value: object) -> int:
    """Count as lite does: each value and each key, containers included."""
    if isinstance(value, dict):
        return 1 + sum(1 + _objects(inner) for inner in value.values())
    if isinstance(value, list):
        return 1 + sum(_objects(inner) for inner in value)
    return 1


def _leads_somewhere(pointer: str, configuration: object) -> bool:
    """Whether a JSON pointer (RFC 6901) names a setting."""
    for part in pointer[1:].split("/"):
        key = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(configuration, dict) or key not in configuration:
            return False
        configuration = configuration[key]
    return True


def _resources(policies: object) -> Iterator[str]:
    """Yield every entry of a list named `resources`."""
    for key, value in policies.items() if isinstance(policies, dict) else ():
        if key == "resources" and isinstance(value, list):
            yield from map(str, value)
        else:
            yield from _resources(value)
