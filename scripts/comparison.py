#!/usr/bin/env python3
"""Run a matrix of quantised starts x tuning strategies, a row at a time, and write its table and plot.

A row is one model: a start (quantised, not tuned), a start tuned by a strategy, or one that is there for comparison
alone. Its record lies in OUT/rows; a row whose commands are those of its record is not run again, and a tuning run that
was stopped goes on from its checkpoint.
"""

import os
import sys

sys.path[0] = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib")
import environment  # noqa: E402

import argparse  # noqa: E402
import hashlib  # noqa: E402
import json  # noqa: E402
import re  # noqa: E402
import shlex  # noqa: E402
import subprocess  # noqa: E402
import time  # noqa: E402
from dataclasses import dataclass, field  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, Optional  # noqa: E402

from comparison_report import write_report  # noqa: E402
from errors import Error, run  # noqa: E402
from files import write_text  # noqa: E402

Record = dict[str, Any]


@dataclass
class Row:
    """One line of the table and the command that makes its model."""

    name: str
    start: Optional[str]  # the row it is tuned from
    strategy: str
    command: list[str]
    model: Path
    evaluations: dict[str, list[str]] = field(default_factory=dict)

    def make_by(self, command: list[str], folder: Path) -> None:
        """The model's file is named after its command: what was made or left off by another one is not taken for it, and
        what is tuned from a start that changed is made again."""
        tag = hashlib.sha256("\0".join(command).encode()).hexdigest()[:8]
        self.model = folder / f"{self.file}-{tag}.h5"
        self.command = [*command, "--out", str(self.model)]

    @property
    def file(self) -> str:
        """A file name of the row's."""
        return re.sub(r"[^A-Za-z0-9]+", "-", self.name)

    def key(self) -> Record:
        """What the row's result depends on."""
        return {"command": self.command, "evaluations": self.evaluations}


def read_config(path: Path) -> Record:
    """The matrix; every member that rows() uses is there and of its type."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Error(f"{path}: not JSON ({error})") from error
    wanted = {"model": str, "tokens": str, "common": str, "calibration": str, "tuning": str, "texts": dict,
              "strategies": dict, "starts": dict, "untuned": dict}
    for name, kind in wanted.items():
        if not isinstance(config, dict) or not isinstance(config.get(name), kind):
            raise Error(f"{path}: {name!r} must be there, {'a text' if kind is str else 'an object of texts'}")
        if kind is dict and not all(isinstance(value, str) for value in config[name].values()):
            raise Error(f"{path}: {name!r} must hold texts: the flags of each")
    if not config["texts"]:
        raise Error(f"{path}: 'texts' names no text to evaluate on")
    return config


def rows(config: Record, inputs: Path, out: Path) -> list[Row]:
    """All rows in the order in which they run: each start, then what is tuned from it, then the untuned ones."""
    program = os.path.join(environment.ROOT, "build", "pvtune")
    common = shlex.split(config["common"])

    def flags(text: str) -> list[str]:
        return [str(inputs / word) if word.endswith(".h5") else word for word in shlex.split(text)]

    dense = inputs / config["model"]
    texts = {name: [program, "eval", *flags(text), *common] for name, text in config["texts"].items()}
    found = [Row("unquantised", None, "", [], dense, texts)]

    def quantized(name: str, text: str) -> Row:
        row = Row(name, None, "", [], Path(), texts)
        row.make_by([program, "quantize", "--model", str(dense), *flags(text), *common], out / "models")
        return row

    for name, text in config["starts"].items():
        start = quantized(name, f"{text} {config['calibration']}")
        found.append(start)
        for strategy, rates in config["strategies"].items():
            row = Row(f"{name}, {strategy}", name, strategy, [], Path(), texts)
            row.make_by([program, "tune", "--model", str(start.model), "--teacher", str(dense), "--tokens",
                         str(inputs / config["tokens"]), "--strategy", strategy, *flags(config["tuning"]), *flags(rates),
                         *common], out / "models")
            found.append(row)
    return found + [quantized(name, text) for name, text in config["untuned"].items()]


def call(command: list[str]) -> Record:
    """Run a command of the program and give its JSON result; progress goes to the terminal."""
    done = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == 130:
        raise KeyboardInterrupt
    if done.returncode != 0:
        raise Error(f"exit status {done.returncode} of: {shlex.join(command)}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(row: Row, out: Path) -> Record:
    """Make the row's model, unless it is there, and measure it."""
    record: Record = {"name": row.name, "start": row.start, "strategy": row.strategy, **row.key()}
    program = row.evaluations[next(iter(row.evaluations))][0]
    if row.command:
        command = [*row.command, "--log", str(out / "logs" / f"{row.file}.jsonl")]
        if (row.start and Path(f"{row.model}.checkpoint").exists()) or Path(f"{row.model}.calibration").exists():
            command.append("--resume")
        begin = time.monotonic()
        record["made"] = call(command)
        record["seconds"] = round(time.monotonic() - begin, 1)
    held = call([program, "inspect", str(row.model)])
    in_blocks = [tensor for tensor in held["tensors"] if "*" in tensor["name"] and " x " in tensor["shape"]]
    quantized = sum(tensor["weights"] for tensor in in_blocks)
    # As deployed: block matrices as accounted, all else in 16 bits.
    record["bits_per_weight"] = held["bits_per_weight"] if row.command else 16
    record["model_bytes"] = round(quantized * record["bits_per_weight"] / 8 + (held["parameters"] - quantized) * 2)
    record["perplexity"] = {name: call([*evaluate, "--model", str(row.model)])["perplexity"]
                            for name, evaluate in row.evaluations.items()}
    return record


