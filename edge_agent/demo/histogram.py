"""The score histogram of a line of parts, as an SVG drawing to put into a page."""

from __future__ import annotations

from typing import TYPE_CHECKING, List, Sequence

import numpy as np

if TYPE_CHECKING:
    from edge_agent.demo.line import Judged

BINS = 20
WIDTH, HEIGHT = 640, 250
LEFT, RIGHT, TOP, BOTTOM = 36, 628, 40, 214  # of the plot, in units of the drawing
GOOD, DEFECTIVE, INK = "#2f7fb5", "#d9622b", "#5d6b7a"


def histogram(line: Sequence[Judged], threshold: float) -> str:
    """Draw the scores of good and defective parts, stacked, with the threshold, all 0 to 1."""
    good = _counts([part.prediction.score for part in line if part.defect is None])
    defective = _counts([part.prediction.score for part in line if part.defect is not None])
    highest = max(upper + lower for upper, lower in zip(good, defective))
    bars = "".join(
        _bar(index, 0, below, highest, GOOD) + _bar(index, below, above, highest, DEFECTIVE)
        for index, (below, above) in enumerate(zip(good, defective))
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Score histogram" '
        f'font-size="12" fill="{INK}">{_legend()}{_axes(highest)}{bars}'
        f"{_threshold(threshold)}</svg>"
    )


def _counts(scores: List[float]) -> List[int]:
    counts, _ = np.histogram(np.clip(scores, 0.0, 1.0), bins=BINS, range=(0.0, 1.0))
    return [int(count) for count in counts]


def _bar(index: int, below: int, count: int, highest: int, color: str) -> str:
    if count == 0:
        return ""
    step, unit = (RIGHT - LEFT) / BINS, (BOTTOM - TOP) / highest
    return (
        f'<rect x="{LEFT + index * step + 1:.1f}" y="{BOTTOM - (below + count) * unit:.1f}" '
        f'width="{step - 2:.1f}" height="{count * unit:.1f}" fill="{color}"/>'
    )


def _axes(highest: int) -> str:
    ticks = "".join(
        f'<text x="{LEFT + tick * (RIGHT - LEFT):.0f}" y="{BOTTOM + 17}" text-anchor="middle">'
        f"{tick:g}</text>"
        for tick in (0.0, 0.25, 0.5, 0.75, 1.0)
    )
    return (
        f'<path d="M{LEFT} {BOTTOM}H{RIGHT}" stroke="{INK}"/>{ticks}'
        f'<text x="{(LEFT + RIGHT) / 2}" y="{HEIGHT - 2}" text-anchor="middle">score</text>'
        f'<text x="{LEFT - 6}" y="{TOP + 8}" text-anchor="end">{highest}</text>'
        f'<text x="{LEFT - 6}" y="{BOTTOM}" text-anchor="end">0</text>'
    )


def _threshold(threshold: float) -> str:
    x = LEFT + threshold * (RIGHT - LEFT)
    return (
        f'<path d="M{x:.1f} {TOP - 8}V{BOTTOM}" stroke="#1d2733" stroke-dasharray="5 4"/>'
        f'<text x="{x:.1f}" y="{TOP - 13}" text-anchor="middle">threshold {threshold:.2f}</text>'
    )


def _legend() -> str:
    entries = ((LEFT, GOOD, "good parts"), (LEFT + 104, DEFECTIVE, "defective parts"))
    return "".join(
        f'<rect x="{x}" y="5" width="11" height="11" fill="{color}"/><text x="{x + 17}" y="15">'
        f"{text}</text>"
        for x, color, text in entries
    )
