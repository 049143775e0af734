"""Compares the runs that scripts/bench_cpu.sh left: quantity | PyTorch | pvtune | ratio | goal, and a JSON file.

A rate is the mean over a run's rounds or steps; of several runs the best counts, on both sides. Ratios are how many
times better pvtune is. Peak memory is the largest resident set of the process that computes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional

PRECISIONS = ("bf16", "f32")


@dataclass
class Line:
    quantity: str
    unit: str
    pytorch: float
    pvtune: float
    ratio: float
    goal: Optional[float]  # the least ratio wanted; none in f32


def read(runs: Path, engine: str, what: str, precision: str) -> list[dict[str, Any]]:
    """The results of this kind, one a round."""
    records = [json.loads(path.read_text()) for path in sorted(runs.glob(f"*-{engine}-{what}-{precision}.json"))]
    if not records or any(not record["result"] for record in records):
        raise ValueError(f"{runs}: no result of {engine} {what} {precision}")
    if engine == "pytorch":
        return [record["result"]["measurements"][0] for record in records]
    return [record["result"] | {"peak_bytes": record["peak_bytes"]} for record in records]


def lines(runs: Path) -> list[Line]:
    """The whole table."""
    table = []

    def add(quantity: str, unit: str, pytorch: float, pvtune: float, goal: Optional[float], larger: bool = False) -> None:
        ratio = pvtune / pytorch if larger else pytorch / pvtune
        table.append(Line(quantity, unit, pytorch, pvtune, ratio, goal))

    def best(results: list[dict[str, Any]], value: Callable[[dict[str, Any]], float], choose: Callable = min) -> float:
        return choose(value(result) for result in results)

    for precision in PRECISIONS:
        if not any(runs.glob(f"*-{precision}.json")):  # scripts/bench_cpu.sh --precision left it out
            continue
        goal = {"eval": 2.0, "gradients": 2.5, "step": 4.0, "memory": 2.0} if precision == "bf16" else {}
        torch_eval, our_eval = (read(runs, engine, "eval", precision) for engine in ("pytorch", "pvtune"))
        gradients, torch_step = (read(runs, "pytorch", what, precision) for what in ("gradients", "step"))
        our_step = read(runs, "pvtune", "step", precision)
        add(
            f"evaluation, {precision}",
            "tokens/s",
            best(torch_eval, lambda result: result["tokens_per_second_mean"], max),
            best(our_eval, lambda result: result["tokens"] / result["seconds"], max),
            goal.get("eval"),
            larger=True,
        )
        step = best(our_step, lambda result: result["seconds_per_step"])
        torch_step_seconds = best(torch_step, lambda result: result["seconds_mean"])
        gradient_seconds = best(gradients, lambda result: result["seconds_mean"])
        add(f"whole PV step, {precision}", "s", torch_step_seconds, step, goal.get("step"))
        add(f"PyTorch's gradients alone to our whole step, {precision}", "s", gradient_seconds, step, goal.get("gradients"))
        memory = [min(result["peak_bytes"] for result in results) / 2**30 for results in (torch_step, our_step)]
        add(f"peak memory of the step, {precision}", "GiB", *memory, goal.get("memory"))
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args()
    try:
        table = lines(options.runs)
        records = {path.stem: json.loads(path.read_text()) for path in sorted(options.runs.glob("*.json"))}
        machine = {"machine": platform.machine(), "cores": len(os.sched_getaffinity(0)), "kernel": platform.release()}
        report = {"settings": "SmolLM2-135M, 2 x 1024 tokens a step, 1024 a window", "machine": machine}
        report |= {"table": [asdict(line) for line in table], "runs": records}
        options.out.write_text(json.dumps(report, indent=2) + "\n")
    except (OSError, ValueError, KeyError, ZeroDivisionError) as error:
        print(f"bench-cpu: {error}", file=sys.stderr)
        return 2
    width = max(len(line.quantity) for line in table)
    print(f"{'quantity':{width}}  {'unit':8}  {'PyTorch':>9}  {'pvtune':>9}  {'ratio':>6}  goal")
    for line in table:
        met = "" if line.goal is None else f">= {line.goal:g} {'met' if line.ratio >= line.goal else 'MISSED'}"
        print(
            f"{line.quantity:{width}}  {line.unit:8}  {line.pytorch:9.2f}  {line.pvtune:9.2f}  {line.ratio:6.2f}  {met}".rstrip()
        )
    print(f"all figures: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
