"""What checks find: sentences that stop a job, warn, or just tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Sequence, Tuple

from typing_extensions import Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One sentence: what came, what was expected, what to do."""

    severity: Severity
    text: str


def error(text: str) -> Finding:
    """Return what makes the job fail."""
    return Finding("error", text)


def warning(text: str) -> Finding:
    """Return what may go wrong on the target."""
    return Finding("warning", text)


def note(text: str) -> Finding:
    """Return what is good to know."""
    return Finding("note", text)


@dataclass(frozen=True)
class Report:
    """All findings about one graph and target."""

    findings: Tuple[Finding, ...]

    def of(self, severity: Severity) -> List[str]:
        """Return the sentences of one severity."""
        return [finding.text for finding in self.findings if finding.severity == severity]


def names(values: Sequence[str], most: int = 8) -> str:
    """List `values`, at most `most` of them: "Loop, NonZero and 3 more"."""
    ordered = sorted(set(values))
    rest = len(ordered) - most
    listed = ", ".join(ordered[:most])
    return f"{listed} and {rest} more" if rest > 0 else listed
