"""A chart (run_charts.py) as an inline SVG of a page: no script, colours from the page's style."""

import html
import math
from typing import Any, Optional

from run_charts import Chart, running_mean

_WIDTH, _HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 20, 10, 42
COLOURS = 7  # classes c0, c1, ... of the page's style
_MARKED = 80  # points that carry their value as a tooltip
_MOST_COLUMNS = 400  # of a map


def ticks(low: float, high: float, most: int = 6, least_step: float = 0) -> list[float]:
    """Round numbers from low to high, at most so many."""
    if high <= low:
        return [low]
    rough = (high - low) / (most - 1)
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    step = max(step, least_step)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


class Scale:
    """Values to places, linear or logarithmic."""

    def __init__(self, values: list[float], start: float, end: float, log: bool = False, zero: bool = False) -> None:
        self.low, self.high = min(values), max(values)
        self.log = log and self.low > 0 and self.high / self.low > 50
        if zero and not self.log:
            self.low = min(0.0, self.low)
        if self.high == self.low:
            margin = abs(self.high) * 0.1 or 1.0
            self.low, self.high = self.low - (0 if self.low == 0 else margin), self.high + margin
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        share = ((math.log(value) if self.log else value) - low) / (high - low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, least_step: float = 0) -> list[float]:
        """Where the axis has numbers."""
        if not self.log:
            return ticks(self.low, self.high, least_step=least_step)
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        return [mark for power in powers for mark in (10.0**power, 2 * 10.0**power, 5 * 10.0**power)
                if self.low <= mark <= self.high]


def text(value: float) -> str:
    """A number for a reader."""
    return f"{value:,.0f}" if value == round(value) and abs(value) < 1e6 else f"{value:.4g}"


def _frame(chart: Chart, x: Scale, y: Optional[Scale], names: Optional[list[str]] = None) -> str:
    bottom = _HEIGHT - _BOTTOM
    parts = []
    for mark in x.ticks(1):  # steps, blocks and windows are counted
        parts.append(f'<text x="{x(mark)}" y="{bottom + 16}" text-anchor="middle">{text(mark)}</text>')
    for mark in y.ticks() if y else []:
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(mark)}" y2="{y(mark)}"/>'
                     f'<text x="{_LEFT - 6}" y="{y(mark) + 4}" text-anchor="end">{text(mark)}</text>')
    parts.append(f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">'
                 f"{html.escape(chart.x_label)}</text>")
    middle = (_TOP + bottom) / 2
    if names is None:
        parts.append(f'<text transform="translate(12 {middle}) rotate(-90)" text-anchor="middle">'
                     f"{html.escape(chart.y_label)}</text>")
    return "".join(parts)


def _curves(chart: Chart) -> str:
    curves = [curve for curve in chart.series if curve.y]
    values = [value for curve in curves for value in curve.y]
    x = Scale([place for curve in curves for place in curve.x], _LEFT, _WIDTH - _RIGHT)
    y = Scale(values, _HEIGHT - _BOTTOM, _TOP, chart.log, zero=not chart.log)
    parts = [_frame(chart, x, y)]
    for index, curve in enumerate(curves):
        def line(heights: list[float], kind: str, curve: Any = curve, index: int = index) -> str:
            points = " ".join(f"{x(place)},{y(height)}" for place, height in zip(curve.x, heights))
            return f'<polyline class="c{index % COLOURS} {kind}" points="{points}"/>'

        if chart.smooth:
            parts += [line(curve.y, "thin"), line(running_mean(curve.y), "line")]
        else:
            parts.append(line(curve.y, "line"))
        if len(curve.x) <= _MARKED:
            parts += [f'<circle class="c{index % COLOURS}" cx="{x(place)}" cy="{y(height)}" r="2.5"><title>'
                      f"{html.escape(curve.label)}: {text(place)}, {text(height)}</title></circle>"
                      for place, height in zip(curve.x, curve.y)]
    legend = "".join(f'<span><i class="c{index % COLOURS}"></i>{html.escape(curve.label)}</span>'
                     for index, curve in enumerate(curves)) if len(curves) > 1 else ""
    return _svg(chart, parts) + (f'<p class="legend">{legend}</p>' if legend else "")


def _map(chart: Chart, names: Optional[list[str]]) -> str:
    rows = chart.cells or []
    together = -(-len(chart.cells_x) // _MOST_COLUMNS)  # steps a column, as their mean
    places = [chart.cells_x[i : i + together] for i in range(0, len(chart.cells_x), together)]
    values = [cell for row in rows for cell in row if cell is not None]
    low, high = (min(values), max(values)) if names else (0.0, max(values, default=0.0))
    width = (_WIDTH - _RIGHT - _LEFT) / len(places)
    height = (_HEIGHT - _BOTTOM - _TOP) / len(rows)
    x = Scale([chart.cells_x[0], chart.cells_x[-1]], _LEFT + width / 2, _WIDTH - _RIGHT - width / 2)
    parts = []
    for index, row in enumerate(rows):
        top = _HEIGHT - _BOTTOM - (index + 1) * height
        for column, steps in enumerate(places):
            some = [cell for cell in row[column * together : (column + 1) * together] if cell is not None]
            if not some:
                continue
            mean = sum(some) / len(some)
            share = (mean - low) / (high - low) if high > low else 0.5 if high else 0.0
            name = names[index] if names else f"{chart.y_label} {index}"
            parts.append(f'<rect class="cell" x="{_LEFT + column * width:.2f}" y="{top:.2f}" width="{width + 0.3:.2f}"'
                         f' height="{height + 0.3:.2f}" fill-opacity="{0.04 + 0.96 * share:.3f}"><title>'
                         f"{html.escape(name)}, {chart.x_label} {text(steps[0])}: {text(mean)}</title></rect>")
        if names or len(rows) <= 12 or index % 5 == 0:
            label = names[index] if names else str(index)
            parts.append(f'<text x="{_LEFT - 6}" y="{top + height / 2 + 4:.1f}" text-anchor="end">{html.escape(label)}</text>')
    frame = _frame(chart, x, None, names or [])
    return _svg(chart, [frame, *parts]) + f'<p class="legend">from {text(low)} (light) to {text(high)} (dark)</p>'


def _svg(chart: Chart, parts: list[str]) -> str:
    return (f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(chart.title)}">'
            + "".join(parts) + "</svg>")


def draw(chart: Chart, names: Optional[list[str]] = None) -> str:
    """The chart; names: of the rows of a map, which then shades from its least to its largest value."""
    return _map(chart, names) if chart.cells else _curves(chart)
