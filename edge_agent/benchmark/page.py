"""One HTML page that needs no other file: what was measured, as plots and tables."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, List, Optional

from edge_agent.benchmark import charts, table
from edge_agent.benchmark.charts import Axis, Series
from edge_agent.benchmark.results import CURVE

if TYPE_CHECKING:
    from edge_agent.benchmark.results import BenchmarkReport, Measurement, SizeReport

STYLE = """
:root { color-scheme: light; --ink: #1d2733; --soft: #5d6b7a; --line: #dde3ea; }
* { box-sizing: border-box; }
body { margin: 0; background: #f5f7f9; color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1320px; margin: 0 auto; padding: 36px 28px 60px; }
h1 { margin: 0 0 6px; font-size: 30px; letter-spacing: -0.01em; }
h2 { margin: 40px 0 12px; font-size: 21px; }
h3 { margin: 0 0 10px; font-size: 15px; }
p, li { margin: 0 0 8px; max-width: 900px; color: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(4, 1fr); gap: 14px; margin-top: 24px; }
.panels { display: grid; grid-template-columns: 1fr 1fr; gap: 14px; margin-top: 14px; }
.card, .panel { background: #fff; border: 1px solid var(--line); border-radius: 10px;
  break-inside: avoid; }
.card { padding: 14px 18px; }
.card b { display: block; font-size: 26px; line-height: 1.25; }
.card span, .note { color: var(--soft); font-size: 13px; }
.panel { padding: 16px 20px; min-width: 0; }
.wide { grid-column: 1 / -1; overflow-x: auto; }
.panel svg { width: 100%; height: auto; display: block; }
.advice { border-left: 5px solid #3f9b57; }
.advice b { font-size: 19px; }
ul { padding-left: 20px; margin: 8px 0 0; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: 6px 0 6px 14px; text-align: right; border-top: 1px solid var(--line); }
th:first-child { text-align: left; padding-left: 0; }
th { font-weight: 500; color: var(--soft); }
td { font-variant-numeric: tabular-nums; }
@media (max-width: 900px) { .cards { grid-template-columns: 1fr 1fr; }
  .panels { grid-template-columns: 1fr; } }
@media print { body { background: #fff; } main { padding: 0; } }
"""
MORE = ("clients' CPU ms", "agent's MiB")


def build(report: BenchmarkReport) -> str:
    """Return the page."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Edge Agent benchmark</title>
<style>{STYLE}</style></head>
<body><main>
<h1>Edge Agent benchmark</h1>
{_story(report)}
{"".join(_size(size) for size in report.sizes)}
<h2>Recommended configuration</h2>
{_advice(report)}
</main></body></html>
"""


def _story(report: BenchmarkReport) -> str:
    machine = ", ".join(f"{name} {value}" for name, value in report.machine.items())
    raw = (
        "Raw: the same preprocess, engine and postprocess in one process without a server, "
        f"{table.counted(report.units, 'inference unit')} of "
        f"{table.counted(report.threads, 'thread')}, all busy, in turns with the agent's, so "
        "that ratios are of the same minutes."
        if report.sizes[0].raw
        else "The raw engine was not measured; give the model's package with --package."
    )
    board = report.sizes[0].measurements[-1].board
    more = "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in board.items())
    return (
        f"<p>Model {escape(report.model)}, measured through the agent's public socket by client "
        f"processes of their own. Closed loop: a client sends its next frame when it has the "
        "answer. Open loop: frames are due at a rate, and latency counts from when they were due. "
        f"{raw}</p>"
        f'<p class="note">{escape(machine)}{escape("; " + more) if more else ""}</p>'
    )


def _size(size: SizeReport) -> str:
    groups = list(table.by_transport(size))
    panels = _throughput(size) + _single_calls(size)
    panels += "".join(_curves(name, measurements) for name, measurements in groups)
    panels += "".join(_stages(name, measurements) for name, measurements in groups)
    panels += "".join(_numbers(name, measurements) for name, measurements in groups)
    return f'<h2>Frames of {size.size}</h2>{_cards(size)}<div class="panels">{panels}</div>'


def _cards(size: SizeReport) -> str:
    best = max(size.measurements, key=lambda one: one.throughput_fps)
    added = size.single_calls.added_p50_ms.get("shared_memory")
    cards = [
        (f"{best.throughput_fps:.1f}/s", f"frames, {_named(best)}"),
        (table.percent(best.throughput_of_raw), "of the raw engine's throughput there"),
        (table.percent(best.cpu_of_raw), "of the raw engine's CPU time a frame there"),
        (
            "-" if added is None else f"{added:+.2f} ms",
            "added to raw p50 by one quiet call over shared memory",
        ),
    ]
    inner = "".join(
        f'<div class="card"><b>{big}</b><span>{small}</span></div>' for big, small in cards
    )
    return f'<div class="cards">{inner}</div>'


def _curves(name: str, measurements: List[Measurement]) -> str:
    """Latency at each percentile; the axis stretches towards 100 %, where the tail is."""
    measured = [(one.load.title, one.latency_ms) for one in measurements if one.latency_ms]
    if not measured:
        return ""
    places = [-math.log10(1.0 - percent / 100.0) for percent in CURVE]
    ticks = [(place, f"{at:g}") for place, at in zip(places, CURVE) if at in _TICKS]
    values = [value for _, latency in measured for value in latency.curve if value > 0]
    if not values:
        return ""
    title = f"Latency over {name}"
    drawing = charts.lines(
        title,
        Axis("percent of frames answered within", ticks),
        Axis("ms", charts.logarithmic_ticks(min(values), max(values)), logarithmic=True),
        [Series(load, list(zip(places, latency.curve))) for load, latency in measured],
    )
    return _panel(title, drawing)


_TICKS = (0.0, 50.0, 90.0, 95.0, 99.0, 99.5, 99.9)


def _throughput(size: SizeReport) -> str:
    series: List[Series] = []
    for name, measurements in table.by_transport(size):
        closed = [one for one in measurements if one.load.rate_fps is None]
        points = [(float(one.load.clients), one.throughput_fps) for one in closed]
        series.append(Series(name, points))
    counts = sorted({x for one in series for x, _ in one.points})
    ends = [*counts, 2 * counts[-1]] if len(counts) == 1 else counts
    if size.raw:
        level = [(end, size.raw.throughput_fps) for end in ends]
        series.append(Series("raw engine, all units busy", level, dashed=True))
    highest = max(y for one in series for _, y in one.points)
    drawing = charts.lines(
        "Throughput against clients",
        Axis("clients in the closed loop", [(end, f"{end:g}") for end in ends], logarithmic=True),
        Axis("frames/s", charts.linear_ticks(highest)),
        series,
    )
    return _panel("Throughput against clients", drawing)


def _stages(name: str, measurements: List[Measurement]) -> str:
    shown = [one for one in measurements if one.load.rate_fps is None or one.kept_up]
    rows = {one.load.title: one.stages_ms for one in shown if one.stages_ms}
    if not rows:
        return ""
    title = f"Mean time of a frame over {name}"
    note = (
        '<p class="note">Stages as the agent reports them; elsewhere is gRPC, kernel and client. '
        "Open loops that fell behind are left out.</p>"
    )
    return _panel(title, charts.stacked(title, rows, "ms") + note)


def _numbers(name: str, measurements: List[Measurement]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in ("load", *table.COLUMNS, *MORE))
    rows = "".join(
        f"<tr><th>{escape(one.load.title)}</th>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in [*table.cells(one), *_more(one)])
        + "</tr>"
        for one in measurements
    )
    return _panel(f"In numbers: {name}", f"<table><tr>{head}</tr>{rows}</table>", "wide")


def _single_calls(size: SizeReport) -> str:
    single = size.single_calls
    rows = "".join(
        f"<tr><th>{name.replace('_', ' ')}</th>"
        + "".join(f"<td>{point:.3f}</td>" for point in points)
        + f"<td>{_added(single.added_p50_ms.get(name))}</td></tr>"
        for name, points in single.p50_p90_p99_ms.items()
    )
    head = "".join(f"<th>{column}</th>" for column in ("", "p50 ms", "p90", "p99", "added"))
    note = (
        f'<p class="note">{single.rounds} calls of each kind, in blocks that take turns. '
        f"{table.kinds(size)} One plain copy of the frame takes "
        f"{single.frame_copy_ms:.3f} ms.</p>"
    )
    return _panel("One call at a time", f"<table><tr>{head}</tr>{rows}</table>{note}")


def _advice(report: BenchmarkReport) -> str:
    advice = report.recommended
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in advice["reasons"])
    return (
        f'<div class="panel advice"><b>{escape(table.recommended_line(advice) or "Nothing")}</b>'
        f"<ul>{reasons}</ul></div>"
    )


def _panel(title: str, inner: str, kind: str = "") -> str:
    return f'<div class="panel {kind}"><h3>{escape(title)}</h3>{inner}</div>'


def _named(one: Measurement) -> str:
    return f"{one.load.title} over {one.load.transport.replace('_', ' ')}"


def _more(one: Measurement) -> List[str]:
    """Return what stands under MORE."""
    return [
        table.milliseconds(one.clients_cpu_ms_per_frame),
        "-" if one.agent is None else f"{one.agent.peak_rss_mib:.0f}",
    ]


def _added(value: Optional[float]) -> str:
    return "" if value is None else f"{value:+.3f} ms"
