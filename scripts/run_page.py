#!/usr/bin/env python3
"""Write one page that shows runs: loss, perplexity, code changes by block, bits by tensor, time, memory.

A single HTML file without scripts or anything from the network: charts are SVG, and any browser opens it.
"""

import os
import sys

sys.path[0] = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib")
import environment  # noqa: E402

import argparse  # noqa: E402
import html  # noqa: E402
import json  # noqa: E402
import re  # noqa: E402
import subprocess  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, Optional  # noqa: E402

import svg  # noqa: E402
from errors import Error, one_line, run  # noqa: E402
from files import check_begins, write_text  # noqa: E402
from run_charts import Chart, Run, charts, number, perplexity, read_run  # noqa: E402

_STYLE = """
:root { color-scheme: light dark; --ink: #222; --faint: #d9d9d9; --paper: #fff; --cell: #7a1f3d;
  --c0: #1f5fa8; --c1: #c4501b; --c2: #2c7d4f; --c3: #7a4b9c; --c4: #8a6d1a; --c5: #44606e; --c6: #b03060 }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --faint: #444; --paper: #181818; --cell: #ffa0b8;
  --c0: #6fa8e8; --c1: #f08a5a; --c2: #6cc494; --c3: #b48ad6; --c4: #d0b050; --c5: #94b4c4; --c6: #e87090 } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1340px;
  margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.4em } h2 { font-size: 1em; margin: 0 0 .4em }
main { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 560px), 1fr)); gap: 1.6em }
section { min-width: 0 } svg { width: 100%; height: auto; display: block }
svg text { font-size: 12px; fill: var(--ink) } .grid { stroke: var(--faint) }
polyline { fill: none } .line { stroke-width: 1.8 } .thin { stroke-width: 1; opacity: .35 }
.cell { fill: var(--cell) } .legend { margin: .2em 0 0; font-size: .85em } .legend span { margin-right: 1em }
.legend i { display: inline-block; width: .8em; height: .8em; margin-right: .3em }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .9em }
th, td { text-align: right; padding: .15em .8em .15em 0; border-bottom: 1px solid var(--faint) }
th:first-child, td:first-child, .words :is(th, td):nth-child(-n+3) { text-align: left } .words { margin-bottom: 1.6em } code { overflow-wrap: anywhere }
""" + "".join(f"polyline.c{i} {{ stroke: var(--c{i}) }} circle.c{i} {{ fill: var(--c{i}) }} i.c{i} {{ background: var(--c{i}) }}\n"
              for i in range(svg.COLOURS))


def table(head: list[str], rows: list[list[str]], kind: str = "wide") -> str:
    """An HTML table."""
    cells = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="{kind}"><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>'


def _shown(value: Optional[float], unit: str = "") -> str:
    return "" if value is None else svg.text(value) + unit


def summary(runs: list[Run]) -> str:
    """One line a log: what it came to."""
    rows = []
    for each in runs:
        if each.steps:
            last = each.steps[-1]
            seconds = [found for row in each.steps if (found := number(row, "seconds")) is not None]
            peak = number(last, "peak_bytes")
            changed = sum(number(row, "codes_changed") or 0 for row in each.steps)
            rows.append([each.name, "tune", f"{last['step']} steps, loss {_shown(number(last, 'loss'))},"
                         f" {changed:,.0f} code changes", _shown(sum(seconds), " s"),
                         _shown(peak / 2**30 if peak else None, " GiB")])
        if each.matrices:
            errors = [found for row in each.matrices if (found := number(row, "relative_mse")) is not None]
            seconds = [found for row in each.matrices if (found := number(row, "seconds")) is not None]
            peak = number(each.matrices[-1], "peak_bytes")
            rows.append([each.name, "quantize, block by block" if each.blocks else "quantize",
                         f"{len(each.matrices)} matrices, mean relative MSE"
                         f" {_shown(sum(errors) / len(errors) if errors else None)}", _shown(sum(seconds), " s"),
                         _shown(peak / 2**30 if peak else None, " GiB")])
        if each.windows:
            rows.append([each.name, "eval", f"perplexity {_shown(perplexity(each.windows[-1]))} over"
                         f" {each.windows[-1]['windows']:,} windows", "", ""])
    return table(["log", "of", "came to", "time", "peak memory"], rows, "wide words")


