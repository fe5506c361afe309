"""`edge-agent package`: one packaging job on this machine."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Dict, List

from rich.console import Console

from edge_agent.errors import InvalidConfiguration
from edge_agent.fields import read
from edge_agent.manifest import Manifest
from edge_agent.packaging.component import Component
from edge_agent.packaging.component import run as run_job
from edge_agent.packaging.jobs import Jobs, Request
from edge_agent.packaging.jobs_command import add_folder_argument
from edge_agent.packaging.recipe import AGENT
from edge_agent.packaging.target import DEVICES, parse
from edge_agent.runtime.package import Package


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of `package`."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="model package, folder or zip")
    parser.add_argument("--target-device", metavar="|".join(DEVICES))
    parser.add_argument(
        "--target-platform", metavar="os=LINUX,arch=ARM64|X86_64[,accelerator=NVIDIA]"
    )
    parser.add_argument(
        "--compiler-options", metavar="JSON",
        help='{"gpu-code": "sm_72", "trt-ver": "8.5.2", "cuda-ver": "11.4"}; on a CPU '
        '{"mcpu": "core-avx2", "mattr": []}',
    )  # fmt: skip
    parser.add_argument("--component-name", required=True, help="of the model component")
    parser.add_argument("--component-version", help="(default: the model's version, then .0.0)")
    parser.add_argument("--description", help="of the component (default: the model's)")
    parser.add_argument(
        "--tag", action="append", default=[], metavar="KEY=VALUE", help="repeatable"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="to write")
    parser.add_argument("--job-name", help="(default: a new one)")
    parser.add_argument("--client-token", help="the same one within 8 hours is the same job")
    parser.add_argument(
        "--agent-component", default=AGENT, metavar="NAME", help=f"(default: {AGENT})"
    )
    add_folder_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Do the job unless its token stands for an earlier one; 1 when it failed."""
    target = parse(arguments.target_device, arguments.target_platform, arguments.compiler_options)
    package = Package(arguments.model)
    manifest = package.manifest
    component = _component(arguments, manifest)
    request = Request(
        project=manifest.name,
        model_version=manifest.version,
        configuration=component.to_api(target, arguments.out.absolute()),
        digest=package.digest,
    )
    jobs = Jobs(arguments.jobs_folder)
    job, is_new = jobs.create(request, arguments.job_name, arguments.client_token)
    if is_new:
        job = run_job(jobs, job, package, component, target)
    if job.status == "FAILED":
        sys.stderr.write(f"edge-agent: Job {job.name} FAILED: {job.message}\n")
        return 1
    Console(soft_wrap=True, markup=False, highlight=False).print(
        f"Job {job.name} {job.status}: {component.name} {component.version} in {job.out}"
    )
    return 0


def _component(arguments: argparse.Namespace, manifest: Manifest) -> Component:
    values = {
        "name": arguments.component_name,
        "version": arguments.component_version or _default_version(manifest),
        "description": arguments.description or manifest.description or f"Model {manifest.name}",
        "tags": _tags(arguments.tag),
        "agent": arguments.agent_component,
    }
    try:
        return read(Component, values)
    except ValueError as error:
        raise InvalidConfiguration(f"Component: {error}") from None


def _default_version(manifest: Manifest) -> str:
    if not re.fullmatch(r"0|[1-9][0-9]{0,5}", manifest.version):
        raise InvalidConfiguration(
            f"The model's version is {manifest.version!r}, which isn't a whole number; "
            "name the component's with --component-version, such as 1.0.0."
        )
    return f"{manifest.version}.0.0"


def _tags(given: List[str]) -> Dict[str, str]:
    tags: Dict[str, str] = {}
    for tag in given:
        key, equals, value = tag.partition("=")
        if not equals or key in tags:
            raise InvalidConfiguration(f"--tag {tag!r}: expected KEY=VALUE, each key once.")
        tags[key] = value
    return tags
