"""`edge-agent doctor`: what this machine has, and what is missing for what.

Every finding is looked up, never assumed: libraries by their metadata, the GPU by its device files,
so that the command works where nothing is installed. With the settings of an agent it also tries
their MQTT broker, and tells what the agent last said of its results.
"""

from __future__ import annotations

import argparse
import ctypes.util
import grp
import importlib.util
import json
import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edge_agent.config import MqttSettings, ResultsSettings, load
from edge_agent.errors import InvalidConfiguration
from edge_agent.runtime.results.broker import probe

OK, MISSING, PROBLEM = "ok", "missing", "problem"
MIB = 1024 * 1024
LEAST_FREE_MIB = 16  # what the outbox needs besides its rows
LARGEST_FRAME_BYTES = 4096 * 4096 * 3

# Distributions that install the same files: of each group at most one.
EXCLUSIVE = (
    ("onnxruntime", "onnxruntime-gpu"),
    ("opencv-python", "opencv-python-headless", "opencv-contrib-python",
     "opencv-contrib-python-headless"),
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One line of the report; `state` is ok, missing (something optional) or problem."""

    what: str
    state: str
    detail: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of `doctor`."""
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--config", type=Path, help="settings file of the agent (JSON)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="any setting, repeatable"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; 1 when one of them is a problem."""
    findings = [finding for probe in PROBES for finding in probe()]
    try:
        findings += _results(load(arguments.config, os.environ, arguments.set).results)
    except InvalidConfiguration as error:
        findings.append(Finding("settings", PROBLEM, str(error)))
    if arguments.json:
        for finding in findings:
            sys.stdout.write(json.dumps(asdict(finding)) + "\n")
    else:
        colors = {OK: "green", MISSING: "yellow", PROBLEM: "bold red"}
        table = Table("what", "state", "detail")
        for finding in findings:
            state = f"[{colors[finding.state]}]{finding.state}"
            table.add_row(finding.what, state, escape(finding.detail))
        Console().print(table)
    return 1 if any(finding.state == PROBLEM for finding in findings) else 0


def _machine() -> List[Finding]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = models[0] if models else platform.machine()
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return [
        Finding("CPU", OK, f"{name}, {os.cpu_count()} cores, {platform.machine()}"),
        Finding("memory", OK, f"{pages // MIB} MiB"),
        Finding("Python", OK, platform.python_version()),
    ]


def _libraries() -> List[Finding]:
    needed_for = {
        "onnxruntime": "models on the CPU: pip install 'edge-agent[cpu]'",
        "onnx": "training: pip install 'edge-agent[train]'",
        "awsiotsdk": "publishing results to AWS IoT: pip install awsiotsdk",
        "boto3": "uploading captures: pip install 'edge-agent[publish]'",
    }
    findings = []
    for name, purpose in needed_for.items():
        version = _version(name) or (name == "onnxruntime" and _version("onnxruntime-gpu")) or None
        detail = version or f"needed for {purpose}"
        findings.append(Finding(name, OK if version else MISSING, detail))
    return findings


def _conflicts() -> List[Finding]:
    findings = []
    for group in EXCLUSIVE:
        there = [name for name in group if _version(name)]
        if len(there) > 1:
            detail = (
                f"{' and '.join(there)} overwrite each other's files. Uninstall all of them, "
                f"then install one."
            )
            findings.append(Finding(group[0], PROBLEM, detail))
    return findings


def _providers() -> List[Finding]:
    try:
        import onnxruntime as ort
    except ImportError:
        return []
    listed = ", ".join(ort.get_available_providers())
    note = "built in; whether one works shows only when a model runs on it"
    return [Finding("onnxruntime providers", OK, f"{listed} ({note})")]


def _gpu() -> List[Finding]:
    jetson = Path("/etc/nv_tegra_release")
    driver = Path("/proc/driver/nvidia/version")
    if jetson.is_file():
        gpu = Finding("GPU", OK, "Jetson, " + jetson.read_text().splitlines()[0].strip("# "))
    elif driver.is_file():
        gpu = Finding("GPU", OK, driver.read_text().splitlines()[0])
    else:
        gpu = Finding("GPU", MISSING, "no NVIDIA driver; models run on the CPU")
    cuda = ctypes.util.find_library("cudart")
    tensorrt = importlib.util.find_spec("tensorrt") is not None
    return [
        gpu,
        Finding("CUDA", OK if cuda else MISSING, cuda or "no CUDA runtime library (libcudart)"),
        Finding(
            "TensorRT",
            OK if tensorrt else MISSING,
            _version("tensorrt") or "present"
            if tensorrt
            else "no Python module tensorrt; it comes with JetPack or NVIDIA's packages",
        ),
    ]


def _shared_memory() -> List[Finding]:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return [Finding("shared memory", PROBLEM, "/dev/shm isn't mounted")]
    free = shutil.disk_usage(folder).free
    state = OK if free >= 2 * LARGEST_FRAME_BYTES else PROBLEM
    detail = f"{free // MIB} MiB free in /dev/shm"
    if state is PROBLEM:
        detail += "; a 4096x4096 frame and its mask need 96 MiB (docker run --shm-size)"
    return [Finding("shared memory", state, detail)]


def _groups() -> List[Finding]:
    try:
        group = grp.getgrnam("ggc_group")
    except KeyError:
        detail = "no group ggc_group; clients must run as the agent's user (server.socket_group)"
        return [Finding("groups", MISSING, detail)]
    inside = os.geteuid() == 0 or group.gr_gid in os.getgroups()
    detail = "this user can hand the socket to ggc_group" if inside else "user isn't in ggc_group"
    return [Finding("groups", OK if inside else MISSING, detail)]


def _greengrass() -> List[Finding]:
    version = os.environ.get("GGC_VERSION")
    detail = f"nucleus {version}" if version else "not running as a Greengrass component"
    return [Finding("Greengrass", OK if version else MISSING, detail)]


def _results(settings: ResultsSettings) -> List[Finding]:
    findings = _mqtt(settings.mqtt) if settings.mqtt.endpoint else []
    lines = Path(settings.lines).parent if settings.lines not in ("", "-") else None
    folders = {"results": settings.folder, "lines": lines, "captures": settings.capture.folder}
    findings += [_folder(name, path) for name, path in folders.items() if path is not None]
    status = settings.folder / "status.json" if settings.folder else None
    if status is None or not status.exists():
        return findings
    try:
        told = json.loads(status.read_bytes())
        sinks, disk = dict(told["sinks"]), str(told.get("outbox", {}).get("trouble", ""))
        told_at = told.get("time", "an unknown time")
        findings += [_delivery(name, dict(sink)) for name, sink in sorted(sinks.items())]
    except OSError as error:
        sentence = f"{status} can't be read: {error.strerror}."
    except (ValueError, TypeError, KeyError):
        sentence = f"{status} isn't what an agent writes; it is replaced when the agent runs."
    else:
        said = disk or "they could be stored"
        sentence = f"{said} (as of {told_at})"
        return [*findings, Finding("results", PROBLEM if disk else OK, sentence)]
    return [*findings, Finding("results", PROBLEM, sentence)]


def _folder(name: str, folder: Path) -> Finding:
    """Look whether this user can write there; a folder that isn't there yet is made."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not os.access(there, os.W_OK):
        return Finding(f"folder of {name}", PROBLEM, f"{there} can't be written by this user")
    free = shutil.disk_usage(there).free // MIB
    detail = f"{folder} has {free} MiB free"
    return Finding(f"folder of {name}", OK if free >= LEAST_FREE_MIB else PROBLEM, detail)


def _delivery(name: str, sink: Dict[str, Any]) -> Finding:
    """Read what a running agent last wrote of one of its sinks."""
    trouble, waiting = str(sink.get("trouble", "")), int(sink.get("waiting", 0))
    detail = f"{trouble} {waiting} results wait" if trouble else f"delivered; {waiting} wait"
    since = f" since {sink['since']}" if trouble and sink.get("since") else ""
    return Finding(f"results to {name}", PROBLEM if trouble else OK, f"{detail}{since}")


def _mqtt(settings: MqttSettings) -> List[Finding]:
    try:
        encrypted = probe.is_encrypted(settings)
    except InvalidConfiguration as error:
        return [Finding("MQTT broker", PROBLEM, str(error))]
    trouble = probe.diagnose(settings)
    where = f"{settings.endpoint}:{settings.port}"
    found = f"{where} is reached, {'with TLS' if encrypted else 'without TLS'}"
    findings = [Finding("MQTT broker", PROBLEM if trouble else OK, trouble or found)]
    if settings.key and settings.key.exists():
        open_to_all = settings.key.stat().st_mode & 0o007
        detail = f"{settings.key} can be used by every user of this device: chmod o= {settings.key}"
        mine = f"{settings.key} is closed to other users"
        findings.append(
            Finding("MQTT key", PROBLEM if open_to_all else OK, detail if open_to_all else mine)
        )
    return findings


def _version(distribution: str) -> Optional[str]:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


PROBES: List[Callable[[], List[Finding]]] = [
    _machine, _libraries, _conflicts, _providers, _gpu, _shared_memory, _groups, _greengrass,
]  # fmt: skip
