"""One HTML page that needs no other file: sums, score histogram and every part's picture."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, List, Sequence

import numpy as np

if TYPE_CHECKING:
    from edge_agent.demo.line import InspectedPart, Summary

STYLE = """
:root { color-scheme: light; --ink: #1d2733; --soft: #5d6b7a; --line: #dde3ea; --good: #2f7fb5;
  --bad: #d9622b; --wrong: #c81e1e; }
* { box-sizing: border-box; }
body { margin: 0; background: #f5f7f9; color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1320px; margin: 0 auto; padding: 36px 28px 60px; }
h1 { margin: 0 0 6px; font-size: 30px; letter-spacing: -0.01em; }
h2 { margin: 36px 0 12px; font-size: 19px; }
p { margin: 0 0 10px; max-width: 860px; color: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(4, 1fr); gap: 14px; margin-top: 24px; }
.panels { display: grid; grid-template-columns: auto auto 1fr; gap: 14px; margin-top: 14px; }
.card, .panel, figure { background: #fff; border: 1px solid var(--line); border-radius: 10px; }
.card { padding: 14px 18px; }
.card b { display: block; font-size: 26px; line-height: 1.25; }
.card span, figcaption, caption { color: var(--soft); font-size: 13px; }
.panel { padding: 16px 20px; }
.panel svg { width: 100%; height: auto; display: block; }
caption { text-align: left; padding-bottom: 8px; font-weight: 600; }
table { border-collapse: collapse; }
th, td { padding: 7px 14px 7px 0; text-align: right; border-top: 1px solid var(--line); }
th:first-child { text-align: left; }
th { font-weight: 500; color: var(--soft); }
td { font-variant-numeric: tabular-nums; font-weight: 600; }
td.wrong { color: var(--wrong); }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(290px, 1fr)); gap: 14px; }
figure { margin: 0; overflow: hidden; }
figure.wrong { border: 2px solid var(--wrong); }
figure img { width: 100%; display: block; }
figcaption { display: grid; grid-template-columns: 1fr auto auto; gap: 3px 8px;
  padding: 9px 12px; }
figcaption b { color: var(--ink); font-size: 14px; }
.tag { padding: 0 9px; border-radius: 9px; color: #fff; font-weight: 600; }
.tag.normal { background: var(--good); }
.tag.anomaly { background: var(--bad); }
.number { grid-column: 1 / -1; font-variant-numeric: tabular-nums; }
.judgement.wrong { color: var(--wrong); font-weight: 700; }
@media (max-width: 900px) { .cards { grid-template-columns: 1fr 1fr; }
  .panels { grid-template-columns: 1fr; } }
"""
BINS = 20
WIDTH, HEIGHT = 640, 250
LEFT, RIGHT, TOP, BOTTOM = 36, 628, 40, 214  # of the plot, in units of the drawing
GOOD, DEFECTIVE, INK = "#2f7fb5", "#d9622b", "#5d6b7a"


@dataclass(frozen=True)
class Facts:
    """What the page shows besides the verdicts: `seconds` from the first part to the last."""

    trained_on: int
    seed: int
    seconds: float
    threshold: float


def build(line: Sequence[InspectedPart], summary: Summary, facts: Facts) -> str:
    """Return the page for a line of at least one part."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Edge Agent demo: {summary.right} of {summary.total} parts right</title>
<style>{STYLE}</style></head>
<body><main>
<h1>Edge Agent demo</h1>
{_story(facts)}
{_cards(summary, facts)}
<div class="panels">
{_confusion(summary)}
{_caught(summary)}
<div class="panel">{_histogram(line, facts.threshold)}</div>
</div>
<h2>Every part, in the order it came down the line</h2>
<div class="sheet">
{"".join(_figure(part) for part in line)}</div>
</main></body></html>
"""


def _story(facts: Facts) -> str:
    return (
        f"<p>A model was trained on {facts.trained_on} drawn pictures of good plates and never saw "
        "a defect. The agent served it in a process of its own and inspected the parts below, "
        "frame by frame, through shared memory. Verdicts, masks and boxes are the agent's; the "
        f"truth is the drawing's (seed {facts.seed}). The pictures are drawn, so the figures show "
        "that everything works together, not how well your parts will do.</p>"
    )


def _cards(summary: Summary, facts: Facts) -> str:
    cards = (
        (f"{summary.right} / {summary.total}", "verdicts that are right"),
        (f"{summary.located[0]} / {summary.located[1]}", "caught defects touched by the mask"),
        (f"{summary.p50_ms:.1f} ms", f"median latency; 90 % within {summary.p90_ms:.1f} ms"),
        (f"{facts.seconds:.0f} s", "to draw, train, serve and inspect"),
    )
    inner = "".join(
        f"<div class='card'><b>{big}</b><span>{small}</span></div>" for big, small in cards
    )
    return f"<div class='cards'>{inner}</div>"


def _confusion(summary: Summary) -> str:
    (passed, false_alarms), (missed, caught) = summary.table
    return f"""<div class="panel"><table><caption>Truth and verdict</caption>
<tr><th></th><th>normal</th><th>anomaly</th></tr>
<tr><th>good</th><td>{passed}</td>{_wrong(false_alarms)}</tr>
<tr><th>defective</th>{_wrong(missed)}<td>{caught}</td></tr>
</table></div>"""


def _wrong(count: int) -> str:
    return f'<td class="wrong">{count}</td>' if count else "<td>0</td>"


def _caught(summary: Summary) -> str:
    rows = "".join(
        f"<tr><th>{escape(defect)}</th><td>{caught} of {count}</td></tr>"
        for defect, (caught, count) in summary.caught.items()
    )
    return f'<div class="panel"><table><caption>Defects caught</caption>{rows}</table></div>'


def _figure(part: InspectedPart) -> str:
    prediction = part.prediction
    judgement = "right" if part.right else "wrong"
    picture = base64.b64encode(part.thumbnail).decode()
    return f"""<figure class="{judgement}">
<img alt="Part {part.number}" src="data:image/jpeg;base64,{picture}">
<figcaption><b>#{part.number} · {escape(part.truth)}</b>
<span class="judgement {judgement}">{judgement}</span>
<span class="tag {part.verdict}">{part.verdict}</span>
<span class="number">score {prediction.score:.3f} · confidence {prediction.confidence:.3f}
 · {part.latency_ms:.1f} ms</span></figcaption></figure>
"""


def _histogram(line: Sequence[InspectedPart], threshold: float) -> str:
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
