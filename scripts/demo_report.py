#!/usr/bin/env python3
"""Write the demo's report.json and report.md from what its phases left behind (scripts/demo_phase.py)."""

import os
import sys

sys.path[0] = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib")
import environment  # noqa: F401,E402

import argparse  # noqa: E402
import json  # noqa: E402
import platform  # noqa: E402
import shlex  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from errors import Error, run  # noqa: E402
from files import write_text  # noqa: E402

Record = dict[str, Any]
_MODELS = ("dense", "quantized", "tuned")
# model -> (its file, the phase that made it)
_MADE = {"dense": ("model.h5", "import"), "quantized": ("quantized.h5", "quantize"), "tuned": ("tuned.h5", "tune")}


def read_phases(folder: Path) -> dict[str, Record]:
    """The record of every phase, in the order they ran (their files are numbered)."""
    phases = {}
    for path in sorted(folder.glob("*.json")):
        try:
            phases[path.stem.split("-", 1)[1]] = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, IndexError) as error:
            raise Error(f"{path}: not the record of a phase: run the demo again") from error
    return phases


def result(phases: dict[str, Record], phase: str) -> Record:
    """The JSON result of a phase."""
    found = phases.get(phase, {}).get("result")
    if not isinstance(found, dict):
        raise Error(f"the phase {phase!r} left no JSON result: run the demo again")
    return found


def value(phases: dict[str, Record], phase: str, key: str) -> float:
    """One number of a phase's result."""
    found = result(phases, phase).get(key)
    if not isinstance(found, (int, float)) or isinstance(found, bool):
        raise Error(f"the result of the phase {phase!r} has no number {key!r}: run the demo again")
    return found


def summarise(phases: dict[str, Record], folder: Path, text: str, notes: dict[str, str]) -> Record:
    """The content of report.json."""
    models = {}
    for model in _MODELS:
        file, made_by = _MADE[model]
        if made_by not in phases or not (folder / file).is_file():
            raise Error(f"the phase {made_by!r} left no record or no {file}: run the demo again")
        evaluation = f"eval-{model}"
        size = (folder / file).stat().st_size
        models[model] = {
            "bits_per_weight": value(phases, f"inspect-{model}", "bits_per_weight"),
            "file_bytes": size,
            "perplexity": value(phases, evaluation, "perplexity"),
            "seconds": phases[made_by]["seconds"],
            "peak_bytes": _peak(phases, made_by),
        }
    return {
        "perplexity": {model: models[model]["perplexity"] for model in _MODELS},
        "bits_per_weight": models["quantized"]["bits_per_weight"],
        "relative_mse": result(phases, "quantize").get("relative_mse"),
        "seconds": {**{name: phase["seconds"] for name, phase in phases.items()},
                    "total": round(sum(phase["seconds"] for phase in phases.values()), 3)},
        "peak_bytes": models["tuned"]["peak_bytes"],
        "models": models,
        "evaluation": {key: result(phases, "eval-dense").get(key) for key in ("tokens", "windows", "ctx", "precision")
                       if key in result(phases, "eval-dense")},
        "tuning": {key: result(phases, "tune").get(key) for key in ("loss", "steps", "seconds_per_step")},
        "text": text,
        "settings": notes,
        "commands": {name: shlex.join(phase["command"]) for name, phase in phases.items()},
        "samples": {"before": _sample(phases, "generate-quantized"), "after": _sample(phases, "generate-tuned")},
        "machine": {"processor": _processor(), "cores": len(os.sched_getaffinity(0)), "system": platform.platform()},
    }


def _peak(phases: dict[str, Record], phase: str) -> int:
    """What the command says it took, else what the system saw."""
    said = (phases[phase].get("result") or {}).get("peak_bytes")
    return int(said if isinstance(said, (int, float)) else phases[phase]["peak_bytes"])


