"""For which machine a component is made: target and compiler options as the packaging API has them.

Source: TargetDevice, TargetPlatform and CompilerOptions of StartModelPackagingJob.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Dict, Mapping, Optional, Tuple, Type, Union

from pydantic import Field
from typing_extensions import Annotated, Literal

from edge_agent.errors import InvalidConfiguration
from edge_agent.fields import Strict, T, parse_json, read, read_json
from edge_agent.packaging.json_document import Document
from edge_agent.packaging.recipe import Architecture
from edge_agent.targets import TargetSpec

# the API's word → a recipe's
ARCHITECTURES: Dict[str, Architecture] = {"ARM64": "aarch64", "X86_64": "amd64"}
OPTIONS_LENGTH = (3, 1024)  # characters
OLDEST_TENSORRT = (8, 5)
NEAREST = {"trt_ver": "8.5.2", "cuda_ver": "11.4"}  # of JetPack 5.1, in place of older ones
DEFAULT_MCPU = "core-avx2"  # of X86_64


class Platform(Strict):
    """TargetPlatform; without an accelerator the model runs on the CPU."""

    Os: Literal["LINUX"]
    Arch: Literal["ARM64", "X86_64"]
    Accelerator: Optional[Literal["NVIDIA"]] = None


class GpuOptions(Strict):
    """CompilerOptions for NVIDIA targets; all are needed."""

    gpu_code: Annotated[str, Field(alias="gpu-code", pattern=r"^sm_[0-9]{2,3}$")]
    trt_ver: Annotated[str, Field(alias="trt-ver", pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$")]
    cuda_ver: Annotated[str, Field(alias="cuda-ver", pattern=r"^[0-9]+\.[0-9]+$")]


class CpuOptions(Strict):
    """CompilerOptions for CPU targets."""

    mcpu: Annotated[Optional[str], Field(pattern=r"^[a-z0-9][a-z0-9.+_-]*$")] = None
    mattr: Tuple[Annotated[str, Field(pattern=r"^[+-][a-z0-9][a-z0-9._-]*$")], ...] = ()


Options = Union[GpuOptions, CpuOptions]

# TargetDevice → what it is, and its options where none are given
DEVICES = {
    "jetson_xavier": (
        Platform(Os="LINUX", Arch="ARM64", Accelerator="NVIDIA"),
        {"gpu-code": "sm_72", "trt-ver": "8.5.2", "cuda-ver": "11.4"},  # JetPack 5.1
    )
}


@dataclass(frozen=True)
class Target:
    """A checked target; `device` is empty when a platform was named.

    remark: a sentence about options that aren't those which were named; empty when all are.
    """

    device: str
    platform: Platform
    options: Options
    remark: str = ""

    @property
    def architecture(self) -> Architecture:
        """The architecture in a recipe's words."""
        return ARCHITECTURES[self.platform.Arch]

    def to_api(self) -> Document:
        """Return TargetDevice or TargetPlatform, and CompilerOptions with defaults, if any."""
        options = self.options.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        found: Document = {"TargetDevice": self.device}
        if not self.device:
            found = {"TargetPlatform": self.platform.model_dump(exclude_none=True)}
        if options:
            found["CompilerOptions"] = json.dumps(options, sort_keys=True)
        return found

    def to_spec(self) -> TargetSpec:
        """Return it as a component's manifest has it."""
        return TargetSpec(
            device=self.device,
            os=self.platform.Os,
            arch=self.platform.Arch,
            accelerator=self.platform.Accelerator,
            **self.options.model_dump(),
        )


@dataclass(frozen=True)
class _Words:
    """What the caller calls the parts of a target, in sentences about them."""

    device: str
    platform: str
    platforms: str  # how one is written
    options: str


COMMAND_LINE = _Words(
    "--target-device",
    "--target-platform",
    "--target-platform os=LINUX,arch=ARM64|X86_64[,accelerator=NVIDIA]",
    "--compiler-options",
)
API = _Words("TargetDevice", "TargetPlatform", "TargetPlatform", "CompilerOptions")


