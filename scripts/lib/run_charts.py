"""What the log of a run shows, as charts that plot.py draws as PNGs and run_page.py as a page.

`--log` of pvtune writes one JSON object a line; its keys tell whose it is: `step` tune, `matrix` and `block` quantize
(with and without calibration), `windows` eval. docs/formats.md lists them.
"""

import json
import math
import os
import re
import sys
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

from errors import Error

Row = dict[str, Any]
Value = Callable[[Row], Optional[float]]


class Series(NamedTuple):
    """A curve."""

    label: str
    x: list[float]
    y: list[float]


class Chart(NamedTuple):
    """Curves over one axis, or a map: rows[i] of cells at height i over x."""

    name: str  # of the file, without its ending
    title: str
    x_label: str
    y_label: str
    series: list[Series]
    log: bool = False  # values may span decades
    smooth: bool = False  # each curve also as a running mean
    cells: Optional[list[list[Optional[float]]]] = None
    cells_x: tuple[float, ...] = ()


class Run(NamedTuple):
    """A log, by kind of line."""

    name: str
    steps: list[Row]
    matrices: list[Row]
    blocks: list[Row]
    windows: list[Row]


def read_run(path: Path) -> Run:
    """The log in order; where a run was resumed or begun again in the same file, the later line counts."""
    found: dict[str, dict[Any, Row]] = {"step": {}, "matrix": {}, "block": {}, "windows": {}}
    with open(path, encoding="utf-8", errors="replace") as file:
        for count, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            kind = next((key for key in found if _is_key(row, key)), None)
            if kind is None:
                print(f"{os.path.basename(sys.argv[0])}: {path}:{count}: no line of a tune, quantize or eval log, left out",
                      file=sys.stderr)
                continue
            found[kind][row[kind]] = row
    if not any(found.values()):
        raise Error(f"{path}: holds no step of a run: give a file that --log of pvtune tune, quantize or eval wrote")
    ordered = {kind: [rows[key] for key in sorted(rows)] if kind != "matrix" else list(rows.values())
               for kind, rows in found.items()}
    return Run(str(path), ordered["step"], ordered["matrix"], ordered["block"], ordered["windows"])


def _is_key(row: Any, key: str) -> bool:
    return isinstance(row, dict) and type(row.get(key)) is (str if key == "matrix" else int)


def number(row: Row, key: str) -> Optional[float]:
    """A finite number of a line, or nothing."""
    value = row.get(key)
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None


def changed_percent(row: Row) -> Optional[float]:
    """Groups whose codes changed in a step, in percent of all groups."""
    changed, groups = number(row, "codes_changed"), number(row, "groups")
    return 100 * changed / groups if changed is not None and groups else None


def perplexity(row: Row) -> Optional[float]:
    """exp of the mean loss so far."""
    nll = number(row, "nll")
    return math.exp(nll) if nll is not None and nll < 700 else None


def series(label: str, rows: list[Row], key: str, value: Value) -> Series:
    """A curve over a key, where there is a value."""
    pairs = [(row[key], found) for row in rows if (found := value(row)) is not None]
    return Series(label, [x for x, _ in pairs], [y for _, y in pairs])