def inspect(path: Path) -> dict[str, Any]:
    """What pvtune says of a weights file."""
    program = os.environ.get("PVTUNE", os.path.join(environment.ROOT, "build", "pvtune"))
    try:
        done = subprocess.run([program, "inspect", str(path), "--tensors", "--json"], capture_output=True, text=True,
                              check=False)
    except OSError:
        raise Error(f"{program}: is not there: run `make build` first, or leave --weights out") from None
    if done.returncode != 0:
        raise Error(one_line(done.stderr).removeprefix("pvtune: ") or f"pvtune inspect {path} failed")
    result = json.loads(done.stdout.rstrip("\n").rsplit("\n", 1)[-1])
    if result["kind"] != "weights":
        raise Error(f"{path}: is a {result['kind']} file: give the weights that a run wrote")
    return result


def bits(path: Path, found: dict[str, Any]) -> str:
    """Bits by tensor: a map of the blocks' matrices, and a table of all."""
    kinds: dict[str, dict[int, float]] = {}
    for tensor in found["tensors"]:
        match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", tensor["name"])
        if match and " x " in tensor["shape"]:
            kinds.setdefault(match[2], {})[int(match[1])] = tensor["bits_per_weight"]
    blocks = sorted({block for by_block in kinds.values() for block in by_block})
    shown = ""
    if blocks:
        chart = Chart("bits", "Bits a weight, by tensor", "block", "", [],
                      cells=[[by_block.get(block) for block in blocks] for by_block in kinds.values()],
                      cells_x=tuple(blocks))
        shown = svg.draw(chart, [name.split(".")[-1] for name in kinds])
    rows = [[tensor["name"], tensor["type"], tensor["shape"], f"{tensor['bits_per_weight']:.4f}", f"{tensor['bytes']:,}"]
            for tensor in found["tensors"]]
    return (f"<section><h2>Bits by tensor: {html.escape(str(path))}</h2>"
            f"<p>{found['bits_per_weight']:.4f} bits a weight of the blocks' matrices, {found['bits_per_weight_overall']:.4f}"
            f" of the whole model, {found['bytes'] / 1e6:,.1f} MB. Content hash <code>{html.escape(found['content_hash'])}"
            f"</code>.</p>{shown}<details><summary>every tensor</summary>"
            + table(["tensor", "type", "shape", "bits a weight", "bytes"], rows) + "</details></section>")


def page(runs: list[Run], weights: list[Path], title: str) -> str:
    """The whole file."""
    sections = [f"<section><h2>{html.escape(chart.title)}</h2>{svg.draw(chart)}</section>" for chart in charts(runs)]
    sections += [bits(path, inspect(path)) for path in weights]
    return ('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n<body><h1>{html.escape(title)}</h1>\n"
            f"{summary(runs)}\n<main>\n" + "\n".join(sections) + "\n</main></body></html>\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Write one page (HTML, no network) that shows runs of pvtune tune, quantize and eval.",
        epilog="example: scripts/run_page.py out/demo/run.jsonl --weights out/demo/tuned.h5 --out run.html",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN.jsonl", help="files that --log wrote")
    parser.add_argument("--weights", type=Path, nargs="+", default=[], metavar="FILE",
                        help="weights files whose bits are shown by tensor")
    parser.add_argument("--title", default="pvtune run", help="(default: pvtune run)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the .html to write")
    arguments = parser.parse_args()
    check_begins(arguments.out, b"<!DOCTYPE html", "HTML page")
    write_text(arguments.out, page([read_run(path) for path in arguments.runs], arguments.weights, arguments.title))
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e3:,.0f} kB")


if __name__ == "__main__":
    run(main)
