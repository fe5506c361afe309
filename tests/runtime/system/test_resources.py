"""What a process may use, on machines and in containers as they are built from files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Dict

import pytest

from edge_agent.runtime.system import memory, resources

MIB = 1024 * 1024
NONE_V1 = "9223372036854771712"
CORES = len(os.sched_getaffinity(0))
V1, CPU = "sys/fs/cgroup/memory", "sys/fs/cgroup/cpu,cpuacct"

# what holds → the cgroup files; a machine of 8,000 MiB of which 6,000 are available
MEMORY = {
    "no limit in v2": (8000, 6000, "0::/a", {"sys/fs/cgroup/a/memory.max": "max"}),
    "v2, its own": (512, 400, "0::/a", {
        "sys/fs/cgroup/a/memory.max": 512 * MIB, "sys/fs/cgroup/a/memory.current": 112 * MIB,
    }),
    "v2, the limit of a cgroup above": (1000, 100, "0::/line.slice/a.service", {
        "sys/fs/cgroup/line.slice/memory.max": 1000 * MIB,
        "sys/fs/cgroup/line.slice/memory.current": 900 * MIB,
        "sys/fs/cgroup/line.slice/a.service/memory.max": "max",
        "sys/fs/cgroup/line.slice/a.service/memory.current": 10 * MIB,
    }),
    "v2, where it is slowed down": (700, 600, "0::/", {
        "sys/fs/cgroup/memory.max": 900 * MIB, "sys/fs/cgroup/memory.high": 700 * MIB,
        "sys/fs/cgroup/memory.current": 100 * MIB,
    }),
    "v2, files that are cached don't count": (512, 412, "0::/", {
        "sys/fs/cgroup/memory.max": 512 * MIB, "sys/fs/cgroup/memory.current": 500 * MIB,
        "sys/fs/cgroup/memory.stat":
            f"anon 1\nactive_file {300 * MIB}\ninactive_file {100 * MIB}\n",
    }),
    "v2, used up": (512, 0, "0::/", {
        "sys/fs/cgroup/memory.max": 512 * MIB, "sys/fs/cgroup/memory.current": 513 * MIB,
    }),
    "no limit in v1": (8000, 6000, "4:memory:/a", {
        f"{V1}/memory.limit_in_bytes": NONE_V1, f"{V1}/memory.usage_in_bytes": 900 * MIB,
        f"{V1}/a/memory.limit_in_bytes": NONE_V1, f"{V1}/a/memory.usage_in_bytes": 9 * MIB,
    }),
    "v1, its own": (512, 312, "9:cpu:/x\n4:memory:/a/b", {
        f"{V1}/a/b/memory.limit_in_bytes": 512 * MIB,
        f"{V1}/a/b/memory.usage_in_bytes": 300 * MIB,
        f"{V1}/a/b/memory.stat": f"inactive_file 1\ntotal_inactive_file {100 * MIB}\n",
        "sys/fs/cgroup/cpu/x/memory.limit_in_bytes": MIB,
    }),
    "v1 in a container, whose path is the machine's": (256, 206, "4:memory:/docker/0123", {
        f"{V1}/memory.limit_in_bytes": 256 * MIB, f"{V1}/memory.usage_in_bytes": 50 * MIB,
    }),
    "v1, a limit above what the container sees": (300, 250, "4:memory:/docker/0123", {
        f"{V1}/memory.limit_in_bytes": NONE_V1, f"{V1}/memory.usage_in_bytes": 50 * MIB,
        f"{V1}/memory.stat": f"cache 0\nhierarchical_memory_limit {300 * MIB}\n",
    }),
    "nested in a container": (128, 100, "4:memory:/docker/0123/job", {
        f"{V1}/memory.limit_in_bytes": 256 * MIB, f"{V1}/memory.usage_in_bytes": 50 * MIB,
        f"{V1}/job/memory.limit_in_bytes": 128 * MIB, f"{V1}/job/memory.usage_in_bytes": 28 * MIB,
    }),
    "v2 in a namespace, from outside it": (256, 256, "0::/../../other", {
        "sys/fs/cgroup/memory.max": 256 * MIB, "sys/fs/cgroup/memory.current": 0,
    }),
    "hybrid": (512, 512, "4:memory:/a\n1:name=systemd:/a\n0::/a", {
        f"{V1}/a/memory.limit_in_bytes": 512 * MIB, f"{V1}/a/memory.usage_in_bytes": 0,
        "sys/fs/cgroup/unified/a/cgroup.procs": "1",
    }),
    "hybrid, memory in v2": (512, 512, "4:cpu:/a\n0::/a", {
        "sys/fs/cgroup/unified/a/memory.max": 512 * MIB,
        "sys/fs/cgroup/unified/a/memory.current": 0,
    }),
    "no cgroups at all": (8000, 6000, "", {}),
}  # fmt: skip

# the share of the cores that may be used → the cgroup files
QUOTAS = {
    "v2, none": (CORES, "0::/a", {"sys/fs/cgroup/a/cpu.max": "max 100000"}),
    "v2, half a core": (1, "0::/a", {"sys/fs/cgroup/a/cpu.max": "50000 100000"}),
    "v2, above": (1, "0::/a/b", {
        "sys/fs/cgroup/a/b/cpu.max": "max 100000", "sys/fs/cgroup/a/cpu.max": "150000 100000",
    }),
    "v2, more than there are": (CORES, "0::/", {"sys/fs/cgroup/cpu.max": "9900000 100000"}),
    "v1, none": (CORES, "3:cpu,cpuacct:/", {
        f"{CPU}/cpu.cfs_quota_us": "-1", f"{CPU}/cpu.cfs_period_us": "100000",
    }),
    "v1, one core": (1, "3:cpu,cpuacct:/docker/01", {
        f"{CPU}/cpu.cfs_quota_us": "50000", f"{CPU}/cpu.cfs_period_us": "50000",
    }),
    "v1, under the controller's own name": (1, "3:cpuacct,cpu:/a", {
        "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "100000",
        "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000",
    }),
}  # fmt: skip


def machine(root: Path, own: str, files: Dict[str, object]) -> Path:
    """Write the files of a machine under `root`."""
    meminfo = {"MemTotal": 8000, "MemFree": 1000, "MemAvailable": 6000, "Cached": 5500}
    files = {
        **files,
        "proc/self/cgroup": own + "\n" * bool(own),
        "proc/meminfo": "".join(f"{name}: {1024 * size:9} kB\n" for name, size in meminfo.items()),
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(str(content))
    return root


@pytest.mark.parametrize("name", MEMORY)
def test_memory_is_limited_by_every_cgroup_up_to_the_root(tmp_path: Path, name: str) -> None:
    total, available, own, files = MEMORY[name]
    root = machine(tmp_path, own, files)
    found = resources.memory_bytes(root), resources.available_bytes(root)
    assert found == (total * MIB, available * MIB)


@pytest.mark.parametrize("name", QUOTAS)
def test_cores_are_limited_by_the_quota_of_every_cgroup(tmp_path: Path, name: str) -> None:
    cores, own, files = QUOTAS[name]
    assert resources.cores(machine(tmp_path, own, files)) == cores


def test_this_machine_has_memory_and_cores() -> None:
    assert 0 < resources.resident_bytes() < resources.memory_bytes()
    assert resources.available_bytes() <= resources.memory_bytes()
    assert 1 <= resources.cores() <= CORES


@pytest.mark.skipif(CORES < 2, reason="this machine has one core")
def test_a_process_bound_to_one_core_gives_models_one_thread() -> None:
    program = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from tests.runtime.system.test_resources import *\n"
        "limits, threads = unit_limits(RuntimeSpec(), EngineSettings())\n"
        "print(resources.cores(), limits.maximum, threads)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "1", "1"]


@pytest.mark.parametrize("page_kib", [4, 16, 64])
def test_resident_memory_counts_pages_of_this_kernel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, page_kib: int
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/statm").write_text("9000 1000 10 1 0 300 0\n")
    monkeypatch.setattr(resources, "ROOT", tmp_path)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 1024 * page_kib}.__getitem__)
    assert resources.resident_bytes() == 1000 * 1024 * page_kib


def test_a_model_is_refused_by_the_limit_of_a_cgroup(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, _, own, files = MEMORY["v1, its own"]
    root = machine(tmp_path, own, files)
    monkeypatch.setattr(resources.available_bytes, "__defaults__", (root,))
    memory.check("small", 100 * MIB, None)
    with pytest.raises(memory.OutOfMemory, match=r"needs about 348 MiB to load; 312 MiB are free"):
        memory.check("large", 150 * MIB, None)
