#!/usr/bin/env python3
"""Draw convergence.json of `pvtune demo-convergence`: exact steps, the bound of linearised ones, subspaces."""

import os
import sys

sys.path[0] = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib")
import environment  # noqa: F401,E402

import argparse  # noqa: E402
import json  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from errors import Error, run  # noqa: E402
from files import check_begins, replaced  # noqa: E402
from pictures import PNG, load_pyplot  # noqa: E402

_COLOURS = {"exact": "#2c7d4f", "full space, 1/L": "#1f5fa8", "subspace, 1/L_S": "#c4501b",
            "subspace, exact": "#7a4b9c", "full space, 1/L_S": "#8a6d1a"}
_DPI = 150
_MOST_STEPS = 30


def read(path: Path) -> list[dict[str, Any]]:
    """The problems of the file."""
    try:
        problems = json.loads(path.read_text(encoding="utf-8"))["problems"]
        for problem in problems:
            for each in problem["runs"]:
                _ = each["v_step"], each["fixed_point"], [(step["f_x"], step["f_y"], step["bound"], step["f_next"], step["moved"])
                                     for step in each["iterations"]]
    except (ValueError, KeyError, TypeError) as error:
        raise Error(f"{path}: not what `pvtune demo-convergence --out DIR` writes as convergence.json") from error
    if not problems:
        raise Error(f"{path}: holds no problem")
    return problems


def halves(steps: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """f after every half iteration: x_0, y_0, x_1, y_1, ..."""
    x, y = [0.0], [steps[0]["f_x"]]
    for k, step in enumerate(steps):
        x += [k + 0.5, k + 1]
        y += [step["f_y"], step["f_next"]]
    return x, y


def draw_problem(axes: Any, problem: dict[str, Any]) -> None:
    """f of every method over its iterations; of the linearised ones the bound too."""
    limit = max(step[key] for each in problem["runs"] for step in each["iterations"][:1] for key in ("f_x", "f_y"))
    # Runs end where nothing moves any more; the one that never does is not to set the width.
    settled = [len(each["iterations"]) for each in problem["runs"] if each["fixed_point"]]
    width = min(_MOST_STEPS, max(settled, default=_MOST_STEPS) + 2)
    for each in problem["runs"]:
        name, steps = each["v_step"], each["iterations"][:width]
        colour = _COLOURS.get(name, "#44606e")
        total = sum(step["moved"] for step in each["iterations"])
        x, y = halves(steps)
        if each["fixed_point"]:
            x, y = [*x, width], [*y, y[-1]]
        axes.plot(x, y, color=colour, linewidth=1.6, marker="o", markersize=3,
                  linestyle="--" if name == "full space, 1/L_S" else "-", label=f"{name}: {total} moves")
        if name in ("full space, 1/L", "subspace, 1/L_S"):
            axes.plot([k + 1 for k in range(len(steps))], [step["bound"] for step in steps], color=colour,
                      linestyle="none", marker="_", markersize=9)
    axes.set_yscale("log")
    axes.set_ylim(top=3 * limit)
    axes.set_xlim(0, width)
    axes.set_title(f"{problem['problem']}: {problem['dimension']} coordinates, {problem['values']} values", loc="left",
                   fontsize=11, fontweight="bold")
    axes.set_xlabel("iteration (P step to the half, V step to the whole)")
    axes.set_ylabel("f")
    axes.grid(True, color="#d9d9d9", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Draw what `pvtune demo-convergence` found as DIR/convergence.png; bars are bounds.",
        epilog="example: scripts/plot_convergence.py out/theory/convergence.json --out out/theory",
    )
    parser.add_argument("file", type=Path, metavar="convergence.json")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the PNG file; made if missing")
    arguments = parser.parse_args()
    problems = read(arguments.file)
    arguments.out.mkdir(parents=True, exist_ok=True)
    pyplot = load_pyplot()
    figure, axes = pyplot.subplots(1, len(problems), figsize=(5.4 * len(problems), 4.4), layout="constrained",
                                   squeeze=False)
    for each, problem in zip(axes[0], problems):
        draw_problem(each, problem)
    path = arguments.out / "convergence.png"
    check_begins(path, PNG, "PNG picture")
    with replaced(path) as partial:
        figure.savefig(partial, dpi=_DPI, format="png")
    print(path)


if __name__ == "__main__":
    run(main)
