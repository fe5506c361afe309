"""A server's process and everything it started: what it used, and its certain end; proc(5)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Mapping, Sequence, Tuple

PROC = Path("/proc")
END_WITHIN_S = 15.0
_TICKS = os.sysconf("SC_CLK_TCK")
_STATE, _PARENT, _SESSION, _USER_TIME, _SYSTEM_TIME, _START = 0, 1, 3, 11, 12, 19  # of `_stat`


@dataclass(frozen=True)
class TreeUsage:
    """What a process tree has used so far and holds now."""

    cpu_s: float
    memory_mib: float


@contextmanager
def running(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in `folder`, its output in `log`; nothing of it is left afterwards."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches only the benchmark, which then ends it
        )
    try:
        yield process
    finally:
        _end(process)


def usage(root: int) -> TreeUsage:
    """Return what the tree of process `root` uses; processes that end meanwhile count nothing."""
    cpu_ticks = memory_kib = 0
    for pid in tree(root):
        try:
            fields = _stat(pid)
            rollup = (PROC / str(pid) / "smaps_rollup").read_text()
        except OSError:
            continue
        cpu_ticks += int(fields[_USER_TIME]) + int(fields[_SYSTEM_TIME])
        memory_kib += int(rollup.split("\nPss:")[1].split()[0])
    return TreeUsage(cpu_ticks / _TICKS, memory_kib / 1024)


def tree(root: int) -> List[int]:
    """Return `root` and all processes below it."""
    return _below(root, _processes())


def free_ports() -> Tuple[int, int, int]:
    """Return TCP ports that nobody listened on a moment ago."""
    sockets = (socket.socket(), socket.socket(), socket.socket())
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        first, second, third = (int(one.getsockname()[1]) for one in sockets)
        return first, second, third
    finally:
        for one in sockets:
            one.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stop the root, then kill what remains of its tree and session."""
    now = _processes()
    family = {pid for pid, fields in now.items() if int(fields[_SESSION]) == process.pid}
    family |= now.keys() & set(_below(process.pid, now))
    members = [(pid, now[pid][_START]) for pid in family]
    process.terminate()
    deadline = time.monotonic() + END_WITHIN_S
    while time.monotonic() < deadline and any(map(_alive, members)):
        process.poll()
        time.sleep(0.05)
    for member in members:
        if _alive(member):
            os.kill(member[0], signal.SIGKILL)
    process.wait(END_WITHIN_S)


def _alive(member: Tuple[int, str]) -> bool:
    """Whether the process still runs; by its start, as a later one may have the same number."""
    try:
        fields = _stat(member[0])
    except OSError:
        return False
    return fields[_STATE] != "Z" and fields[_START] == member[1]


def _below(root: int, processes: Dict[int, List[str]]) -> List[int]:
    children: Dict[int, List[int]] = {}
    for pid, fields in processes.items():
        children.setdefault(int(fields[_PARENT]), []).append(pid)
    found = [root]
    for pid in found:  # grows while it is walked
        found.extend(children.get(pid, ()))
    return found


def _processes() -> Dict[int, List[str]]:
    found: Dict[int, List[str]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it may end meanwhile
                found[int(entry.name)] = _stat(int(entry.name))
    return found


def _stat(pid: int) -> List[str]:
    """Return the fields of /proc/<pid>/stat from the state on; the name before may hold blanks."""
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
