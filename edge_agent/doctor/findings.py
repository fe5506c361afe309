"""What the doctor finds: a line of its report."""

from __future__ import annotations

from dataclasses import dataclass

OK, MISSING, PROBLEM = "ok", "missing", "problem"
MIB = 1024 * 1024


@dataclass(frozen=True)
class Finding:
    """One line of the report; `state` is ok, missing (something optional) or problem."""

    what: str
    state: str
    detail: str
