"""Plots as SVG drawings to put into a page: lines and stacked bars, without any library."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import List, Mapping, Sequence, Tuple

COLORS = ("#2f7fb5", "#d9622b", "#3f9b57", "#8e5bb5", "#b58a1d", "#c23b6b", "#5d6b7a", "#18a0a8")
INK, LINE, DARK = "#5d6b7a", "#dde3ea", "#1d2733"
WIDTH, HEIGHT = 620, 300
LEFT, RIGHT, TOP, BOTTOM = 54, 604, 34, 252  # of the plot, in units of the drawing
BAR_LEFT, BAR_RIGHT, BAR_STEP = 140, 560, 26


@dataclass(frozen=True)
class Series:
    """A line through `points` (x, y); a dashed one is a reference and has no dots."""

    name: str
    points: Sequence[Tuple[float, float]]
    dashed: bool = False


@dataclass(frozen=True)
class Axis:
    """What is drawn along one side: `ticks` by value with their text, both ends included."""

    title: str
    ticks: Sequence[Tuple[float, str]]
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Return where `value` lies, 0 at the first tick and 1 at the last."""
        first, last = self._scaled(self.ticks[0][0]), self._scaled(self.ticks[-1][0])
        return (self._scaled(value) - first) / (last - first)

    def _scaled(self, value: float) -> float:
        return math.log(max(value, 1e-6)) if self.logarithmic else value


def linear_ticks(highest: float) -> List[Tuple[float, str]]:
    """Return round values from 0 to just above `highest`, five steps or fewer."""
    step = _round_step(max(highest, 1e-9) / 4)
    count = math.ceil(highest / step - 1e-9) or 1
    return [(step * index, f"{step * index:g}") for index in range(count + 1)]


def logarithmic_ticks(lowest: float, highest: float) -> List[Tuple[float, str]]:
    """Return 1, 2, 5, 10 … from just below `lowest` to just above `highest`."""
    exponents = range(math.floor(math.log10(lowest)) - 1, math.ceil(math.log10(highest)) + 2)
    steps = [factor * 10.0**exponent for exponent in exponents for factor in (1, 2, 5)]
    below = max(step for step in steps if step <= lowest)
    above = min(step for step in steps if step >= highest and step > below)
    return [(step, f"{step:g}") for step in steps if below <= step <= above]


def lines(title: str, x: Axis, y: Axis, series: Sequence[Series]) -> str:
    """Draw every series over its axes, with a legend above."""
    inner = "".join(
        _line(one, color, x, y) for one, color in zip(series, _colors([one.name for one in series]))
    )
    legend = _legend([one.name for one in series], LEFT)
    return _drawing(title, HEIGHT, legend + _grid(x, y) + inner)


def stacked(title: str, rows: Mapping[str, Mapping[str, float]], unit: str) -> str:
    """Draw a bar for each row, its parts side by side, and its sum behind it."""
    names = list(dict.fromkeys(name for parts in rows.values() for name in parts))
    colors = dict(zip(names, _colors(names)))
    longest = max(sum(parts.values()) for parts in rows.values())
    bars = "".join(
        _bar(TOP + 6 + index * BAR_STEP, name, parts, colors, longest, unit)
        for index, (name, parts) in enumerate(rows.items())
    )
    height = TOP + 12 + len(rows) * BAR_STEP
    return _drawing(title, height, _legend(names, 8) + bars)


def _bar(
    y: float,
    name: str,
    parts: Mapping[str, float],
    colors: Mapping[str, str],
    longest: float,
    unit: str,
) -> str:
    scale, x = (BAR_RIGHT - BAR_LEFT) / longest, float(BAR_LEFT)
    drawn = f'<text x="{BAR_LEFT - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>'
    for part, value in parts.items():
        width = value * scale
        drawn += (
            f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="18" fill="{colors[part]}">'
            f"<title>{escape(part)}: {value:.2f} {unit}</title></rect>"
        )
        x += width
    total = f"{sum(parts.values()):.1f} {unit}"
    return f'{drawn}<text x="{x + 6:.1f}" y="{y + 13}" fill="{DARK}">{total}</text>'


def _line(series: Series, color: str, x: Axis, y: Axis) -> str:
    places = [(_x(x.place(a)), _y(y.place(b))) for a, b in series.points]
    path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
    dash = ' stroke-dasharray="6 4"' if series.dashed else ""
    dots = "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3"/>' for a, b in places)
    return (
        f'<g fill="{color}"><path d="{path}" fill="none" stroke="{color}" stroke-width="2"{dash}/>'
        f"{'' if series.dashed else dots}</g>"
    )


def _grid(x: Axis, y: Axis) -> str:
    across = "".join(
        f'<path d="M{LEFT} {_y(y.place(value)):.1f}H{RIGHT}" stroke="{LINE}"/>'
        f'<text x="{LEFT - 7}" y="{_y(y.place(value)) + 4:.1f}" text-anchor="end">{text}</text>'
        for value, text in y.ticks
    )
    down = "".join(
        f'<text x="{_x(x.place(value)):.1f}" y="{BOTTOM + 18}" text-anchor="middle">{text}</text>'
        for value, text in x.ticks
    )
    middle = (TOP + BOTTOM) / 2
    return (
        f'{across}{down}<path d="M{LEFT} {BOTTOM}H{RIGHT}" stroke="{INK}"/>'
        f'<text x="{(LEFT + RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{x.title}</text>'
        f'<text transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">{y.title}'
        "</text>"
    )


def _legend(names: Sequence[str], left: float) -> str:
    drawn, x = "", left
    for name, color in zip(names, _colors(names)):
        drawn += (
            f'<rect x="{x:.0f}" y="4" width="11" height="11" fill="{color}"/>'
            f'<text x="{x + 16:.0f}" y="14">{escape(name)}</text>'
        )
        x += 22 + 7.2 * len(name)
    return drawn


def _colors(names: Sequence[str]) -> List[str]:
    return [COLORS[index % len(COLORS)] for index in range(len(names))]


def _drawing(title: str, height: float, inner: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}" '
        f'font-size="12" fill="{INK}">{inner}</svg>'
    )


def _round_step(least: float) -> float:
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= least - 1e-12)


def _x(share: float) -> float:
    return LEFT + share * (RIGHT - LEFT)


def _y(share: float) -> float:
    return BOTTOM - share * (BOTTOM - TOP)