def read_record(row: Row, out: Path) -> Optional[Record]:
    """The row's record, if it was made by the commands that would make it now."""
    try:
        record = json.loads((out / "rows" / f"{row.file}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if {key: record.get(key) for key in row.key()} == row.key() else None


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Quantised starts x tuning strategies: a table and a plot. `make comparison` runs it.",
        epilog="example: scripts/comparison.py --inputs out/comparison/inputs --only 'aqlm 2'",
    )
    root = Path(environment.ROOT)
    parser.add_argument("--config", type=Path, default=root / "scripts" / "comparison.json", metavar="FILE",
                        help="the matrix (default: scripts/comparison.json)")
    parser.add_argument("--inputs", type=Path, required=True, metavar="DIR", help="where the config's .h5 files are")
    parser.add_argument("--out", type=Path, default=root / "out" / "comparison", metavar="DIR",
                        help="folder of rows, table and plot (default: out/comparison)")
    parser.add_argument("--only", default="", metavar="REGEX", help="run the rows whose names match, with their starts")
    parser.add_argument("--report", action="store_true", help="write table and plot of what is there, run nothing")
    arguments = parser.parse_args()
    try:
        only = re.compile(arguments.only)
    except re.error as error:
        raise Error(f"--only {arguments.only!r}: not a regular expression ({error})") from error
    out = arguments.out
    matrix = rows(read_config(arguments.config), arguments.inputs.resolve(), out.resolve())
    chosen = {row.name for row in matrix if only.search(row.name)}
    if not chosen:
        raise Error(f"--only {arguments.only!r}: no row has such a name; the first is {matrix[0].name!r}")
    chosen |= {row.start for row in matrix if row.name in chosen and row.start}
    for folder in ("rows", "models", "logs"):
        (out / folder).mkdir(parents=True, exist_ok=True)

    records = {row.name: record for row in matrix if (record := read_record(row, out))}
    left = [row for row in matrix if row.name in chosen and row.name not in records]
    remake = {row.start for row in left if row.start and not row_model_exists(matrix, row.start)}
    left = [row for row in matrix if row in left or row.name in remake]
    begin = time.monotonic()
    for done, row in enumerate([] if arguments.report else left):
        eta = f", {(time.monotonic() - begin) / done * (len(left) - done) / 60:.0f} min left" if done else ""
        print(f"\n[{done + 1}/{len(left)}{eta}] {row.name}", file=sys.stderr)
        record = measure(row, out)
        write_text(out / "rows" / f"{row.file}.json", json.dumps(record, indent=2) + "\n")
        records[row.name] = record
        if row.start:
            row.model.unlink()  # a start is needed again, a tuned model is a command away
        write_report([records[other.name] for other in matrix if other.name in records], out)
    write_report([records[other.name] for other in matrix if other.name in records], out)
    print(f"{len(records)} of {len(matrix)} rows: {out / 'comparison.md'}")


def row_model_exists(matrix: list[Row], name: str) -> bool:
    """Whether the quantised model of a start is there."""
    return next(row for row in matrix if row.name == name).model.is_file()


if __name__ == "__main__":
    run(main)
