"""The table and the plot of scripts/comparison.py."""

import collections
import json
from pathlib import Path
from typing import Any

from files import replaced, write_text
from pictures import load_pyplot

Record = dict[str, Any]
_COLOURS = {"aqlm": "#1f5fa8", "vq": "#7a4b9c", "quip": "#2c7d4f", "scalar": "#c4501b", "round-to-nearest": "#8c8c8c",
            "GPTQ": "#8a6d1a"}
_FAR = 20  # times the lowest perplexity


def write_report(records: list[Record], out: Path) -> None:
    """comparison.json, comparison.md and, once something is quantised, comparison.png in the folder."""
    write_text(out / "comparison.json", json.dumps(records, indent=2) + "\n")
    write_text(out / "comparison.md", table(records))
    if any(record["strategy"] or record["command"] for record in records):
        draw(records, out / "comparison.png")


def table(records: list[Record]) -> str:
    """A Markdown table, a row a record."""
    if not records:
        return "no row was run\n"
    texts = list(records[0]["perplexity"])
    head = ["model", "strategy", "bits a weight", "MB", *texts, "seconds", "peak GiB"]
    lines = ["| " + " | ".join(head) + " |", "| --- | --- |" + " ---: |" * (len(head) - 2)]
    best = {}
    for record in records:
        if record["strategy"]:
            value = record["perplexity"][texts[0]]
            best[record["start"]] = min(value, best.get(record["start"], value))
    for record in records:
        peak = record.get("made", {}).get("peak_bytes")
        shown = [_number(record["perplexity"][text]) for text in texts]
        if record["strategy"] and record["perplexity"][texts[0]] == best[record["start"]]:
            shown[0] = f"**{shown[0]}**"
        cells = [record["start"] or record["name"], record["strategy"] or "-", f"{record['bits_per_weight']:.3f}",
                 f"{record['model_bytes'] / 1e6:.1f}", *shown,
                 f"{record['seconds']:.0f}" if "seconds" in record else "-", f"{peak / 2**30:.2f}" if peak else "-"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 100 else f"{value:.2f}"


def draw(records: list[Record], path: Path) -> None:
    """Model bytes against perplexity on the first text: starts hollow, tuned models filled; models that are far from
    useful sit on the upper edge with their perplexity beside them."""
    pyplot = load_pyplot()
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    text = next(iter(records[0]["perplexity"]))
    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    top = _FAR * min(record["perplexity"][text] for record in records)
    named = set()
    far: collections.Counter[int] = collections.Counter()  # labels above the edge, by their place along it
    for record in records:
        family = (record["start"] or record["name"]).rsplit(" ", 1)[0]
        x, y = record["model_bytes"] / 1e6, record["perplexity"][text]
        if not record["command"]:
            axes.axhline(y, color="black", linewidth=1, linestyle=":")
            axes.annotate(f"unquantised, {x:,.0f} MB", (0.01, y), xycoords=("axes fraction", "data"), va="bottom",
                          fontsize=8)
            continue
        colour = _COLOURS.get(family, "#44606e")
        tuned = bool(record["strategy"])
        label = f"{family}, {'tuned' if tuned else 'not tuned'}"
        axes.scatter([x], [min(y, top)], s=36, marker="^" if y > top else "o", color=colour if tuned else "none",
                     edgecolors=colour, clip_on=False, label=None if label in named else label)
        if y > top:
            axes.annotate(f"{family} {y:,.0f}", (x, top), xytext=(0, 6 + 9 * far[round(x / 4)]), ha="center",
                          textcoords="offset points", fontsize=7, color=colour)
            far[round(x / 4)] += 1
        named.add(label)
    tuned = sorted((r["model_bytes"] / 1e6, min(r["perplexity"][text], top)) for r in records if r["command"])
    front: list[tuple[float, float]] = []
    for x, y in tuned:
        if not front or y < front[-1][1]:
            front.append((x, y))
    axes.step([x for x, _ in front], [y for _, y in front], where="post", color="#b0b0b0", linewidth=1, zorder=0)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(FixedLocator([a * 10**b for b in range(1, 5) for a in (1, 1.5, 2, 3, 4, 5, 7)]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.set_ylim(top=top)
    axes.set_xlabel("model, MB (what stays dense in 16 bits)")
    axes.set_ylabel(f"perplexity, {text}")
    axes.set_title("Size and perplexity", loc="left", fontsize=12, fontweight="bold", pad=12 + 9 * max(far.values(), default=0))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, which="major", color="#d9d9d9", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=8)
    with replaced(path) as partial:
        figure.savefig(partial, dpi=150, format="png")
    pyplot.close(figure)
