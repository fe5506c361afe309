"""A report on the terminal, 80 columns wide."""

from __future__ import annotations

from typing import Iterator, List, Optional, Tuple

from rich import box
from rich.console import Console
from rich.table import Table

from edge_agent.benchmark.raw import BLOCK
from edge_agent.benchmark.results import BenchmarkReport, Measurement, Recommendation, SizeReport

EMPTY_CALL = "Empty call: a DescribeModel."
BARE_SERVER = (
    "Bare server: the raw engine behind the smallest gRPC server, which reads, checks and "
    "publishes nothing; what it adds is gRPC's share, and a process's. What is added is compared "
    "turn by turn, because the speed of machines changes."
)
COLUMNS = ("fps", "of raw", "p50 ms", "p90", "p99", "max", "CPU ms", "of raw", "lost")


def show(report: BenchmarkReport, console: Console) -> None:
    """Print everything a person needs; JSON and page have more."""
    for size in report.sizes:
        for transport, measurements in by_transport(size):
            console.print(_loads(f"{size.size} over {transport}", measurements), "")
            if any(one.stages_ms for one in measurements):
                console.print(_stages(measurements), "")
        console.print(_single_calls(size), "")
        console.print(_remarks(size, report), highlight=False)
    console.print(_recommended(report.recommended), highlight=False)


def by_transport(size: SizeReport) -> Iterator[Tuple[str, List[Measurement]]]:
    """Return the measurements of each transport, with its name for people."""
    for transport in dict.fromkeys(one.load.transport for one in size.measurements):
        chosen = [one for one in size.measurements if one.load.transport == transport]
        yield transport.replace("_", " "), chosen


def recommended_line(advice: Recommendation) -> str:
    """Return the recommended configuration in a line; empty when there is none."""
    if "transport" not in advice:
        return ""
    split = ""
    if "units" in advice:
        split = f"{counted(advice['units'], 'unit')} of {counted(advice['threads'], 'thread')}, "
    return (
        f"{split}{advice['transport'].replace('_', ' ')}, {counted(advice['clients'], 'client')}: "
        f"capacity {advice['capacity_fps']:g} frames/s, plan with {advice['steady_fps']:g}"
    )


def kinds(size: SizeReport) -> str:
    """Return what the kinds of single calls are that don't explain themselves."""
    has_bare = "bare_server" in size.single_calls.added_p50_ms
    return f"{EMPTY_CALL} {BARE_SERVER}" if has_bare else EMPTY_CALL


def counted(count: int, noun: str) -> str:
    """Return both, the noun in its number."""
    return f"{count} {noun}{'s' * (count > 1)}"


def lost(one: Measurement) -> str:
    """Return the failed frames by status, and those not sent."""
    parts = [f"{count} {status}" for status, count in sorted(one.failures.items())]
    parts += [f"{one.not_sent} unsent"] if one.not_sent else []
    return ", ".join(parts) or "-"


def milliseconds(value: Optional[float]) -> str:
    """Return three digits that count."""
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def percent(ratio: Optional[float]) -> str:
    """Return a ratio for people."""
    return "-" if ratio is None else f"{ratio:.0%}"


def cells(one: Measurement) -> List[str]:
    """Return a measurement's row under COLUMNS."""
    latency = one.latency_ms
    points = (latency.p50, latency.p90, latency.p99, latency.max) if latency else [None] * 4
    return [
        f"{one.throughput_fps:.1f}",
        percent(one.throughput_of_raw),
        *map(milliseconds, points),
        milliseconds(one.agent_cpu_ms_per_frame),
        percent(one.cpu_of_raw),
        lost(one),
    ]


def _loads(title: str, measurements: List[Measurement]) -> Table:
    table = _table(title, "load", *COLUMNS)
    for one in measurements:
        table.add_row(one.load.title, *cells(one))
    return table


def _stages(measurements: List[Measurement]) -> Table:
    names = list(dict.fromkeys(name for one in measurements for name in one.stages_ms))
    table = _table("mean ms a frame in each stage", "load", *names)
    for one in measurements:
        values = [milliseconds(one.stages_ms.get(name)) for name in names]
        table.add_row(one.load.title, *values)
    return table


def _single_calls(size: SizeReport) -> Table:
    single = size.single_calls
    title = f"one call at a time, {single.rounds} of each kind in blocks of {BLOCK}"
    table = _table(title, "kind", "p50 ms", "p90", "p99", "added to raw p50")
    for name, points in single.p50_p90_p99_ms.items():
        added = single.added_p50_ms.get(name)
        more = "" if added is None else f"{added:+.3f} ms"
        table.add_row(name.replace("_", " "), *(f"{point:.3f}" for point in points), more)
    return table


def _remarks(size: SizeReport, report: BenchmarkReport) -> str:
    lines = [
        f"{kinds(size)} One plain copy of the frame takes "
        f"{size.single_calls.frame_copy_ms:.3f} ms; over bytes the frame and its mask are "
        "copied several times by client, kernel and agent."
    ]
    if size.raw:
        lines.append(
            "Raw: the same preprocess, engine and postprocess in one process without a server, "
            f"{report.units} x {report.threads} units x threads, all busy, in turns with the "
            f"agent: {size.raw.throughput_fps:.1f} frames/s, "
            f"{size.raw.cpu_ms_per_frame:.2f} ms CPU a frame."
        )
    last = size.measurements[-1]
    fairness = min(one.fairness for one in size.measurements)
    lines.append(f"Fairness between clients (Jain's index): {fairness:.3f} or more.")
    if last.agent:
        lines.append(f"The agent took up to {last.agent.peak_rss_mib:.0f} MiB of memory.")
    if last.board:
        lines.append(f"Board at the end: {last.board}")
    return "\n".join(lines)


def _recommended(advice: Recommendation) -> str:
    reasons = "\n".join(f"  {reason}" for reason in advice["reasons"])
    return f"\n[bold]Recommended: {recommended_line(advice) or 'nothing'}[/bold]\n{reasons}"


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table
