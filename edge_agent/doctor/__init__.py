"""What this machine has, and what is missing for what: looked up or tried, never assumed."""

from __future__ import annotations

from dataclasses import dataclass

OK, MISSING, PROBLEM = "ok", "missing", "problem"
MIB = 1024 * 1024


@dataclass(frozen=True)
class CheckResult:
    """One line of the report; `state` is ok, missing (something optional) or problem."""

    what: str
    state: str
    detail: str
