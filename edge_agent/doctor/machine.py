"""The machine: processor, memory, Python packages, shared memory, groups, Greengrass.

Packages are looked up by their metadata, so that none is loaded.
"""

from __future__ import annotations

import grp
import os
import platform
import re
import shutil
from importlib import metadata
from pathlib import Path
from typing import List, Optional

from edge_agent.doctor import MIB, MISSING, OK, PROBLEM, CheckResult
from edge_agent.protocol import LARGEST_FRAME_BYTES, SOCKET_GROUP
from edge_agent.runtime.system import resources

# Distributions that install the same files: of each group at most one.
EXCLUSIVE = (
    ("onnxruntime", "onnxruntime-gpu"),
    ("opencv-python", "opencv-python-headless", "opencv-contrib-python",
     "opencv-contrib-python-headless"),
)  # fmt: skip


# CPU implementer and part (MIDR_EL1) → its name, for boards of this field
ARM_CORES = {
    ("0x41", "0xd03"): "Cortex-A53",
    ("0x41", "0xd05"): "Cortex-A55",
    ("0x41", "0xd07"): "Cortex-A57",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0c"): "Neoverse-N1",
    ("0x41", "0xd40"): "Neoverse-V1",
    ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x4e", "0x003"): "NVIDIA Denver 2",
    ("0x4e", "0x004"): "NVIDIA Carmel",
}


def hardware() -> List[CheckResult]:
    """Name the processor, the memory and Python."""
    there, cores = os.cpu_count() or 1, resources.cores()
    detail = f"{processor()}, {there} core{'s' * (there > 1)}, {platform.machine()}"
    if cores < there:
        detail += f"; this process may use {cores} of them (affinity, or the CPU quota of a cgroup)"
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MIB
    usable = resources.memory_bytes() // MIB
    memory = f"{total} MiB"
    if usable < total:
        memory += f"; this process may use {usable} MiB of it (the limit of a cgroup)"
    return [
        CheckResult("CPU", OK, detail),
        CheckResult("memory", OK, memory),
        CheckResult("Python", OK, platform.python_version()),
    ]


def processor(root: Path = Path("/")) -> str:
    """Name the processor; on ARM64 the kernel gives numbers, and the device tree the board."""
    text = _text(root / "proc/cpuinfo")
    facts = dict(re.findall(r"^([^:\n]+?)[ \t]*:[ \t]*(.*)$", text, re.MULTILINE))
    if facts.get("model name"):
        return str(facts["model name"])
    number = facts.get("CPU implementer", "").lower(), facts.get("CPU part", "").lower()
    core = ARM_CORES.get(number, f"CPU part {number[1]} of implementer {number[0]}")
    board = _text(root / "sys/firmware/devicetree/base/model").strip("\0\n ")
    return ", ".join(filter(None, (board, core if all(number) else ""))) or platform.machine()


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


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _version(distribution: str) -> Optional[str]:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
