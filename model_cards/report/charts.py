"""Draws line charts and interval marks as inline SVG; colours come from the page's style sheet."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from ..formats import number, short_count

WIDTH, HEIGHT = 320, 176
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 24
BUCKETS = 160
Scale = Callable[[float], float]
CAP = 7  # half the height of an interval's end caps
STYLES = 6  # line colours and dashes that the style sheet defines


@dataclass(frozen=True)
class Line:
    """One curve: its label, and the same number of x and y values."""

    label: str
    x: Sequence[float]
    y: Sequence[float]


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round values inside [low, high], 1, 2 or 5 times a power of ten apart, about as many as requested."""
    span = high - low
    if not span > 0:
        return [low]
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [min(max(index * step, low), high) for index in range(first, last + 1)] or [low]


def bucketed(line: Line, buckets: int = BUCKETS) -> list[tuple[float, float, float, float]]:
    """(x, mean, minimum, maximum) of a curve in at most `buckets` equal parts of its x range, in order of x."""
    if len(line.x) <= buckets:
        return [(x, y, y, y) for x, y in sorted(zip(line.x, line.y, strict=True))]
    low, high = min(line.x), max(line.x)
    width = (high - low) / buckets or 1.0
    groups: dict[int, list[tuple[float, float]]] = {}
    for x, y in zip(line.x, line.y, strict=True):
        groups.setdefault(min(buckets - 1, int((x - low) / width)), []).append((x, y))
    rows = []
    for _, points in sorted(groups.items()):
        values = [y for _, y in points]
        rows.append((sum(x for x, _ in points) / len(points), sum(values) / len(values), min(values), max(values)))
    return rows


def line_chart(title: str, lines: Sequence[Line], x_name: str = "step") -> Markup:
    """An SVG line chart with axes, a band from minimum to maximum where points were merged, and a spoken description.

    `title` and labels may be any text; they are escaped. Lines differ by colour and dash in the page's style.
    """
    curves = [(index % STYLES, line, bucketed(line)) for index, line in enumerate(lines) if line.x]
    if not curves:
        return Markup("")
    points = [point for _, _, rows in curves for point in rows]
    x_low, x_high = min(p[0] for p in points), max(p[0] for p in points)
    y_low, y_high = min(p[2] for p in points), max(p[3] for p in points)
    margin = (y_high - y_low) * 0.06 or abs(y_high) * 0.05 or 0.5
    y_low, y_high = y_low - margin, y_high + margin
    to_x = _scale(x_low, x_high, LEFT, WIDTH - RIGHT)
    to_y = _scale(y_low, y_high, HEIGHT - BOTTOM, TOP)
    parts = [_axes(to_x, to_y, ticks(x_low, x_high), ticks(y_low, y_high))]
    for style, _, rows in curves:
        if any(low != high for _, _, low, high in rows):
            band = [(x, high) for x, _, _, high in rows] + [(x, low) for x, _, low, _ in reversed(rows)]
            parts.append(f'<path class="band s{style}" d="{_path(band, to_x, to_y)}Z"/>')
        parts.append(f'<path class="line s{style}" d="{_path([(x, y) for x, y, _, _ in rows], to_x, to_y)}"/>')
        x, y = rows[-1][:2]
        parts.append(f'<circle class="dot s{style}" cx="{to_x(x):.1f}" cy="{to_y(y):.1f}" r="2.6"/>')
    label = f"{title}. {'; '.join(_described(line, x_name) for _, line, _ in curves)}."
    return Markup(
        f'<svg class="chart" role="img" viewBox="0 0 {WIDTH} {HEIGHT}" aria-label="{escape(label)}">'
        + "".join(parts)
        + "</svg>"
    )


def _described(line: Line, x_name: str) -> str:
    first, last = number(line.y[0]), number(line.y[-1])
    low, high = number(min(line.y)), number(max(line.y))
    return (
        f"{line.label}: {first} at {x_name} {short_count(line.x[0])}, {last} at {x_name} {short_count(line.x[-1])}, "
        f"lowest {low}, highest {high}"
    )


def _scale(low: float, high: float, start: float, end: float) -> Scale:
    span = high - low

    def to_pixel(value: float) -> float:
        return (start + end) / 2 if span <= 0 else start + (value - low) / span * (end - start)

    return to_pixel


