"""`edge-agent package`: one packaging job on this machine."""

from __future__ import annotations

import argparse
import re
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Tuple, get_args

from rich.console import Console

from edge_agent.captures.upload import S3Location
from edge_agent.errors import InvalidConfiguration
from edge_agent.fields import read
from edge_agent.manifest import Manifest
from edge_agent.packaging.component import Order
from edge_agent.packaging.component import run as run_job
from edge_agent.packaging.component_spec import Component
from edge_agent.packaging.draft import open_draft
from edge_agent.packaging.graph.engine import Tuning
from edge_agent.packaging.graph.findings import GraphFinding, note
from edge_agent.packaging.jobs import Job, Jobs
from edge_agent.packaging.jobs_command import add_folder_argument
from edge_agent.packaging.options import table
from edge_agent.packaging.preparation import Preparation
from edge_agent.packaging.recipe import AGENT
from edge_agent.packaging.target import DEVICES, parse
from edge_agent.targets import Precision

S3 = "s3://"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of `package`."""
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="model package, folder or zip, or an ONNX file"
    )
    parser.add_argument(
        "--manifest", type=Path, metavar="FILE",
        help="for an ONNX file: JSON object with what the graph doesn't have, in the words of "
        "manifest.json; always name, and input.scale for float32 input; constants for inputs that "
        "are no picture",
    )  # fmt: skip
    _add_target(parser)
    _add_preparation(parser)
    _add_component(parser)
    parser.add_argument(
        "--out", required=True, metavar="FOLDER|s3://BUCKET/PREFIX",
        help="to write; s3:// uploads the component and leaves nothing here",
    )  # fmt: skip
    parser.add_argument("--job-name", help="(default: a new one)")
    parser.add_argument("--client-token", help="the same one within 8 hours is the same job")
    add_folder_argument(parser)


def _add_target(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("target", "exactly one of device and platform")
    group.add_argument(
        "--target-device", metavar="|".join(DEVICES), help="a machine known by its name"
    )
    group.add_argument(
        "--target-platform", metavar="os=LINUX,arch=ARM64|X86_64[,accelerator=NVIDIA]",
        help="any other; with the accelerator TensorRT runs the model, else the CPU",
    )  # fmt: skip
    group.add_argument(
        "--compiler-options", metavar="JSON",
        help='{"gpu-code": "sm_72", "trt-ver": "8.5.2", "cuda-ver": "11.4"}; on a CPU '
        '{"mcpu": "core-avx2", "mattr": []}',
    )  # fmt: skip


def _add_preparation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument(
        "--precision", choices=get_args(Precision),
        help="smallest numbers an NVIDIA device may compute with (default: the manifest's)",
    )  # fmt: skip
    group.add_argument(
        "--calibration-images", type=Path, metavar="FOLDER",
        help="pictures of normal production, which give int8 its ranges; at most 500 are packed",
    )  # fmt: skip
    group.add_argument(
        "--golden-images", type=Path, metavar="FOLDER",
        help="pictures whose results the device must reproduce before the model runs, for a "
        "package without golden samples, best in the sub-folders normal and anomaly; at most 16 "
        "are packed",
    )  # fmt: skip
    group.add_argument(
        "--optimise", action="store_true",
        help="CPU targets: add a graph optimised beforehand for exactly this machine's "
        "instruction set and onnxruntime",
    )  # fmt: skip
    group.add_argument(
        "--optimisation-level", type=int, choices=range(6), metavar="0-5",
        help="NVIDIA, from TensorRT 8.6 on: how long building looks for fast kernels (default: "
        "TensorRT's own, 3)",
    )  # fmt: skip
    group.add_argument(
        "--hardware-compatible", action="store_true",
        help="the same: an engine for every GPU of compute capability 8.0 and newer but Jetson's",
    )  # fmt: skip
    group.add_argument(
        "--version-compatible", action="store_true",
        help="the same: an engine that stays usable after an upgrade of TensorRT within its "
        "major version",
    )  # fmt: skip
    group.add_argument(
        "--signing-key", type=Path, metavar="PEM", help="Ed25519 private key to sign with"
    )


def _add_component(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("component")
    group.add_argument("--component-name", required=True, help="of the model component")
    group.add_argument("--component-version", help="(default: the model's version, then .0.0)")
    group.add_argument("--description", help="of the component (default: the model's)")
    group.add_argument(
        "--tag", action="append", default=[], metavar="KEY=VALUE", help="of the job; repeatable"
    )
    group.add_argument(
        "--agent-component", default=AGENT, metavar="NAME",
        help=f"the agent's component, on which this one depends (default: {AGENT})",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Do the job unless its token stands for an earlier one; 1 when it failed."""
    order = _order(arguments)
    jobs = Jobs(arguments.jobs_folder)
    job, is_new = jobs.create(order.to_request(), arguments.job_name, arguments.client_token)
    if is_new:
        job = run_job(jobs, job, order, _show)
    else:
        _show(_repeated(job))
    if job.status == "FAILED":
        sys.stderr.write(f"edge-agent: Job {job.name} FAILED: {job.message}\n")
        return 1
    component, place = order.component, order.upload or job.out
    Console(soft_wrap=True, markup=False, highlight=False).print(
        f"Job {job.name} {job.status}: {component.name} {component.version} in {place}"
    )
    return 0


def _repeated(job: Job) -> GraphFinding:
    made = datetime.fromtimestamp(job.created, timezone.utc)
    return note(
        f"This is job {job.name} of {made:%H:%M} UTC again, as --client-token is the same; nothing "
        "was made now. To run it again, use another token."
    )


def _order(arguments: argparse.Namespace) -> Order:
    target = parse(arguments.target_device, arguments.target_platform, arguments.compiler_options)
    tuning = Tuning(
        arguments.optimisation_level, arguments.hardware_compatible, arguments.version_compatible
    )
    tuning.check(target)
    draft = open_draft(arguments.model, arguments.manifest)
    component = _component(arguments, draft.manifest)
    out, upload = _place(arguments, component)
    return Order(
        draft=draft,
        component=component,
        target=target,
        preparation=Preparation(
            precision=arguments.precision,
            golden_images=arguments.golden_images,
            calibration_images=arguments.calibration_images,
            optimise=arguments.optimise,
            tuning=tuning,
        ),
        out=out,
        signing_key=arguments.signing_key,
        upload=upload,
    )


def _place(arguments: argparse.Namespace, component: Component) -> Tuple[Path, str]:
    """Return the folder to write and where to upload it, if anywhere."""
    if not arguments.out.startswith(S3):
        return Path(arguments.out).absolute(), ""
    S3Location.parse(arguments.out)
    name = f"{component.name}-{component.version}"
    return arguments.jobs_folder.absolute() / "components" / name, arguments.out


def _show(finding: GraphFinding) -> None:
    sys.stderr.write(f"edge-agent: {finding.severity}: {finding.text}\n")


def _component(arguments: argparse.Namespace, manifest: Manifest) -> Component:
    values = {
        "name": arguments.component_name,
        "version": arguments.component_version or _default_version(manifest),
        "description": arguments.description or manifest.description or f"Model {manifest.name}",
        "tags": table("--tag", arguments.tag),
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