def _sample(phases: dict[str, Record], phase: str) -> str:
    """The text that a phase generated: a member of its JSON result, or all it printed."""
    record = phases.get(phase, {})
    found = (record.get("result") or {}).get("text")
    return found if isinstance(found, str) else str(record.get("output", "")).strip()


def _processor() -> str:
    """The processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.machine()


def _quoted(text: str) -> str:
    """A block of text that Markdown shows as it is, whatever a wrecked model wrote."""
    shown = "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
    return "\n".join("    " + line for line in shown.splitlines()) or "    (nothing)"


def markdown(report: Record) -> str:
    """The content of report.md."""
    names = {"dense": "unquantised", "quantized": "quantised", "tuned": "PV-tuned"}
    made = {"dense": "import", "quantized": "quantise", "tuned": "tune"}
    rows = "\n".join(
        f"| {names[model]} | {entry['bits_per_weight']:.3f} | {entry['file_bytes'] / 1e6:,.1f} MB"
        f" | {entry['perplexity']:,.2f} | {entry['seconds']:,.1f} ({made[model]})"
        f" | {entry['peak_bytes'] / 2**30:.2f} GiB |"
        for model, entry in report["models"].items()
    )
    seconds = report["seconds"]
    phases = "\n".join(f"| {name} | {spent:,.1f} |" for name, spent in seconds.items() if name != "total")
    commands = "\n".join(f"    {command}" for command in report["commands"].values() if "pvtune" in command)
    settings = "".join(f"- {name}: {text}\n" for name, text in report["settings"].items())
    counted = ", ".join(f"{name} {value}" for name, value in report["evaluation"].items())
    tuning = report["tuning"]
    per_step = tuning.get("seconds_per_step")
    steps = f"{tuning.get('steps')} steps" + (f" of {per_step:.2f} s" if isinstance(per_step, (int, float)) else "")
    return f"""# A 2-bit SmolLM2-135M, PV-tuned

The model was quantised to {report['bits_per_weight']:.3f} bits a weight, block by block, and then tuned end to end for
{steps} with PV-Tuning, codes included.

| model | bits a weight | file | perplexity | seconds | peak memory |
| --- | ---: | ---: | ---: | ---: | ---: |
{rows}

Perplexity: {report['text']}; {counted}.

{settings}- machine: {report['machine']['processor']}, {report['machine']['cores']} cores, {report['machine']['system']}

## The tuning run

![Loss by step](loss.png)

![Share of codes that change, by step](codes_changed.png)

![Seconds a step](seconds.png)

Everything the logs tell, on one page: [run.html](run.html)

## What the model writes

Before tuning:

{_quoted(report['samples']['before'])}

After:

{_quoted(report['samples']['after'])}

## Time

| phase | seconds |
| --- | ---: |
{phases}
| **all** | **{seconds['total']:,.1f}** |

## Commands

{commands}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Write report.json and report.md of the demo.")
    parser.add_argument("--phases", type=Path, required=True, metavar="DIR", help="records that demo_phase.py wrote")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the demo's files and the report")
    parser.add_argument("--text", required=True, help="which text was used, in words")
    parser.add_argument("--setting", nargs=2, action="append", default=[], metavar=("NAME", "TEXT"),
                        help="a setting to put into the report; may be repeated")
    arguments = parser.parse_args()
    report = summarise(read_phases(arguments.phases), arguments.out, arguments.text, dict(arguments.setting))
    write_text(arguments.out / "report.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    write_text(arguments.out / "report.md", markdown(report))
    print(f"perplexity: {report['perplexity']['dense']:,.2f} unquantised, {report['perplexity']['quantized']:,.2f} quantised,"
          f" {report['perplexity']['tuned']:,.2f} tuned; {report['bits_per_weight']:.3f} bits a weight;"
          f" {report['seconds']['total']:,.0f} s in all")
    print(f"report: {arguments.out / 'report.md'}")


if __name__ == "__main__":
    run(main)
