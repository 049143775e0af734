#!/usr/bin/env python3
"""Write what gpu-check recorded (docs/results/gpu-*.json) as tables into docs/results.md."""

import os
import sys

sys.path[0] = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib")
import environment  # noqa: E402

import argparse  # noqa: E402
import json  # noqa: E402
import re  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, Optional  # noqa: E402

from errors import Error, run  # noqa: E402
from files import write_text  # noqa: E402

HEADING = "## On GPUs"
TITLES = {"conformance": "wrappers", "kernels": "kernels against the CPU", "parity": "tiny models against the CPU",
          "sanitizer": "compute-sanitizer", "demo": "SmolLM2 demo", "bench": "benchmark",
          "pytorch": "PyTorch's operations", "training": "training step"}
# figure, words, factor, digits and unit
TRAINING_ROWS = (("seconds_per_step", "step", 1e3, "{:,.0f} ms"), ("tokens_per_second", "tokens/s", 1, "{:,.0f}"),
                 ("model_flops_per_second", "rate of the model's FLOPs", 1e-12, "{:,.0f} TFLOP/s"),
                 ("gemm_share", "share of the GEMM rate", 100, "{:.1f} %"),
                 ("pytorch_ratio", "PyTorch's step to ours", 1, "{:.2f}x"),
                 ("v_step_share", "V step's share of the step", 100, "{:.1f} %"),
                 ("state_bytes_per_weight", "bytes a quantised weight, one block's memory aside", 1, "{:.2f}"),
                 ("planned_device_bytes", "device memory by the plan", 2**-30, "{:.1f} GiB"),
                 ("peak_device_bytes", "most device memory in use", 2**-30, "{:.1f} GiB"),
                 ("pytorch_seconds_per_step", "PyTorch: step", 1e3, "{:,.0f} ms"),
                 ("pytorch_peak_bytes", "PyTorch: most memory allocated", 2**-30, "{:.1f} GiB"))


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table whose columns after the first are right-aligned."""
    line = "| --- |" + " ---: |" * (len(header) - 1)
    return ["", "| " + " | ".join(header) + " |", line, *("| " + " | ".join(row) + " |" for row in rows)]


def count(step: dict[str, Any], which: str) -> str:
    counts = [unit[which] for unit in step.get("units", {}).values() if which in unit]
    return str(sum(counts)) if counts else ""


def result(step: dict[str, Any], unit: str) -> dict[str, Any]:
    return step.get("units", {}).get(unit, {}).get("result", {})


def steps_table(record: dict[str, Any]) -> list[str]:
    rows = []
    for name, step in record["steps"].items():
        outcome = step["outcome"] + (f": {step['reason']}" if "reason" in step else "")
        rows.append([TITLES.get(name, name), outcome, str(len(step.get("units", {}))), count(step, "passed"),
                     count(step, "failed"), f"{step.get('seconds', 0):.1f}"])
    return table(["step", "outcome", "programs", "cases passed", "failed", "s"], rows)


def demo_table(step: dict[str, Any]) -> list[str]:
    rows = [[name, f"{figures['perplexity']:.2f}", f"{figures['tokens_per_second']:,.0f}"]
            for name in ("unquantised", "quantised", "tuned") if "perplexity" in (figures := result(step, name))]
    seconds = result(step, "tuning").get("seconds_per_step")
    log = step.get("units", {}).get("tuning", {}).get("log")
    share = f", the V step {100 * log['v_step_share']:.1f} % of it" if log else ""
    words = ["", f"Tuning: {seconds * 1e3:.0f} ms a step{share}."] if seconds else []
    return table(["SmolLM2-135M, bf16", "perplexity", "tokens/s"], rows) + words if rows else words


def bench_table(shape: str, figures: dict[str, Any]) -> list[str]:
    rows = []
    for entry in figures.get("entries", []):
        name = entry["op"] + (f" ({entry['version']})" if entry["version"] else "")
        if "skipped" in entry:
            rows.append([f"{name}: {entry['skipped']}", "", "", "", "", ""])
        else:
            rows.append([name, f"{entry['seconds'] * 1e3:.3f}", f"{entry['bytes_per_second'] / 1e9:,.0f}",
                         f"{entry['flops_per_second'] / 1e12:,.1f}", f"{100 * entry['share']:.0f} %", entry["limit"]])
    if not rows:
        return []
    limits = figures["limits"]
    words = (f"Limits in this run: copy {limits['copy_bytes_per_second'] / 1e9:,.0f} GB/s, GEMM "
             f"{limits['gemm_flops_per_second'] / 1e12:,.0f} TFLOP/s.")
    header = [f"shape {shape}, {figures['precision']}", "ms", "GB/s", "TFLOP/s", "share", "of"]
    return [*table(header, rows), "", words]


def goal_words(goal: dict[str, Any], scale: float, form: str) -> tuple[str, str]:
    side = "at_least" if "at_least" in goal else "at_most"
    outcome = {True: "met", False: "**missed**", None: "not measured"}[goal["met"]]
    return f"{side.replace('_', ' ')} {form.format(goal[side] * scale)}", outcome


def training_table(step: dict[str, Any]) -> list[str]:
    """Every row, with why where there is no figure."""
    figures = result(step, "figures")
    if not figures:
        return []
    rows = []
    for name, words, scale, form in TRAINING_ROWS:
        value = form.format(figures[name] * scale) if name in figures else f"none: {figures['missing'].get(name, '')}"
        goal = figures["goals"].get(name)
        rows.append([words, value, *(goal_words(goal, scale, form) if goal else ("", ""))])
    lines = table([f"training step, {figures['model']}, {figures['tokens_per_step']:,} tokens, bf16", "", "goal", ""], rows)
    phases = figures.get("phase_seconds", {})
    words = [f"FLOPs of a step: {figures['flops_rule']}."]
    if phases:
        words.append("By phase: " + ", ".join(f"{name} {1e3 * seconds:.1f} ms" for name, seconds in phases.items()) + ".")
    if "pytorch" in figures:
        compiled = "" if figures["pytorch"]["compiled"] else ", not compiled"
        words.append(f"PyTorch {figures['pytorch']['version']}{compiled}.")
    return [*lines, "", " ".join(words)]


def pytorch_table(figures: dict[str, Any]) -> list[str]:
    rows = []
    for name, title in (("flash_attention", "flash attention"), ("cudnn_attention", "cuDNN attention")):
        for way in ("forward", "backward"):
            seconds: Optional[float] = figures.get(name, {}).get(f"{way}_seconds")
            if seconds:
                rate = figures[name][f"{way}_flops_per_second"] / 1e12
                rows.append([f"{title}, {way}", f"{seconds * 1e3:.3f}", "", f"{rate:,.0f}"])
    if "copy" in figures:
        rate = figures["copy"]["bytes_per_second"] / 1e9
        rows.append(["copy on the device", f"{figures['copy']['seconds'] * 1e3:.3f}", f"{rate:,.0f}", ""])
    for product in figures.get("products", []):
        rows.append([f"product {product['m']} x {product['n']} x {product['k']}", f"{product['seconds'] * 1e3:.3f}", "",
                     f"{product['flops_per_second'] / 1e12:,.0f}"])
    return table([f"PyTorch {figures.get('torch', '')}, bf16", "ms", "GB/s", "TFLOP/s"], rows) if rows else []


def device_section(record: dict[str, Any], file: str) -> list[str]:
    device, steps = record["device"], record["steps"]
    clocks = [step["clock_sm_mhz"]["median"] for step in steps.values() if "clock_sm_mhz" in step]
    clock = f", {max(clocks):.0f} MHz under load" if clocks else ""
    changed = " with changes" if record.get("uncommitted_changes") else ""
    lines = ["", f"### {device['name']}", "",
             f"{record['date'][:10]}, driver {device['driver']}, {device['memory_mib']} MiB{clock}, commit "
             f"{record['commit'][:12]}{changed}; all figures: [{file}](results/{file})."]
    lines += steps_table(record)
    if "demo" in steps:
        lines += demo_table(steps["demo"])
    for shape in steps.get("bench", {}).get("units", {}):
        lines += bench_table(shape, result(steps["bench"], shape))
    lines += training_table(steps.get("training", {}))
    return lines + pytorch_table(result(steps.get("pytorch", {}), "operations"))


def section(results: Path) -> str:
    lines = [HEADING]
    for path in sorted(results.glob("gpu-*.json")):
        try:
            lines += device_section(json.loads(path.read_text(encoding="utf-8")), path.name)
        except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
            raise Error(f"{path}: not a record of gpu-check ({type(error).__name__}: {error})") from None
    return "\n".join(lines if len(lines) > 1 else [HEADING, "", "not yet measured"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", type=Path, default=Path(environment.ROOT) / "docs" / "results.md", metavar="FILE",
                        help="the page; records lie in results/ beside it")
    page = parser.parse_args().page
    text = page.read_text(encoding="utf-8")
    found = re.search(rf"^{HEADING}\n.*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise Error(f"{page}: there is no heading '{HEADING}'")
    rest = text[found.end():]
    write_text(page, text[:found.start()] + section(page.parent / "results") + ("\n" if rest else "") + rest)


if __name__ == "__main__":
    run(main)
