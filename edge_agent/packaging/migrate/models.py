"""The original's model components and packaging jobs: commands that make the new model."""

from __future__ import annotations

import json
import re
from typing import List, Optional, Tuple

from edge_agent.errors import InvalidConfiguration
from edge_agent.packaging.json_document import Document, inner, objects, parse
from edge_agent.packaging.migrate import versions
from edge_agent.packaging.migrate.canonical import defaults
from edge_agent.packaging.migrate.client import architectures_of
from edge_agent.packaging.migrate.migration import Notes, without_values
from edge_agent.packaging.migrate.scripts import Untranslatable
from edge_agent.packaging.recipe import AGENT
from edge_agent.packaging.target import ARCHITECTURES, OLDEST_TENSORRT
from edge_agent.packaging.target import parse as parse_target

PUBLISHER = "lookout for vision"
ARTIFACT = "_greengrass_model_component.zip"
OWN_SETTINGS = ("autostart", "modelconfidencethresholds")
NEEDLESS = (
    "modelname", "modelversion", "modelmetadata", "pythonpath", "socket", "accesscontrol",
)  # fmt: skip
NEW_MODEL = (
    "The model can't be carried over: it is compiled with Neo for DLR and an old TensorRT. Train "
    "one from the dataset's exported manifest (with --images FOLDER for its pictures) or from a "
    "folder with normal/ and anomaly/, and package it under the same name, so that clients and "
    "dependencies stay."
)
BUCKET = ["--bucket", "BUCKET"]  # for the user to fill in
GPU = "IMAGES, BUCKET and ARCH are for you to fill in; for an NVIDIA GPU add ,accelerator=NVIDIA."
CURRENT = {"trt-ver": "8.5.2", "cuda-ver": "11.4"}  # JetPack 5.1's
NO_JETPACK_5 = {"sm_53": "Jetson Nano and TX1", "sm_62": "Jetson TX2"}
JOB_KEYS = (
    "S3OutputLocation", "ComponentName", "ComponentVersion", "ComponentDescription", "Tags",
    "TargetDevice", "TargetPlatform", "CompilerOptions",
)  # fmt: skip


def matches(recipe: Document) -> bool:
    """Whether a recipe is of a model component of the original."""
    artifacts = [
        str(artifact.get("URI", ""))
        for manifest in objects(recipe, "Manifests")
        for artifact in objects(manifest, "Artifacts")
    ]
    return (
        PUBLISHER in str(recipe.get("ComponentPublisher", "")).lower()
        or any(artifact.endswith(ARTIFACT) for artifact in artifacts)
        or is_configuration(defaults(recipe))
    )


def is_configuration(settings: Document) -> bool:
    """Whether these are settings that only the original's model components have."""
    return any(key.lower() in OWN_SETTINGS for key in settings)


def migrate(recipe: Document, notes: Notes) -> None:
    """Note how to make the new model; write the component's settings, if it needs any."""
    name, old = str(recipe["ComponentName"]), str(recipe.get("ComponentVersion"))
    try:
        version = versions.next_major(old)
        target = ["--target-platform", f"os=LINUX,arch={_architecture(recipe)}"]
    except (ValueError, Untranslatable) as error:
        notes.migration.refused.add(name)
        notes.person(name, without_values(error))
        return
    notes.migration.models.add(name)
    notes.migration.versions[name] = version
    number = version.split(".")[0]
    commands = _commands(name, number, target, (name, version), notes, BUCKET)
    notes.person(name, f"{NEW_MODEL} {GPU}", *commands)
    ours = settings(defaults(recipe), name, notes)
    if ours.get("Autostart"):
        file = f"{name}.configuration.json"
        notes.changed(f"{name} Autostart", f"Off by default; {file} is what a deployment merges.")
        notes.migration.write(file, json.dumps(ours, indent=2).encode() + b"\n")


def _architecture(recipe: Document) -> str:
    """Return the packaging API's word; ARCH when the recipe doesn't name exactly one."""
    found = {
        architecture
        for manifest in objects(recipe, "Manifests")
        for architecture in architectures_of(inner(manifest, "Platform"))
    }
    words = [word for word, architecture in ARCHITECTURES.items() if architecture in found]
    return words[0] if len(words) == 1 else "ARCH"


def settings(given: Document, name: str, notes: Notes) -> Document:
    """Return the settings of our model component."""
    ours: Document = {}
    for key, value in given.items():
        thing, known = f"{name} {key}", key.lower()
        if known == "autostart" and str(value).lower() in ("true", "false"):
            ours["Autostart"] = str(value).lower() == "true"
            notes.maps(thing, f"Our model component has it too; it is {str(value).lower()}.")
        elif known == "modelconfidencethresholds":
            notes.person(
                thing,
                "Left out: these confidences sent results to review, which no setting of ours "
                "does. Evaluate the new model, then set the agent's "
                f"models.thresholds.{name}; results.capture.near_threshold stores close frames.",
            )
        elif known in NEEDLESS:
            notes.changed(thing, "Left out: our model component doesn't need it.")
        else:
            notes.person(thing, "Left out: it is no setting of our model component.")
    return ours


