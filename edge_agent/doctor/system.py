"""The machine and its system."""

from __future__ import annotations

import grp
import os
import platform
import shutil
from pathlib import Path
from typing import List

from edge_agent.doctor.findings import MIB, MISSING, OK, PROBLEM, Finding

LARGEST_FRAME_BYTES = 4096 * 4096 * 3


def machine() -> List[Finding]:
    """Tell processor, memory and Python."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = models[0] if models else platform.machine()
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return [
        Finding("CPU", OK, f"{name}, {os.cpu_count()} cores, {platform.machine()}"),
        Finding("memory", OK, f"{pages // MIB} MiB"),
        Finding("Python", OK, platform.python_version()),
    ]


def shared_memory() -> List[Finding]:
    """Look whether frames of clients have room."""
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return [Finding("shared memory", PROBLEM, "/dev/shm isn't mounted")]
    free = shutil.disk_usage(folder).free
    state = OK if free >= 2 * LARGEST_FRAME_BYTES else PROBLEM
    detail = f"{free // MIB} MiB free in /dev/shm"
    if state is PROBLEM:
        detail += "; a 4096x4096 frame and its mask need 96 MiB (docker run --shm-size)"
    return [Finding("shared memory", state, detail)]


def groups() -> List[Finding]:
    """Look whether other components can use the socket."""
    try:
        group = grp.getgrnam("ggc_group")
    except KeyError:
        detail = "no group ggc_group; clients must run as the agent's user (server.socket_group)"
        return [Finding("groups", MISSING, detail)]
    inside = os.geteuid() == 0 or group.gr_gid in os.getgroups()
    detail = "this user can hand the socket to ggc_group" if inside else "user isn't in ggc_group"
    return [Finding("groups", OK if inside else MISSING, detail)]


def greengrass() -> List[Finding]:
    """Tell the nucleus."""
    version = os.environ.get("GGC_VERSION")
    detail = f"nucleus {version}" if version else "not running as a Greengrass component"
    return [Finding("Greengrass", OK if version else MISSING, detail)]