def _axes(to_x: Scale, to_y: Scale, x_ticks: list[float], y_ticks: list[float]) -> str:
    parts = []
    for value in y_ticks:
        y = to_y(value)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(
            f'<text class="tick" x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{_tick(value, y_ticks)}</text>'
        )
    for value in x_ticks:
        x = min(max(to_x(value), LEFT), WIDTH - RIGHT)
        anchor = "start" if x < LEFT + 8 else ("end" if x > WIDTH - RIGHT - 8 else "middle")
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 7}" text-anchor="{anchor}">{_tick(value, x_ticks)}</text>'
        )
    parts.append(f'<path class="axis" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    return "".join(parts)


def _tick(value: float, among: list[float]) -> str:
    """A tick's label, with enough digits to differ from its neighbours."""
    if value == 0:
        return "0"
    if abs(value) >= 1000 or 0 < abs(value) < 1e-3:
        return short_count(value).replace(" ", "\u2009") if abs(value) >= 1000 else f"{value:.1e}".replace("e-0", "e-")
    step = among[1] - among[0] if len(among) > 1 else value
    decimals = max(0, -math.floor(math.log10(abs(step)) + 1e-9)) if step else 0
    return f"{value:.{min(decimals, 6)}f}"


def _path(points: list[tuple[float, float]], to_x: Scale, to_y: Scale) -> str:
    return "M" + "L".join(f"{to_x(x):.1f} {to_y(y):.1f}" for x, y in points)


def interval_mark(
    value: float, low: float | None, high: float | None, axis: tuple[float, float], style: int = 0
) -> Markup:
    """A dot with whiskers on the shared scale `axis`, hidden from screen readers since its number is beside it."""
    to_x = _scale(axis[0], axis[1], 4, 156)
    parts = [f'<path class="grid" d="M{to_x(tick):.1f} 2V18"/>' for tick in ticks(*axis)]
    if low is not None and high is not None:
        parts.append(_whisker(to_x(low), to_x(high), 10, str(style % STYLES)))
    parts.append(f'<circle class="dot s{style % STYLES}" cx="{to_x(value):.1f}" cy="10" r="3.4"/>')
    return Markup(f'<svg class="mark" viewBox="0 0 160 20" aria-hidden="true">{"".join(parts)}</svg>')


def _whisker(low: float, high: float, y: int, style: str) -> str:
    """An interval with end caps, which show beside the dot even if it has no width."""
    caps = "".join(f"M{x:.1f} {y - CAP}V{y + CAP}" for x in (low, high))
    return f'<path class="whisker s{style}" d="M{low:.1f} {y}H{high:.1f}{caps}"/>'


def interval_axis(axis: tuple[float, float]) -> Markup:
    """The tick labels of a column of `interval_mark`s."""
    to_x = _scale(axis[0], axis[1], 4, 156)
    marks = ticks(*axis)
    labels = [
        f'<text class="tick" x="{min(max(to_x(tick), 10), 150):.1f}" y="10" text-anchor="middle">'
        f"{_tick(tick, marks)}</text>"
        for tick in marks
    ]
    return Markup(f'<svg class="mark" viewBox="0 0 160 14" aria-hidden="true">{"".join(labels)}</svg>')


def axis_of(values: Sequence[float]) -> tuple[float, float]:
    """A scale that contains all values with a little room on either side."""
    low, high = min(values), max(values)
    room = (high - low) * 0.05 or 0.05
    return low - room, high + room


def style_of(index: int) -> int:
    """The colour and dash of the series with this number."""
    return index % STYLES


@dataclass(frozen=True)
class Difference:
    """A difference of two scores with its interval, and whether it is real."""

    label: str
    value: float
    low: float | None
    high: float | None
    is_real: bool


def difference_chart(rows: Sequence[Difference]) -> Markup:
    """Differences with their intervals on one scale, around a line at zero; each under its label."""
    bounds = [bound for row in rows for bound in (row.value, row.low, row.high) if bound is not None]
    low, high = axis_of([0.0, *bounds])
    width, step = 640, 38
    height = step * len(rows) + 26
    to_x = _scale(low, high, 10, width - 10)
    zero = "".join(f"M{to_x(0):.1f} {step * place + 23}V{step * place + 35}" for place in range(len(rows)))
    parts = [f'<path class="axis" d="{zero}M{to_x(0):.1f} {height - 26}V{height - 20}"/>']
    marks = ticks(low, high, 5)
    parts += [
        f'<text class="tick" x="{min(max(to_x(tick), 24), width - 24):.1f}" y="{height - 6}" text-anchor="middle">'
        f"{_tick(tick, marks)}</text>"
        for tick in marks
    ]
    for place, row in enumerate(rows):
        y, style = step * place + 29, "0" if row.is_real else "n"
        parts.append(f'<text class="label" x="10" y="{y - 11}">{escape(row.label)}</text>')
        if row.low is not None and row.high is not None:
            parts.append(_whisker(to_x(row.low), to_x(row.high), y, style))
        parts.append(f'<circle class="dot s{style}" cx="{to_x(row.value):.1f}" cy="{y}" r="4"/>')
    values = "; ".join(f"{row.label}: {row.value:+.3f}{'' if row.is_real else ', not significant'}" for row in rows)
    return Markup(
        f'<svg class="chart differences" role="img" viewBox="0 0 {width} {height}" '
        f'aria-label="{escape(f"Differences. {values}.")}">{"".join(parts)}</svg>'
    )
