#!/usr/bin/env python3
"""Draw the curves of runs from what --log of pvtune tune, quantize or eval wrote: a PNG for each thing it tells."""

import os
import sys

sys.path[0] = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib")
import environment  # noqa: F401,E402

import argparse  # noqa: E402
import math  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from errors import run  # noqa: E402
from files import check_begins, replaced  # noqa: E402
from pictures import PNG, load_pyplot  # noqa: E402
from run_charts import Chart, charts, read_run, running_mean  # noqa: E402

_COLOURS = ("#1f5fa8", "#c4501b", "#2c7d4f", "#7a4b9c", "#8a6d1a", "#44606e", "#b03060")
_DPI = 150
_FEW = 60  # points that are marked


def log_scale(axes: Any, values: list[float]) -> None:
    """A log scale, where values span decades, that still has a place for zero."""
    from matplotlib.ticker import FuncFormatter

    positive = [value for value in values if value > 0]
    if positive and (max(positive) / min(positive) > 50 or len(positive) < len(values)):
        threshold = 10 ** math.floor(math.log10(min(positive)))
        axes.set_yscale("symlog", linthresh=threshold, linscale=0.7)
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def draw_curves(axes: Any, chart: Chart) -> None:
    """The curves, with a legend where there are several."""
    curves = [curve for curve in chart.series if curve.y]
    several = len(curves) > 1
    for index, (label, x, y) in enumerate(curves):
        colour = _COLOURS[index % len(_COLOURS)]
        if chart.smooth:
            axes.plot(x, y, color=colour, alpha=0.3, linewidth=1, label=None if several else "each step")
            axes.plot(x, running_mean(y), color=colour, linewidth=2, label=label if several else "running mean")
        else:
            axes.plot(x, y, color=colour, linewidth=1.3, marker="o" if len(x) <= _FEW else None, markersize=2.5, label=label)
    if chart.log:
        log_scale(axes, [value for curve in curves for value in curve.y])
    elif min(value for curve in curves for value in curve.y) >= 0:
        axes.set_ylim(bottom=0)
    if several or chart.smooth:
        axes.legend(frameon=False, fontsize=9 if len(curves) < 8 else 7)


def draw_cells(figure: Any, axes: Any, chart: Chart) -> None:
    """A map of steps and blocks."""
    import numpy

    cells = numpy.array([[math.nan if cell is None else cell for cell in row] for row in chart.cells or []])
    picture = axes.imshow(cells, aspect="auto", origin="lower", cmap="magma_r", interpolation="nearest", vmin=0,
                          extent=(chart.cells_x[0] - 0.5, chart.cells_x[-1] + 0.5, -0.5, len(cells) - 0.5))
    axes.grid(False)
    axes.yaxis.get_major_locator().set_params(integer=True)
    figure.colorbar(picture, ax=axes)


def draw(chart: Chart, path: Path) -> None:
    """One figure with the house's look, saved as a PNG."""
    pyplot = load_pyplot()
    figure, axes = pyplot.subplots(figsize=(7.2, 4.2), layout="constrained")
    axes.set_title(chart.title, loc="left", fontsize=12, fontweight="bold")
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(True, which="major", color="#d9d9d9", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if chart.cells:
        draw_cells(figure, axes, chart)
    else:
        draw_curves(axes, chart)
    with replaced(path) as partial:
        figure.savefig(partial, dpi=_DPI, format="png")
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Draw runs of pvtune tune, quantize and eval as PNG files: loss, code changes, errors, time, memory.",
        epilog="example: scripts/plot.py out/demo/run.jsonl --out out/demo",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN.jsonl", help="files that --log wrote; several of one"
                        " command share their pictures")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the PNG files; made if missing")
    arguments = parser.parse_args()
    found = charts([read_run(path) for path in arguments.runs])
    arguments.out.mkdir(parents=True, exist_ok=True)
    paths = [arguments.out / f"{chart.name}.png" for chart in found]
    for path in paths:
        check_begins(path, PNG, "PNG picture")
    for chart, path in zip(found, paths):
        draw(chart, path)
        print(path)


if __name__ == "__main__":
    run(main)
