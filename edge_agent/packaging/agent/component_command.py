"""`edge-agent component build`: the agent as a Greengrass component."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Tuple

from edge_agent import __version__
from edge_agent.errors import InvalidConfiguration
from edge_agent.manifest import NAME_PATTERN
from edge_agent.packaging.agent.component import (
    JETPACK_PYTHON,
    OLDEST_PYTHON,
    TEMPLATE,
    ComponentPlan,
    write,
)
from edge_agent.packaging.options import check_free
from edge_agent.packaging.recipe import AGENT, Architecture

ARCHITECTURES: Tuple[Architecture, ...] = ("amd64", "aarch64")
GDK_FILE = Path("gdk-config.json")
GDK_FOLDER = Path("greengrass-build")
MIB = 1024 * 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of `component`."""
    own = "{}.{}".format(*sys.version_info)
    parser.add_argument("action", choices=["build"])
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="to write")
    parser.add_argument(
        "--gdk", action="store_true",
        help=f"for `gdk component build`: name from {GDK_FILE}, output in {GDK_FOLDER}",
    )  # fmt: skip
    parser.add_argument(
        "--component-name", default=AGENT, metavar="NAME", help=f"(default: {AGENT})"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="default settings (JSON)")
    parser.add_argument(
        "--architecture", choices=[*ARCHITECTURES, "all"], default="all", help="(default: all)"
    )
    parser.add_argument(
        "--python", metavar="3.X,...",
        help=f"the devices' Python; each one more makes the artifact larger (default: {own})",
    )  # fmt: skip
    parser.add_argument(
        "--jetson", action="store_true",
        help="aarch64 is a Jetson with JetPack 5: Python 3.8, the system's OpenCV and TensorRT",
    )  # fmt: skip
    parser.add_argument(
        "--allow-index", action="store_true",
        help="a device with another Python may install from its package index",
    )  # fmt: skip
    parser.add_argument(
        "--container", metavar="IMAGE", help="run this image by docker; install nothing"
    )
    parser.add_argument(
        "--compression", type=int, choices=range(10), default=1, metavar="0-9",
        help="of the wheels, by xz; 0: as they come from the index (default: 1)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Build the component, so that its folder is there whole or not at all."""
    plan = _plan(arguments)
    out = GDK_FOLDER if arguments.gdk else arguments.out
    if out is None:
        raise InvalidConfiguration(
            "Name the folder to write: edge-agent component build --out FOLDER"
        )
    if not arguments.gdk:
        check_free(out)
    staging = out.with_name(f".{out.name}.building")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
        write(staging, plan)
        if arguments.gdk:  # gdk made the folder already, and looks for the recipe in it
            (staging / TEMPLATE).rename(staging / "recipes" / TEMPLATE)
            shutil.rmtree(out, ignore_errors=True)
        staging.rename(out)
    except OSError as error:
        raise InvalidConfiguration(f"{out} can't be written: {error.strerror}.") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    _show(out, plan)
    return 0


def _plan(arguments: argparse.Namespace) -> ComponentPlan:
    name = _gdk_name() if arguments.gdk else arguments.component_name
    if not re.fullmatch(NAME_PATTERN, name) or not name.strip("."):
        raise InvalidConfiguration(
            f"--component-name {name!r}: expected 1 to 128 letters, digits, - _ and ."
        )
    if arguments.container and not re.fullmatch(r"[\w.:/@-]+", arguments.container):
        raise InvalidConfiguration(f"--container {arguments.container!r} isn't an image's name.")
    everything = arguments.architecture == "all"
    pythons = _pythons(arguments.python or "{}.{}".format(*sys.version_info))
    if arguments.container and arguments.python:
        raise InvalidConfiguration("--python: a --container has its own Python; leave it out.")
    if arguments.jetson:
        _check_jetson(arguments.architecture, pythons if arguments.python else ())
    return ComponentPlan(
        name=name,
        architectures=ARCHITECTURES if everything else (arguments.architecture,),
        pythons=pythons,
        has_jetson=arguments.jetson,
        settings=arguments.config,
        image=arguments.container,
        may_use_index=arguments.allow_index,
        level=arguments.compression,
    )


def _check_jetson(architecture: str, pythons: Tuple[str, ...]) -> None:
    """Raise InvalidConfiguration for options that --jetson leaves without effect.

    `pythons`: those that were asked for.
    """
    if architecture == "amd64":
        raise InvalidConfiguration("--jetson is for aarch64, and --architecture says amd64.")
    if architecture == "aarch64" and pythons and pythons != (JETPACK_PYTHON,):
        raise InvalidConfiguration(
            f"--python {','.join(pythons)}: --jetson builds for JetPack 5, whose Python is "
            f"{JETPACK_PYTHON}. Leave --python out; or leave --jetson out, for devices with "
            "another Python."
        )


def _pythons(text: str) -> Tuple[str, ...]:
    versions = [tuple(map(int, part.split("."))) for part in text.split(",") if _is_python(part)]
    if len(versions) != text.count(",") + 1 or len(set(versions)) != len(versions):
        oldest = ".".join(map(str, OLDEST_PYTHON))
        raise InvalidConfiguration(
            f"--python {text!r}: expected versions from {oldest}, such as 3.8,3.11, each once."
        )
    return tuple(".".join(map(str, version)) for version in sorted(versions, reverse=True))


def _is_python(text: str) -> bool:
    return bool(re.fullmatch(r"3\.\d{1,2}", text)) and int(text[2:]) >= OLDEST_PYTHON[1]


def _gdk_name() -> str:
    """Return the component's name; its version must be the project's."""
    try:
        ((name, component),) = json.loads(GDK_FILE.read_bytes())["component"].items()
        version = component["version"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InvalidConfiguration(f"{GDK_FILE} can't be used here: {error}") from None
    if version != __version__:
        raise InvalidConfiguration(
            f"{GDK_FILE} has version {version}; the project's is {__version__}. Write that."
        )
    return str(name)


def _show(out: Path, plan: ComponentPlan) -> None:
    sys.stdout.write(f"{plan.name} {__version__} in {out}\n")
    for architecture in plan.architectures:
        devices = plan.devices(architecture)
        only = " (JetPack 5 has no other)" * devices[0].is_jetson
        pythons = f"for Python {', '.join(device.python for device in devices)}{only}"
        for path in out.glob(f"artifacts/*/*/edge-agent-{architecture}.zip"):
            size = f"{path.stat().st_size / MIB:.1f} MiB"
            sys.stdout.write(f"{path.name}: {size}, {pythons}\n")