def job_of(values: Document) -> Optional[Document]:
    """Return the packaging job in an answer of DescribeModelPackagingJob or a request to start one.

    None when there is none. Its settings are under `ModelPackagingConfiguration.Greengrass`.
    """
    job = values.get("ModelPackagingDescription", values)
    if not isinstance(job, dict):
        return None
    settings = job.get("ModelPackagingConfiguration", job.get("Configuration"))
    if not isinstance(settings, dict) or not isinstance(settings.get("Greengrass"), dict):
        return None
    return {**job, "ModelPackagingConfiguration": settings}


def migrate_job(job: Document, notes: Notes) -> None:
    """Note how the job is done with ours."""
    given = inner(inner(job, "ModelPackagingConfiguration"), "Greengrass")
    name, project = str(given.get("ComponentName", "")), str(job.get("ProjectName", ""))
    number = str(job.get("ModelVersion", ""))
    old = given.get("ComponentVersion") or f"{number}.0.0"  # the API's default
    thing = f"packaging job of {name or 'a component without name'}"
    for key in sorted(set(given) - set(JOB_KEYS)):
        notes.person(f"{thing} {key}", "Left out: the packaging API has no such field.")
    try:
        version = versions.next_major(str(old))
        target = _target(given, thing, notes)
        options = [*target, *_descriptive(given)]
    except (ValueError, InvalidConfiguration) as error:
        notes.person(thing, without_values(error))
        return
    model = str(int(number) + 1) if number.isdigit() else version.split(".")[0]
    notes.migration.models.add(name)
    notes.migration.versions[name] = version
    place = _place(given.get("S3OutputLocation"))
    commands = _commands(project or name, model, options, (name, version), notes, place)
    notes.person(thing, f"{NEW_MODEL} Its target and options are in the commands.", *commands)


def _place(location: object) -> List[str]:
    """Return the options of `publish` for an S3OutputLocation."""
    if not isinstance(location, dict) or not location.get("Bucket"):
        return BUCKET
    prefix = ["--prefix", str(location["Prefix"])] if location.get("Prefix") else []
    return ["--bucket", str(location["Bucket"]), *prefix]


def _target(given: Document, thing: str, notes: Notes) -> List[str]:
    """Return the options of `package`; TensorRT is replaced when it is too old."""
    platform = given.get("TargetPlatform")
    text = None
    if isinstance(platform, dict):
        text = ",".join(f"{key.lower()}={value}" for key, value in platform.items() if value)
    options = parse(given.get("CompilerOptions") or "{}", "CompilerOptions")
    version = re.match(r"(\d+)\.(\d+)", str(options.get("trt-ver", "")))
    if version and tuple(map(int, version.groups())) < OLDEST_TENSORRT:
        options = _renewed(options, thing, notes)
    content = json.dumps(options) if options else None
    device = given.get("TargetDevice")
    target = parse_target(str(device) if device else None, text, content)
    words = (
        ["--target-device", target.device] if target.device else ["--target-platform", text or ""]
    )
    return [*words, "--compiler-options", content] if content else words


def _renewed(options: Document, thing: str, notes: Notes) -> Document:
    """Return the options for TensorRT 8.5; the device needs it as well."""
    code = str(options.get("gpu-code"))
    if code in NO_JETPACK_5:
        notes.person(
            f"{thing} CompilerOptions", f"{NO_JETPACK_5[code]} have no JetPack 5, so no TensorRT "
            "8.5: package for the CPU, without accelerator and compiler options.",
        )  # fmt: skip
    notes.person(
        f"{thing} CompilerOptions",
        f"TensorRT {options['trt-ver']} is too old for the agent. The command has TensorRT "
        f"{CURRENT['trt-ver']} and CUDA {CURRENT['cuda-ver']}, those of JetPack 5.1; install it on "
        "the device, or name what the device has.",
    )
    return {**options, **CURRENT}


def _descriptive(given: Document) -> List[str]:
    options = []
    if given.get("ComponentDescription"):
        options += ["--description", str(given["ComponentDescription"])]
    tags = given.get("Tags") or []
    if not isinstance(tags, list) or not all(map(_is_tag, tags)):
        raise ValueError("Tags must be a list of objects with Key, without =, and Value")
    for tag in tags:
        options += ["--tag", f"{tag['Key']}={tag['Value']}"]
    return options


def _is_tag(tag: object) -> bool:
    texts = [tag.get("Key"), tag.get("Value")] if isinstance(tag, dict) else [None]
    return all(isinstance(text, str) for text in texts) and "=" not in str(texts[0])


def _commands(
    model: str,
    number: str,
    target: List[str],
    named: Tuple[str, str],
    notes: Notes,
    place: List[str],
) -> List[List[str]]:
    """Return the commands that train, package and publish; IMAGES is for the user to fill in."""
    package, out = f"{model}-{number}", "-".join(named)
    component = ["--component-name", named[0], "--component-version", named[1]]
    if notes.migration.agent != AGENT:
        component += ["--agent-component", notes.migration.agent]
    return [
        ["edge-agent", "train", "IMAGES", "--out", package, "--name", model, "--version", number],
        ["edge-agent", "package", package, *target, *component, "--out", out],
        ["edge-agent", "publish", out, *place],
    ]