def running_mean(values: list[float]) -> list[float]:
    """Mean over a window of about a tenth of the run around each step, symmetric and so narrower at the ends."""
    reach = max(1, len(values) // 20)
    result = []
    for index in range(len(values)):
        near = min(reach, index, len(values) - 1 - index)
        window = values[index - near : index + near + 1]
        result.append(sum(window) / len(window))
    return result


def charts(runs: list[Run]) -> list[Chart]:
    """Every chart that has something to show."""
    found = _tune(runs) + _quantize(runs) + _eval(runs)
    return [chart for chart in found if chart.cells or any(curve.y for curve in chart.series)]


def _each(runs: list[Run], rows: Callable[[Run], list[Row]], key: str, value: Value) -> list[Series]:
    return [series(run.name, rows(run), key, value) for run in runs if rows(run)]


def _gibibytes(row: Row) -> Optional[float]:
    found = number(row, "peak_bytes")
    return found / 2**30 if found is not None else None


def _tune(runs: list[Run]) -> list[Chart]:
    def curves(value: Value) -> list[Series]:
        return _each(runs, lambda run: run.steps, "step", value)

    step = "tuning step"
    tuned = [run for run in runs if run.steps]
    parts = [series(part, tuned[0].steps, "step", lambda row, key=f"{part}_seconds": number(row, key))
             for part in ("teacher", "forward", "loss", "backward", "p", "v")] if len(tuned) == 1 else []
    found = [
        Chart("loss", "Loss: divergence from the unquantised model", step, "KL divergence (nats a token)",
              curves(lambda row: number(row, "loss")), log=True, smooth=True),
        Chart("codes_changed", "Codes that change in a step", step, "groups with a new code (% of all)",
              curves(changed_percent), log=True),
        Chart("seconds", "Time of a step", step, "seconds a step",
              curves(lambda row: number(row, "seconds")) + [part for part in parts if part.y]),
        Chart("measured_change", "What V steps change of their batch's loss", step, "nats a token",
              curves(lambda row: number(row, "measured_change"))),
        Chart("memory", "Peak memory", step, "GiB", curves(_gibibytes)),
    ]
    for index, run in enumerate(tuned):
        rows = [row for row in run.steps if isinstance(row.get("codes_changed_by_block"), list)]
        if rows:
            name = "codes_changed_by_block" + (f"_{index + 1}" if len(tuned) > 1 else "")
            title = "Codes that change, by block (% of its groups)" + (f": {run.name}" if len(tuned) > 1 else "")
            found.insert(2 + index, Chart(name, title, step, "block", [], cells=_by_block(rows),
                                  cells_x=tuple(row["step"] for row in rows)))
    return found


def _by_block(rows: list[Row]) -> list[list[Optional[float]]]:
    """Percent of a block's groups that changed; a list of steps for each block."""
    blocks = max(len(row["codes_changed_by_block"]) for row in rows)

    def share(row: Row, block: int) -> Optional[float]:
        changed, groups = row["codes_changed_by_block"], row.get("groups_by_block")
        good = isinstance(groups, list) and block < min(len(changed), len(groups)) and groups[block]
        return 100 * changed[block] / groups[block] if good else None

    return [[share(row, block) for row in rows] for block in range(blocks)]


def _block_and_kind(name: str) -> tuple[Optional[int], str]:
    """model.layers.3.mlp.up_proj.weight -> 3, up_proj."""
    match = re.search(r"\.(\d+)\.(?:.*\.)?(\w+)\.weight$", name)
    return (int(match[1]), match[2]) if match else (None, name)


def _quantize(runs: list[Run]) -> list[Chart]:
    quantised = [run for run in runs if run.matrices]
    block = "block"

    def by_matrix(key: str) -> list[Series]:
        curves = []
        for run in quantised:
            kinds: dict[str, list[Row]] = {}
            for row in run.matrices:
                index, kind = _block_and_kind(row["matrix"])
                if index is not None:
                    kinds.setdefault(kind, []).append({**row, "block": index})
            for kind, rows in kinds.items():
                label = f"{run.name} {kind}" if len(quantised) > 1 else kind
                curves.append(series(label, rows, "block", lambda row: number(row, key)))
        return curves

    def by_block(value: Value, name: str = "") -> list[Series]:
        return [curve._replace(label=name if name and len(runs) == 1 else f"{curve.label} {name}".strip())
                for curve in _each(runs, lambda run: run.blocks, "block", value)]

    # Without calibration a matrix's output error is its weight error.
    calibrated = [curve for curve in by_matrix("relative_output_error") if any(run.blocks for run in quantised)]
    seconds = [] if any(run.blocks for run in quantised) else by_matrix("seconds")
    for part in ("hessian", "quantize", "tune", "forward"):
        seconds += by_block(lambda row, key=f"{part}_seconds": number(row, key), part)
    return [
        Chart("relative_mse", "Error of the weights", block, "|W - What|^2 / |W|^2", by_matrix("relative_mse"), log=True),
        Chart("relative_output_error", "Error of the matrices' outputs", block, "relative squared error", calibrated,
              log=True),
        Chart("block_error", "Error of a block's output, before and after its tuning", block, "relative squared error",
              by_block(lambda row: number(row, "tuned_error_before"), "before")
              + by_block(lambda row: number(row, "tuned_error"), "after"), log=True),
        Chart("bits", "Bits a weight", block, "bits", by_matrix("bits_per_weight")),
        Chart("quantize_seconds", "Time of quantisation", block, "seconds", seconds),
        Chart("quantize_memory", "Peak memory of quantisation", block, "GiB",
              [series(run.name, [{**row, "block": index} for row in run.matrices
                                 if (index := _block_and_kind(row["matrix"])[0]) is not None], "block", _gibibytes)
               for run in quantised]),
    ]


def _eval(runs: list[Run]) -> list[Chart]:
    return [Chart("perplexity", "Perplexity over the text so far", "windows", "perplexity",
                  _each(runs, lambda run: run.windows, "windows", perplexity))]
