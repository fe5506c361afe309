"""The results of the checks: a line each as they end, tables at the end, JSON beside them."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple, Union

from edge_agent.errors import EdgeAgentError
from edge_agent.runtime.system.files import write_atomically

OK, FAILED, SKIPPED = "ok", "FAILED", "skipped"
NAME_WIDTH = 34  # of a check, in its line

Print = Callable[[str], None]
Rows = List[Tuple[str, ...]]


class Skipped(Exception):
    """The check can't be made here; the message is the reason."""


class Failed(Exception):
    """The result isn't as required; the message has both."""


class CheckEnded(BaseException):
    """The run was requested to end; the message is the reason."""


@dataclass(frozen=True)
class CheckOutcome:
    """How a check ended; `detail` is for people."""

    name: str
    state: str
    detail: str
    seconds: float
    goal: str = ""  # that it measures

    def __str__(self) -> str:
        return f"{self.state:8} {self.name:{NAME_WIDTH}} {self.detail} ({self.seconds:.1f} s)"


@dataclass(frozen=True)
class Table:
    """Figures under a title, as text."""

    title: str
    columns: Tuple[str, ...]
    rows: Rows

    def __str__(self) -> str:
        return "\n".join([self.title, *_aligned([self.columns, *self.rows])])


class AcceptanceReport:
    """Runs checks and records their outcomes; `print_line` gets each line as soon as it is known.

    out: file of the JSON, written again after every check. goals: what is to be measured.
    within_s: from now on; checks that aren't begun by then are skipped.
    """

    def __init__(
        self,
        machine: Dict[str, object],
        print_line: Print,
        out: Optional[Path] = None,
        goals: Sequence[str] = (),
        within_s: float = float("inf"),
    ) -> None:
        self.print_line = print_line
        self._machine, self._out, self._goals = machine, out, goals
        self._end_s, self._over = time.monotonic() + within_s, ""
        self._late = f"the {within_s:g} s of --within were over"
        self._is_running = False
        self._outcomes: List[CheckOutcome] = []
        self._tables: List[Table] = []

    def check(self, name: str, step: Callable[[], str], goal: str = "") -> bool:
        """Run `step`, which returns what it found or raises Skipped or Failed; whether it is ok.

        Another exception is a failure as well: the next checks are made all the same.
        """
        began = time.monotonic()
        try:
            self._check_time()
            state, detail = OK, self._run(step)
        except (Skipped, CheckEnded) as error:
            state, detail = SKIPPED, str(error)
        except (Failed, EdgeAgentError) as error:
            state, detail = FAILED, str(error)
        except Exception as error:
            state, detail = FAILED, f"{type(error).__name__}: {error}"
        outcome = CheckOutcome(name, state, detail, round(time.monotonic() - began, 3), goal)
        self._outcomes.append(outcome)
        self.save()  # first: what was printed is in the file
        self.print_line(str(outcome))
        return state == OK

    def end(self, why: str) -> None:
        """Skip what is left. Raises CheckEnded in the check that runs, and before the first one."""
        self._over = why
        if self._is_running or not self._outcomes:
            raise CheckEnded(why)

    def save(self) -> None:
        """Write the JSON as it is now; the file is never half there."""
        if self._out is not None:
            write_atomically(self._out, self.to_json(), mode=0o666, sync=False)

    def add(self, **facts: object) -> None:
        """Add facts of the machine."""
        self._machine.update(facts)

    def table(self, title: str, *columns: str) -> Rows:
        """Begin a table to be shown at the end; returns its rows, to append to."""
        self._tables.append(Table(title, columns, []))
        return self._tables[-1].rows

    @property
    def has_failed(self) -> bool:
        """Whether a check failed."""
        return any(outcome.state == FAILED for outcome in self._outcomes)

    @property
    def unmeasured(self) -> Dict[str, str]:
        """The goals of which a check wasn't made, and why."""
        found: Dict[str, str] = {}
        for goal in self._goals:
            outcomes = [each for each in self._outcomes if each.goal == goal]
            skipped = [each.detail for each in outcomes if each.state == SKIPPED]
            if skipped or not outcomes:
                found[goal] = skipped[0] if skipped else "a check before it failed"
        return found

    def summary(self) -> str:
        """Return the tables, that of the checks, how many ended how, and what wasn't measured."""
        rows: Rows = [(each.state, each.name, each.detail) for each in self._outcomes]
        tables = [table for table in self._tables if table.rows]
        states = [outcome.state for outcome in self._outcomes]
        counts = ", ".join(f"{states.count(state)} {state}" for state in (OK, FAILED, SKIPPED))
        checks = Table("Checks", ("state", "check", "found"), rows)
        missing = "; ".join(f"{goal} ({why})" for goal, why in self.unmeasured.items())
        return "\n\n".join(
            [*map(str, tables), f"{checks}\n\n{counts}\nnot measured: {missing or 'nothing'}"]
        )

    def to_json(self) -> bytes:
        """Return everything for programs."""
        record = {
            "machine": self._machine,
            "not_measured": self.unmeasured,
            "checks": [asdict(outcome) for outcome in self._outcomes],
            "tables": {
                table.title: [dict(zip(table.columns, map(_value, row))) for row in table.rows]
                for table in self._tables
            },
        }
        return (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()

    def _run(self, step: Callable[[], str]) -> str:
        self._is_running = True
        try:
            return step()
        finally:
            self._is_running = False

    def _check_time(self) -> None:
        if self._over or time.monotonic() >= self._end_s:
            raise Skipped(self._over or self._late)


def _value(cell: str) -> Union[float, str]:
    """Return the number that a cell shows; other text as it is."""
    try:
        return float(cell)
    except ValueError:
        return cell


def _aligned(rows: Sequence[Tuple[str, ...]]) -> List[str]:
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows
    ]