def parse(device: Optional[str], platform: Optional[str], options: Optional[str]) -> Target:
    """Check what the command line names. Raises InvalidConfiguration.

    `platform` is os=LINUX,arch=ARM64|X86_64[,accelerator=NVIDIA]; `options` is a JSON object.
    """
    values = None if platform is None else _platform(platform)
    target = _target(device, values, options, COMMAND_LINE)
    named = target.options
    if isinstance(named, GpuOptions) and _is_too_old(named):
        raise InvalidConfiguration(
            f"--compiler-options: trt-ver {named.trt_ver} is too old. TensorRT before 8.5 takes no "
            "uint8 images, which the agent gives its models. The nearest JetPack is 5.1, "
            "the last for Xavier, with TensorRT 8.5.2 and CUDA 11.4."
        )
    return target


def from_api(configuration: Mapping[str, Any]) -> Target:
    """Check what the API's GreengrassConfiguration names. Raises InvalidConfiguration.

    CompilerOptions may be written with single quotes, as the original's documents do. In place of
    a TensorRT that is too old for the agent, which those name as well, the nearest is taken.
    """
    device, platform, options = map(
        configuration.get, ("TargetDevice", "TargetPlatform", "CompilerOptions")
    )
    if options is not None and '"' not in options:
        options = options.replace("'", '"')
    target = _target(device, platform, options, API)
    named = target.options
    if not (isinstance(named, GpuOptions) and _is_too_old(named)):
        return target
    remark = (
        "The component is made for TensorRT {trt_ver} with CUDA {cuda_ver}: TensorRT "
        "{named} takes no uint8 images, which the agent gives its models. A device that has no "
        "newer one computes without TensorRT."
    ).format(named=named.trt_ver, **NEAREST)
    return replace(target, options=named.model_copy(update=NEAREST), remark=remark)


def _target(
    device: Optional[str],
    platform: Optional[Mapping[str, str]],
    options: Optional[str],
    words: _Words,
) -> Target:
    if (device is None) == (platform is None):
        raise InvalidConfiguration(
            f"{'Two targets are named' if device else 'No target is named'}; name one, either "
            f"{words.device} {'|'.join(DEVICES)} or {words.platforms}."
        )
    if platform is not None:
        try:
            machine = read(Platform, platform)
        except ValueError as error:
            raise InvalidConfiguration(f"{words.platform}: {error}") from None
        return Target("", machine, _options(machine, options, {}, words.options))
    if device not in DEVICES:
        raise InvalidConfiguration(
            f"{words.device} {device} isn't known; known: {', '.join(DEVICES)}. "
            f"For other machines use {words.platform}."
        )
    machine, defaults = DEVICES[device]
    return Target(device, machine, _options(machine, options, defaults, words.options))


def _platform(text: str) -> Dict[str, str]:
    values: Dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals or key.capitalize() in values:
            raise InvalidConfiguration(
                f"--target-platform {text!r}: expected each of os, arch and accelerator once, "
                "as NAME=VALUE, with commas between them."
            )
        values[key.capitalize()] = value
    return values


def _options(
    machine: Platform, text: Optional[str], defaults: Dict[str, str], word: str
) -> Options:
    if text is None:
        text = json.dumps(defaults)
    elif not OPTIONS_LENGTH[0] <= len(text) <= OPTIONS_LENGTH[1]:
        raise InvalidConfiguration(
            f"{word} has {len(text)} characters; "
            f"{OPTIONS_LENGTH[0]} to {OPTIONS_LENGTH[1]} are allowed."
        )
    if machine.Accelerator:
        return _read(GpuOptions, text, "NVIDIA", word)
    processor = _read(CpuOptions, text, "CPU", word)
    if machine.Arch == "X86_64" and processor.mcpu is None:
        return processor.model_copy(update={"mcpu": DEFAULT_MCPU})
    return processor


def _read(kind: Type[T], text: str, target: str, word: str) -> T:
    try:
        values = parse_json(text)
    except ValueError as error:
        raise InvalidConfiguration(f"{word} isn't JSON: {error}") from None
    known = [field.alias or name for name, field in kind.model_fields.items()]
    unknown = sorted(set(values) - set(known)) if isinstance(values, dict) else []
    if unknown:
        raise InvalidConfiguration(
            f"{word}: unknown option {', '.join(map(repr, unknown))}; "
            f"{target} targets have {', '.join(known)}."
        )
    try:
        return read_json(kind, text.encode())
    except ValueError as error:
        raise InvalidConfiguration(
            f"{word}: {error}. {target} targets have {', '.join(known)}."
        ) from None


def _is_too_old(options: GpuOptions) -> bool:
    return tuple(map(int, options.trt_ver.split(".")))[:2] < OLDEST_TENSORRT
