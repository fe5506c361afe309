"""What the checks found: a line each as they end, tables at the end, JSON beside them."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import Any, Callable, Dict, List, Sequence, Tuple

from edge_agent.errors import EdgeAgentError

OK, FAILED, SKIPPED = "ok", "FAILED", "skipped"
NAME_WIDTH = 34  # of a check, in its line

Tell = Callable[[str], None]
Rows = List[Tuple[str, ...]]


class Skipped(Exception):
    """The check can't be made here; the message says why."""


class Failed(Exception):
    """What was found isn't what it must be; the message says both."""


@dataclass(frozen=True)
class Outcome:
    """How a check ended; `detail` is for people."""

    name: str
    state: str
    detail: str
    seconds: float

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


class Report:
    """Runs checks and keeps what came of them; `tell` takes each line as soon as it is known."""

    def __init__(self, machine: Dict[str, Any], tell: Tell) -> None:
        self.tell = tell
        self._machine = machine
        self._outcomes: List[Outcome] = []
        self._tables: List[Table] = []

    def check(self, name: str, step: Callable[[], str]) -> bool:
        """Run `step`, which returns what it found or raises Skipped or Failed; whether it is ok.

        Any other error is a failure as well: one check never keeps the others from being made.
        """
        began = time.monotonic()
        try:
            state, detail = OK, step()
        except Skipped as error:
            state, detail = SKIPPED, str(error)
        except (Failed, EdgeAgentError) as error:
            state, detail = FAILED, str(error)
        except Exception as error:
            state, detail = FAILED, f"{type(error).__name__}: {error}"
        outcome = Outcome(name, state, detail, round(time.monotonic() - began, 3))
        self._outcomes.append(outcome)
        self.tell(str(outcome))
        return state == OK

    def table(self, title: str, *columns: str) -> Rows:
        """Begin a table to be shown at the end; returns its rows, to append to."""
        self._tables.append(Table(title, columns, []))
        return self._tables[-1].rows

    @property
    def has_failed(self) -> bool:
        """Whether a check failed."""
        return any(outcome.state == FAILED for outcome in self._outcomes)

    def summary(self) -> str:
        """Return the tables, that of the checks last, and how many ended how."""
        rows: Rows = [(each.state, each.name, each.detail) for each in self._outcomes]
        tables = [table for table in self._tables if table.rows]
        states = [outcome.state for outcome in self._outcomes]
        counts = ", ".join(f"{states.count(state)} {state}" for state in (OK, FAILED, SKIPPED))
        checks = Table("Checks", ("state", "check", "found"), rows)
        return "\n\n".join([*map(str, tables), f"{checks}\n\n{counts}"])

    def to_json(self) -> bytes:
        """Return everything for programs."""
        record = {
            "machine": self._machine,
            "checks": [asdict(outcome) for outcome in self._outcomes],
            "tables": {
                table.title: [dict(zip(table.columns, map(_value, row))) for row in table.rows]
                for table in self._tables
            },
        }
        return (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()


def _value(cell: str) -> Any:
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
