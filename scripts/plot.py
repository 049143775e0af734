#!/usr/bin/env python3
"""Draw the curves of tuning runs from their run.jsonl: loss, share of codes changed, seconds a step."""

import os
import sys

sys.path[0] = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib")
import environment  # noqa: E402

import argparse  # noqa: E402
import json  # noqa: E402
import math  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, Callable, Optional  # noqa: E402

from errors import Error, run  # noqa: E402
from files import replaced  # noqa: E402

Step = dict[str, Any]
_COLOURS = ("#1f5fa8", "#c4501b", "#2c7d4f", "#7a4b9c", "#8a6d1a", "#44606e")
_DPI = 150


def read_run(path: Path) -> list[Step]:
    """The steps of a run in order; of a step that was run again (a resume) the later line counts."""
    steps: dict[int, Step] = {}
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                step = json.loads(line)
            except ValueError:
                print(f"plot.py: {path}:{number}: not a JSON object, left out", file=sys.stderr)
                continue
            if not isinstance(step, dict) or type(step.get("step")) is not int:
                print(f"plot.py: {path}:{number}: no whole number `step`, left out", file=sys.stderr)
                continue
            steps[step["step"]] = step
    if not steps:
        raise Error(f"{path}: holds no step of a tuning run: give the run.jsonl that `pvtune tune --log` wrote")
    return [steps[index] for index in sorted(steps)]


def number(step: Step, key: str) -> Optional[float]:
    """A finite number of a step, or nothing."""
    value = step.get(key)
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None


def changed_percent(step: Step) -> Optional[float]:
    """Groups whose codes changed in a step, in percent of all groups."""
    changed, groups = number(step, "codes_changed"), number(step, "groups")
    return 100 * changed / groups if changed is not None and groups else None


def series(steps: list[Step], value: Callable[[Step], Optional[float]]) -> tuple[list[int], list[float]]:
    """Step numbers and values where there is one."""
    pairs = [(step["step"], found) for step in steps if (found := value(step)) is not None]
    return [x for x, _ in pairs], [y for _, y in pairs]


def smooth(values: list[float]) -> list[float]:
    """Mean over a window of about a tenth of the run around each step, symmetric and so narrower at the ends."""
    reach = max(1, len(values) // 20)
    result = []
    for index in range(len(values)):
        near = min(reach, index, len(values) - 1 - index)
        window = values[index - near : index + near + 1]
        result.append(sum(window) / len(window))
    return result


class Plot:
    """One figure with the house's look; saved as a PNG."""

    def __init__(self, title: str, unit: str) -> None:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        self.pyplot = pyplot
        self.figure, self.axes = pyplot.subplots(figsize=(7.2, 4.2), layout="constrained")
        self.axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
        self.axes.set_xlabel("tuning step")
        self.axes.set_ylabel(unit)
        self.axes.xaxis.get_major_locator().set_params(integer=True)
        self.axes.grid(True, which="major", color="#d9d9d9", linewidth=0.7)
        self.axes.set_axisbelow(True)
        self.axes.spines[["top", "right"]].set_visible(False)

    def save(self, path: Path, legend: bool) -> None:
        if legend:
            self.axes.legend(frameon=False, fontsize=9)
        with replaced(path) as partial:
            self.figure.savefig(partial, dpi=_DPI, format="png")
        self.pyplot.close(self.figure)


def log_scale(plot: Plot, values: list[float]) -> None:
    """A log scale, where values span decades, that still has a place for zero."""
    from matplotlib.ticker import FuncFormatter

    positive = [value for value in values if value > 0]
    if positive and (max(positive) / min(positive) > 50 or len(positive) < len(values)):
        threshold = 10 ** math.floor(math.log10(min(positive)))
        plot.axes.set_yscale("symlog", linthresh=threshold, linscale=0.7)
        plot.axes.set_ylim(bottom=0)
    plot.axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def draw(runs: dict[str, list[Step]], out: Path) -> list[Path]:
    """Write loss.png, codes_changed.png and seconds.png."""
    several = len(runs) > 1
    coloured = [(name, steps, _COLOURS[i % len(_COLOURS)]) for i, (name, steps) in enumerate(runs.items())]

    loss = Plot("Loss: divergence from the unquantised model", "KL divergence (nats a token)")
    losses: list[float] = []
    for name, steps, colour in coloured:
        x, y = series(steps, lambda step: number(step, "loss"))
        losses += y
        loss.axes.plot(x, y, color=colour, alpha=0.3, linewidth=1, label=None if several else "each step")
        loss.axes.plot(x, smooth(y), color=colour, linewidth=2, label=name if several else "running mean")
    log_scale(loss, losses)
    loss.save(out / "loss.png", True)

    codes = Plot("Codes that change in a step", "groups with a new code (% of all)")
    shares: list[float] = []
    for name, steps, colour in coloured:
        x, y = series(steps, changed_percent)
        shares += y
        codes.axes.plot(x, y, color=colour, linewidth=1.3, marker="o", markersize=2.5, label=name)
    log_scale(codes, shares)
    codes.save(out / "codes_changed.png", several)

    seconds = Plot("Time of a step", "seconds a step")
    for name, steps, colour in coloured:
        x, y = series(steps, lambda step: number(step, "seconds"))
        seconds.axes.plot(x, y, color=colour, linewidth=1.3, label=name)
    seconds.axes.set_ylim(bottom=0)
    seconds.save(out / "seconds.png", several)
    return [out / "loss.png", out / "codes_changed.png", out / "seconds.png"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Draw loss, code changes and time a step of tuning runs as PNG files.",
        epilog="example: scripts/plot.py out/demo/run.jsonl --out out/demo",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN.jsonl", help="logs of `pvtune tune --log`")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the PNG files; made if missing")
    arguments = parser.parse_args()
    runs = {str(path): read_run(path) for path in arguments.runs}
    arguments.out.mkdir(parents=True, exist_ok=True)
    # matplotlib keeps a list of the machine's fonts; it belongs with what was built, not in the user's home.
    os.environ.setdefault("MPLCONFIGDIR", os.path.join(environment.ROOT, "build", "cache", "matplotlib"))
    Path(os.environ["MPLCONFIGDIR"]).mkdir(parents=True, exist_ok=True)
    for path in draw(runs, arguments.out):
        print(path)


if __name__ == "__main__":
    run(main)
