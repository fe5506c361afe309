"""What checks find: sentences that stop a job, warn, or inform."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import List, Sequence, Tuple

from typing_extensions import Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class GraphFinding:
    """One sentence: what came, what was expected, what to do."""

    severity: Severity
    text: str


error = partial(GraphFinding, "error")  # makes the job fail
warning = partial(GraphFinding, "warning")  # may go wrong on the target
note = partial(GraphFinding, "note")  # good to know


@dataclass(frozen=True)
class GraphReport:
    """All findings about one graph and target."""

    findings: Tuple[GraphFinding, ...]

    def of(self, severity: Severity) -> List[str]:
        """Return the sentences of one severity."""
        return [finding.text for finding in self.findings if finding.severity == severity]


def names(values: Sequence[str], most: int = 8) -> str:
    """List `values`, at most `most` of them: "Loop, NonZero and 3 more"."""
    ordered = sorted(set(values))
    rest = len(ordered) - most
    listed = ", ".join(ordered[:most])
    return f"{listed} and {rest} more" if rest > 0 else listed
