"""The report of scripts/nightly.py: pass or fail on top, then what was measured and how it moved."""

from pathlib import Path
from typing import Any

from files import replaced, write_text
from pictures import load_pyplot

Record = dict[str, Any]
_TRENDS = {"perplexity": "perplexity", "seconds_per_step": "seconds a tuning step", "peak_bytes": "peak memory, MiB"}


def verdict(stages: dict[str, Record], unrecorded: list[str]) -> str:
    """PASS or FAIL; a pass says at once which part of it no hashes stand for."""
    if any(stage["outcome"] != "passed" for stage in stages.values()):
        return "FAIL"
    if not unrecorded:
        return "PASS"
    hashed = [name for name, stage in stages.items() if is_hashed(stage["record"])]
    where = "" if len(unrecorded) == len(hashed) else f" in {len(unrecorded)} of {len(hashed)} stages"
    return f"PASS (no hashes recorded for this platform{where}: tolerances only)"


def is_hashed(record: Record) -> bool:
    """Whether a stage's results are bits that can be held against recorded ones."""
    return "fingerprints" in record or "tuned" in record


def write_report(out: Path, stages: dict[str, Record], history: list[Record], platform: str, unrecorded: list[str]) -> None:
    """report.md and, where runs of the matrix are in it, trend-*.png."""
    failed = [name for name, stage in stages.items() if stage["outcome"] != "passed"]
    rows = {name: stage["record"] for name, stage in stages.items() if "tuned" in stage["record"]}
    last = history[-1]
    lines = [f"# {verdict(stages, unrecorded)}: {len(stages) - len(failed)} of {len(stages)} stages passed", "",
             f"{last['date']}, commit {last['commit']}{' with changes' if last['changes'] else ''}, {platform}.", ""]
    if unrecorded:
        lines += [f"No hashes are recorded here for {', '.join(unrecorded)}: numbers were held against tolerances only. "
                  "`scripts/nightly.py --update --reason TEXT` records them.", ""]
    for name in failed:
        lines += [f"- **{name}**: {problem}" for problem in stages[name]["problems"]]
    lines += ["", "| stage | outcome | seconds |", "| --- | --- | ---: |"]
    lines += [f"| {name} | {stage['outcome']} | {stage['seconds']:,.0f} |" for name, stage in stages.items()]
    if rows:
        lines += ["", "| run | bits a weight | output error | loss | perplexity | s a step | peak MiB | tuned |",
                  "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |"]
        lines += [f"| {name} | {row['bits_per_weight']:.3f} | {row['relative_output_error']:.4f} | {row['loss']:.4f} "
                  f"| {row['perplexity']:.4g} | {row['seconds_per_step']:.2f} | {row['peak_bytes'] / 2**20:.0f} "
                  f"| {row['tuned'][:12]} |" for name, row in rows.items()]
    with_rows = [entry for entry in history if entry["rows"]]
    if with_rows:
        _draw_trends(out, with_rows)
        lines += ["", "## Trend", ""] + [f"![{words} by run](trend-{key}.png)" for key, words in _TRENDS.items()]
    write_text(out / "report.md", "\n".join(lines) + "\n")


def _draw_trends(out: Path, history: list[Record]) -> None:
    """One picture a quantity: a line a row over the runs."""
    pyplot = load_pyplot()
    names = sorted({name for entry in history for name in entry["rows"]})
    for key, words in _TRENDS.items():
        figure, axes = pyplot.subplots(figsize=(8, 4.2), layout="constrained")
        for name in names:
            found = [(i + 1, entry["rows"][name][key]) for i, entry in enumerate(history) if name in entry["rows"]]
            scale = 2**20 if key == "peak_bytes" else 1
            axes.plot([x for x, _ in found], [y / scale for _, y in found], marker="o", markersize=3, label=name)
        if key == "perplexity":
            axes.set_yscale("log")
        axes.set_xlabel("run")
        axes.set_ylabel(words)
        axes.set_xlim(0.5, len(history) + 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.grid(True, color="#d9d9d9", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, ncols=2)
        with replaced(out / f"trend-{key}.png") as partial:
            figure.savefig(partial, dpi=150, format="png")
        pyplot.close(figure)
