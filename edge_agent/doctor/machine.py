"""The machine: processor, memory, Python packages, shared memory, groups, Greengrass.

Packages are looked up by their metadata, so that none is loaded.
"""

from __future__ import annotations

import grp
import os
import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import List, Optional

from edge_agent.doctor import MIB, MISSING, OK, PROBLEM, CheckResult
from edge_agent.protocol import LARGEST_FRAME_BYTES, SOCKET_GROUP

# Distributions that install the same files: of each group at most one.
EXCLUSIVE = (
    ("onnxruntime", "onnxruntime-gpu"),
    ("opencv-python", "opencv-python-headless", "opencv-contrib-python",
     "opencv-contrib-python-headless"),
)  # fmt: skip


def hardware() -> List[CheckResult]:
    """Name the processor, the memory and Python."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = models[0] if models else platform.machine()
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return [
        CheckResult("CPU", OK, f"{name}, {os.cpu_count()} cores, {platform.machine()}"),
        CheckResult("memory", OK, f"{pages // MIB} MiB"),
        CheckResult("Python", OK, platform.python_version()),
    ]


def shared_memory() -> List[CheckResult]:
    """Check that frames of clients have room."""
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return [
            CheckResult(
                "shared memory",
                PROBLEM,
                "/dev/shm isn't mounted; clients can send frames as bytes only",
            )
        ]
    free = shutil.disk_usage(folder).free
    state = OK if free >= 2 * LARGEST_FRAME_BYTES else PROBLEM
    detail = f"{free // MIB} MiB free in /dev/shm"
    if state is PROBLEM:
        detail += "; a 4096x4096 frame and its mask need 96 MiB (docker run --shm-size)"
    return [CheckResult("shared memory", state, detail)]


def groups() -> List[CheckResult]:
    """Check that other components can use the socket."""
    try:
        group = grp.getgrnam(SOCKET_GROUP)
    except KeyError:
        detail = (
            f"there is no group {SOCKET_GROUP}: clients must run as the agent's user, or set "
            "server.socket_group"
        )
        return [CheckResult("groups", MISSING, detail)]
    inside = os.geteuid() == 0 or group.gr_gid in os.getgroups()
    detail = f"this user is{'' if inside else ' not'} a member of {SOCKET_GROUP}"
    return [CheckResult("groups", OK if inside else MISSING, detail)]


def greengrass() -> List[CheckResult]:
    """Name the nucleus."""
    version = os.environ.get("GGC_VERSION")
    detail = f"nucleus {version}" if version else "not running as a Greengrass component"
    return [CheckResult("Greengrass", OK if version else MISSING, detail)]


def packages() -> List[CheckResult]:
    """List versions, and what missing packages are needed for."""
    needed_for = {
        "onnxruntime": "models on the CPU: pip install 'edge-agent[cpu]'",
        "onnx": "training: pip install 'edge-agent[train]'",
        "awsiotsdk": "publishing results to AWS IoT: pip install awsiotsdk",
        "boto3": "uploading captures: pip install 'edge-agent[publish]'",
    }
    found = []
    for name, purpose in needed_for.items():
        version = _version(name) or (name == "onnxruntime" and _version("onnxruntime-gpu")) or None
        detail = version or f"needed for {purpose}"
        found.append(CheckResult(name, OK if version else MISSING, detail))
    return found


def package_conflicts() -> List[CheckResult]:
    """Find distributions that install the same files."""
    found = []
    for group in EXCLUSIVE:
        installed = [name for name in group if _version(name)]
        if len(installed) > 1:
            detail = (
                f"{' and '.join(installed)} overwrite each other's files. Uninstall all of them, "
                f"then install one."
            )
            found.append(CheckResult(group[0], PROBLEM, detail))
    return found


def _version(distribution: str) -> Optional[str]:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
