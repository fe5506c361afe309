"""From measured numbers to a recommended configuration, by rules that a person can follow.

All from the closed loop with the first frame size; the margin is 5 %, the spread of repeated runs.

transport   The one of highest throughput; among those within the margin of it, the one with the
            lowest median latency for the fewest clients.
clients     The fewest that reach the throughput of that transport within the margin. More only
            wait for each other.
capacity    The throughput there.
steady      What to plan with: 80 % of the capacity. If --rate shows that the agent can do more, or
            less: the highest rate at which no frame was lost and no queue grew.
units, threads   The fewest units whose raw throughput is within the margin of the best split of
            the cores: with fewer units each frame has more threads, so a single frame is faster.
            Unknown without a package.
"""

from __future__ import annotations

import math
from typing import List, Sequence, Tuple

from edge_agent.benchmark.kserve import TRANSPORT
from edge_agent.benchmark.results import Measurement, Recommendation, SizeReport, Split

MARGIN = 0.05
HEADROOM = 0.8


def recommend(
    size: SizeReport, splits: Sequence[Split], units: int, threads: int
) -> Recommendation:
    """Apply the rules; `reasons` has a sentence for each."""
    closed = [
        one
        for one in size.measurements
        if one.load.rate_fps is None and one.frames and one.load.transport != TRANSPORT
    ]
    if not closed:
        return {"reasons": ["No frame was answered, so there is nothing to recommend."]}
    transport = _transport(closed)
    chosen = _saturation([one for one in closed if one.load.transport == transport])
    steady_fps, steady_reason = _steady(size, chosen)
    reasons = [
        f"{transport.replace('_', ' ').capitalize()}: no other transport that was measured is "
        f"faster by more than {MARGIN:.0%}.",
        f"{chosen.load.title} reach{'es' * (chosen.load.clients == 1)} "
        f"{chosen.throughput_fps:.1f} frames/s; no other number measured gains more than "
        f"{MARGIN:.0%}.",
        steady_reason,
    ]
    advice: Recommendation = {
        "transport": transport,
        "clients": chosen.load.clients,
        "capacity_fps": round(chosen.throughput_fps, 1),
        "steady_fps": round(steady_fps, 1),
        "reasons": reasons,
    }
    if size.raw is not None:
        advice["units"], advice["threads"] = _split(splits, units, threads, reasons)
    return advice


def _transport(closed: Sequence[Measurement]) -> str:
    best = max(one.throughput_fps for one in closed)
    good = {one.load.transport for one in closed if one.throughput_fps >= (1 - MARGIN) * best}
    candidates = [one for one in closed if one.load.transport in good and one.latency_ms]
    fewest = min(one.load.clients for one in candidates)
    few = [one for one in candidates if one.load.clients == fewest]
    return min(few, key=lambda one: one.latency_ms.p50 if one.latency_ms else 0.0).load.transport


def _saturation(closed: Sequence[Measurement]) -> Measurement:
    best = max(one.throughput_fps for one in closed)
    enough = [one for one in closed if one.throughput_fps >= (1 - MARGIN) * best]
    return min(enough, key=lambda one: one.load.clients)


def _steady(size: SizeReport, chosen: Measurement) -> Tuple[float, str]:
    planned_fps = HEADROOM * chosen.throughput_fps
    opened = [
        (one.load.rate_fps, one.kept_up)
        for one in size.measurements
        if one.load.rate_fps is not None and one.load.transport == chosen.load.transport
    ]
    lost = min((rate for rate, kept_up in opened if not kept_up), default=math.inf)
    kept = max((rate for rate, kept_up in opened if kept_up and rate < lost), default=0.0)
    if lost <= planned_fps and not kept:
        return (
            HEADROOM * lost,
            f"The agent could not keep up with {lost:g} frames/s; try lower rates.",
        )
    if lost <= planned_fps or kept > planned_fps:
        return kept, f"{kept:g} frames/s is the highest rate that the agent kept up with."
    return planned_fps, f"Plan with {HEADROOM:.0%} of that, so that bursts do not queue."


def _split(
    splits: Sequence[Split], units: int, threads: int, reasons: List[str]
) -> Tuple[int, int]:
    everything = [Split(units, threads, 1.0), *splits]
    best = max(split.throughput_of_served_split for split in everything)
    good = [s for s in everything if s.throughput_of_served_split >= (1 - MARGIN) * best]
    chosen = min(good, key=lambda split: split.units)
    ratio = chosen.throughput_of_served_split
    if (chosen.units, chosen.threads) == (units, threads):
        reasons.append("No other split of the cores that was tried is better by the raw engine.")
    else:
        reasons.append(
            f"With this split the raw engine reaches {ratio:.2f} times the throughput of "
            f"{units} x {threads}, which was measured here; measure the agent again with "
            f"--units {chosen.units} --threads {chosen.threads}."
        )
    return chosen.units, chosen.threads
