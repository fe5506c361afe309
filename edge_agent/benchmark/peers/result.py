"""What one measurement found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """One server over one transport, under the load of all clients together.

    `failures` are calls that raised; the other figures are of calls that were answered. CPU and
    memory are those of the server's whole process tree: CPU time per answered frame, and the
    proportional set (a page shared by n processes counts 1/n in each) right after the load.
    `score` is what it said about the frame, `marked` the share of its mask's pixels that are not
    white: all servers must say the same. `error` tells why there is no measurement.
    """

    name: str
    version: str
    transport: str
    frames_per_s: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    calls: int = 0
    failures: int = 0
    cpu_ms_per_frame: float = 0.0
    memory_mib: float = 0.0
    score: float = 0.0
    marked: float = 0.0
    error: str = ""
