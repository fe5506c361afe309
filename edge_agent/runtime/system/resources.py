"""What this process may use: cores and memory of the machine, of its affinity and of its cgroups.

A cgroup binds all below it, so each one counts from the process's own up to the root, as far as it
can be seen: a container often sees only its own, at the top of the mount, while the process's path
is the machine's. Sources: proc(5), sched_setaffinity(2), the kernel's admin guide on cgroups v1
(memory, cpu) and v2. `root` is the folder that holds proc and sys.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Dict, Iterator, Optional

ROOT = Path("/")
MOUNT = "sys/fs/cgroup"
V2_MOUNTS = (MOUNT, f"{MOUNT}/unified")  # the latter beside v1, "hybrid"
# Of v2, where beyond the second a process is slowed down until it stands still; of v1.
MEMORY_LIMITS = ("memory.max", "memory.high", "memory.limit_in_bytes")
MEMORY_USED = ("memory.current", "memory.usage_in_bytes")


def cores(root: Path = ROOT) -> int:
    """Return how many threads can compute at a time without being throttled; at least 1.

    A quota of one and a half cores is one: the second thread would use up the quota of both, and
    frames would stand still until the next period.
    """
    allowed = len(os.sched_getaffinity(0))
    quotas = [quota for group in _cgroups("cpu", root) if (quota := _quota(group)) is not None]
    return max(1, int(min([allowed, *quotas])))


def memory_bytes(root: Path = ROOT) -> int:
    """Return the memory that this process may use in all."""
    limits = [limit for group in _cgroups("memory", root) if (limit := _limit(group)) is not None]
    return min([_machine_memory(root)["MemTotal"], *limits])


def available_bytes(root: Path = ROOT) -> int:
    """Return the memory that this process may still take; not below 0."""
    memory = _machine_memory(root)
    left = [memory.get("MemAvailable", memory["MemFree"])]
    for group in _cgroups("memory", root):
        limit, used = _limit(group), _number(group, *MEMORY_USED)
        if limit is not None and used is not None:
            left.append(limit - used + _cached(group))
    return max(0, min(left))


def resident_bytes() -> int:
    """Return this process's resident set."""
    pages = int((ROOT / "proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")  # 4, 16 or 64 KiB, as the kernel was built


def _cgroups(controller: str, root: Path) -> Iterator[Path]:
    """Yield the folders of this process's cgroups with `controller`, the innermost first."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        mounts = V2_MOUNTS
        if controllers:  # of v1
            mounts = (f"{MOUNT}/{controllers}", f"{MOUNT}/{controller}")
            if controller not in controllers.split(","):
                continue
        for mount in mounts:
            yield from _from_own_to_top(root / mount, PurePosixPath(path).parts[1:])


def _from_own_to_top(mount: Path, parts: tuple[str, ...]) -> Iterator[Path]:
    """Yield the cgroup at `parts` below `mount`, and those above it.

    In a container the mount may begin further down than the path, in the middle of it or at its
    end; ".." leads out of what can be seen.
    """
    seen = [part for part in parts if part != ".."]
    while seen and not mount.joinpath(*seen).is_dir():
        del seen[0]
    for end in range(len(seen), -1, -1):
        yield mount.joinpath(*seen[:end])


def _quota(group: Path) -> Optional[float]:
    """Return how many cores a cgroup may keep busy; None: as many as there are."""
    quota, _, period = _text(group / "cpu.max").strip().partition(" ")
    if not quota:  # v1
        quota = _text(group / "cpu.cfs_quota_us").strip()
        period = _text(group / "cpu.cfs_period_us").strip()
    if not (quota.isdecimal() and period.isdecimal()) or int(period) == 0:
        return None  # "max" in v2, -1 in v1
    return int(quota) / int(period)


def _limit(group: Path) -> Optional[int]:
    """Return a cgroup's memory limit in bytes; None: there is none."""
    limits = [_number(group, name) for name in MEMORY_LIMITS]
    limits.append(_statistics(group).get("hierarchical_memory_limit"))  # v1: also of those above
    return min((limit for limit in limits if limit is not None), default=None)


def _cached(group: Path) -> int:
    """Return the bytes of files that a cgroup caches and the kernel frees when they are needed."""
    found = _statistics(group)
    # In v1 only the totals count the cgroups below, as memory.usage_in_bytes does.
    names = ("active_file", "inactive_file")
    return sum(found.get(f"total_{name}", found.get(name, 0)) for name in names)


def _statistics(group: Path) -> Dict[str, int]:
    return _numbers(r"(\w+) (\d+)", _text(group / "memory.stat"))


def _machine_memory(root: Path) -> Dict[str, int]:
    kib = _numbers(r"(\w+): +(\d+) kB", _text(root / "proc/meminfo"))
    return {name: 1024 * size for name, size in kib.items()}


def _numbers(pattern: str, text: str) -> Dict[str, int]:
    return {name: int(value) for name, value in re.findall(pattern, text)}


def _number(group: Path, *names: str) -> Optional[int]:
    """Return the number in the first of the files that holds one."""
    texts = (_text(group / name).strip() for name in names)
    return next((int(text) for text in texts if text.isdecimal()), None)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
