#!/usr/bin/env python3
"""Run a matrix of quantised starts x tuning strategies, a row at a time, and write its table and plot.

A row is one model: a start (quantised, not tuned), a start tuned by a strategy, or one that is there for comparison
alone. Its record lies in OUT/rows; a row whose commands and inputs are those of its record is not run again, and a
tuning run that was stopped goes on from its checkpoint. Records name files relative to the folders of inputs and models, so that those
of another machine can be gone on with; what was tuned from a start that comes out with other bits here is run again.
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
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, Callable, Optional  # noqa: E402

import child  # noqa: E402
from comparison_report import write_report  # noqa: E402
from errors import Error, one_line, run  # noqa: E402
from files import write_text  # noqa: E402

Record = dict[str, Any]


@dataclass
class Row:
    """One line of the table and the command that makes its model."""

    name: str
    start: Optional[str]  # the row it is tuned from
    strategy: str
    command: list[str]  # as recorded: see Runner.words
    model: str
    evaluations: dict[str, list[str]]
    hashes: dict[str, str]  # content hashes of all input files

    def make_by(self, command: list[str]) -> None:
        """The model's file is named after its command and its inputs: what was made or left off by another one is not
        taken for it, and what is tuned from a start that changed is made again."""
        tag = hashlib.sha256("\0".join([*command, *self._inputs(command).values()]).encode()).hexdigest()[:8]
        self.model = f"models/{self.file}-{tag}.h5"
        self.command = [*command, "--out", self.model]

    @property
    def file(self) -> str:
        """A file name of the row's."""
        return re.sub(r"[^A-Za-z0-9]+", "-", self.name)

    def key(self) -> Record:
        """What the row's result depends on."""
        inputs = self._inputs([self.model, *self.command, *(word for words in self.evaluations.values() for word in words)])
        return {"command": self.command, "evaluations": self.evaluations, "inputs": inputs}

    def _inputs(self, words: list[str]) -> dict[str, str]:
        """The input files among the words, with the hashes of what is in them."""
        return {word: self.hashes[word] for word in sorted(set(words) & self.hashes.keys())}


def read_config(path: Path) -> Record:
    """The matrix; every member that rows() uses is there and of its type."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Error(f"{path}: not JSON ({error})") from error
    wanted = {"model": str, "tokens": str, "common": str, "calibration": str, "tuning": str, "texts": dict,
              "strategies": dict, "rates": dict, "starts": dict, "untuned": dict}
    for name, kind in wanted.items():
        if not isinstance(config, dict) or not isinstance(config.get(name), kind):
            raise Error(f"{path}: {name!r} must be there, {'a text' if kind is str else 'an object of texts'}")
        held = config[name].values() if kind is dict else ()
        if name == "rates":
            if not all(isinstance(value, dict) for value in held):
                raise Error(f"{path}: 'rates' must hold, for regular expressions of starts, the flags of strategies")
            held = [text for value in held for text in value.values()]
        if not all(isinstance(value, str) for value in held):
            raise Error(f"{path}: {name!r} must hold texts: the flags of each")
        flags = held if kind is dict else [config[name]] if name not in ("model", "tokens") else []
        for text in flags:
            check(path, name, text, shlex.split, "a command line")
    for starts in config["rates"]:
        check(path, "rates", starts, re.compile, "a regular expression")
    if not config["texts"]:
        raise Error(f"{path}: 'texts' names no text to evaluate on")
    return config


def check(path: Path, name: str, text: str, parse: Callable[[str], Any], kind: str) -> None:
    """Refuse a text of the matrix that cannot be parsed as what it is."""
    try:
        parse(text)
    except (ValueError, re.error) as error:
        raise Error(f"{path}: {name!r}: {text!r} is not {kind} ({error})") from error


def content_hash(path: Path) -> str:
    """What a store says that it holds."""
    import h5py

    try:
        with h5py.File(path) as store:
            return bytes(store.attrs["content_hash"]).decode()
    except (OSError, KeyError) as error:
        raise Error(f"{path}: not a file of pvtune ({one_line(error)}): scripts/comparison.sh makes the inputs") from error


def rows(config: Record, inputs: Path) -> list[Row]:
    """All rows in the order in which they run: each start, then what is tuned from it, then the untuned ones."""
    common = shlex.split(config["common"])
    hashes: dict[str, str] = {}

    def file(name: str) -> str:
        hashes[f"inputs/{name}"] = content_hash(inputs / name)
        return f"inputs/{name}"

    def flags(text: str) -> list[str]:
        return [file(word) if word.endswith(".h5") else word for word in shlex.split(text)]

    dense, tokens = file(config["model"]), file(config["tokens"])
    texts = {name: ["pvtune", "eval", *flags(text), *common] for name, text in config["texts"].items()}
    found = [Row("unquantised", None, "", [], dense, texts, hashes)]

    def quantized(name: str, text: str) -> Row:
        row = Row(name, None, "", [], "", texts, hashes)
        row.make_by(["pvtune", "quantize", "--model", dense, *flags(text), *common])
        return row

    for name, text in config["starts"].items():
        start = quantized(name, f"{text} {config['calibration']}")
        found.append(start)
        # The nearer the codes are to each other, the smaller the rates that move a sensible number of them.
        other = {strategy: rates for starts, of_strategies in config["rates"].items() if re.search(starts, name)
                 for strategy, rates in of_strategies.items()}
        for strategy, rates in (config["strategies"] | other).items():
            row = Row(f"{name}, {strategy}", name, strategy, [], "", texts, hashes)
            row.make_by(["pvtune", "tune", "--model", start.model, "--teacher", dense, "--tokens", tokens, "--strategy",
                         strategy, *flags(config["tuning"]), *flags(rates), *common])
            found.append(row)
    return found + [quantized(name, text) for name, text in config["untuned"].items()]


@dataclass
class Runner:
    """Where the commands of rows find their program and their files."""

    inputs: Path
    out: Path

    def path(self, word: str) -> str:
        """A word of a command, with the folder that it means."""
        for folder, where in (("inputs/", self.inputs), ("models/", self.out / "models")):
            if word.startswith(folder):
                return str(where / word[len(folder):])
        return os.path.join(environment.ROOT, "build", "pvtune") if word == "pvtune" else word

    def call(self, command: list[str]) -> Record:
        """Run a command of the program and give its JSON result; progress goes to the terminal."""
        words = [self.path(word) for word in command]
        done = child.run([*words, "--json"], stdout=subprocess.PIPE, text=True)
        if done.returncode == 130:
            raise KeyboardInterrupt
        if done.returncode != 0:
            raise Error(f"exit status {done.returncode} of: {shlex.join(words)}")
        return json.loads(done.stdout.strip().splitlines()[-1])

    def record_path(self, row: Row) -> Path:
        return self.out / "rows" / f"{row.file}.json"

    def has_model(self, row: Row) -> bool:
        """Whether the row's model is there and its record is of it."""
        return Path(self.path(row.model)).is_file() and self.record_path(row).is_file()


def make(row: Row, runner: Runner, start: Optional[Record]) -> Record:
    """Make the row's model and say what its command reported. Of a row that was stopped while it was measured, the model
    is there already."""
    model = runner.path(row.model)
    report = made_path(row, runner)
    from_start = {"start_hash": start["content_hash"]} if start else {}
    if Path(model).is_file() and report.is_file():
        made: Record = json.loads(report.read_text(encoding="utf-8"))
        if from_start.items() <= made.items():
            return made
    command = [*row.command, "--log", str(runner.out / "logs" / f"{row.file}.jsonl")]
    if (row.start and Path(f"{model}.checkpoint").exists()) or Path(f"{model}.calibration").exists():
        command.append("--resume")
    begin = time.monotonic()
    made = {"made": runner.call(command), "seconds": round(time.monotonic() - begin, 1), **from_start}
    write_text(report, json.dumps(made) + "\n")
    return made


def made_path(row: Row, runner: Runner) -> Path:
    """Where make() keeps what it says, beside the model."""
    return Path(runner.path(row.model) + ".json")


def measure(row: Row, runner: Runner, start: Optional[Record]) -> Record:
    """Make the row's model, unless it is there, and measure it. start: the record of what it is tuned from."""
    record: Record = {"name": row.name, "start": row.start, "strategy": row.strategy, **row.key()}
    if row.command:
        record |= make(row, runner, start)
    held = runner.call(["pvtune", "inspect", row.model])
    record["content_hash"] = held["content_hash"]
    in_blocks = [tensor for tensor in held["tensors"] if "*" in tensor["name"] and " x " in tensor["shape"]]
    quantized = sum(tensor["weights"] for tensor in in_blocks)
    # As deployed: block matrices as accounted, all else in 16 bits.
    record["bits_per_weight"] = held["bits_per_weight"] if row.command else 16
    record["model_bytes"] = round(quantized * record["bits_per_weight"] / 8 + (held["parameters"] - quantized) * 2)
    record["perplexity"] = {name: runner.call([*evaluate, "--model", row.model])["perplexity"]
                            for name, evaluate in row.evaluations.items()}
    return record


def read_records(matrix: list[Row], runner: Runner, earlier: Optional[Path]) -> dict[str, Record]:
    """Records that were made by the commands that would make them now: this folder's, or else the earlier run's."""
    found: dict[str, Record] = {}
    for record in read_json(earlier) if earlier else []:
        found[record["name"]] = record
    for row in matrix:
        path = runner.record_path(row)
        if path.is_file():
            try:
                found[row.name] = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                print(f"comparison.py: {path}: damaged, its row is run again", file=sys.stderr)
    keys = {row.name: row.key() for row in matrix}
    return {name: record for name, record in found.items()
            if name in keys and {key: record.get(key) for key in keys[name]} == keys[name]}


def read_json(path: Path) -> list[Record]:
    """The records of a comparison.json."""
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Error(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise Error(f"{path}: not JSON ({error})") from error
    if not isinstance(records, list) or not all(isinstance(record, dict) and "name" in record for record in records):
        raise Error(f"{path}: no list of rows: it should be the comparison.json of a comparison")
    return records


def valid(matrix: list[Row], records: dict[str, Record]) -> list[Record]:
    """The records whose start, if they have one, is still the model that they were tuned from."""
    return [record for row in matrix if (record := records.get(row.name))
            and (not row.start or record["start_hash"] == records.get(row.start, {}).get("content_hash"))]


def to_run(matrix: list[Row], chosen: set[str], records: dict[str, Record], runner: Runner) -> list[Row]:
    """The chosen rows without a valid record, and starts that they need and whose models are not there."""
    done = {record["name"] for record in valid(matrix, records)}
    left = {row.name for row in matrix if row.name in chosen and row.name not in done}
    starts = {row.start for row in matrix if row.name in left}
    return [row for row in matrix if row.name in left or (row.name in starts and not runner.has_model(row))]


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
    parser.add_argument("--rows", type=Path, metavar="FILE",
                        help="take the rows of FILE, the comparison.json of another run, as done")
    parser.add_argument("--report", action="store_true", help="write table and plot of what is there, run nothing")
    arguments = parser.parse_args()
    try:
        only = re.compile(arguments.only)
    except re.error as error:
        raise Error(f"--only {arguments.only!r}: not a regular expression ({error})") from error
    out = arguments.out
    matrix = rows(read_config(arguments.config), arguments.inputs)
    runner = Runner(arguments.inputs.resolve(), out.resolve())
    chosen = {row.name for row in matrix if only.search(row.name)}
    if not chosen:
        raise Error(f"--only {arguments.only!r}: no row has such a name; the first is {matrix[0].name!r}")
    chosen |= {row.start for row in matrix if row.name in chosen and row.start}
    for folder in ("rows", "models", "logs"):
        (out / folder).mkdir(parents=True, exist_ok=True)

    records = read_records(matrix, runner, arguments.rows)
    begin = time.monotonic()
    done = 0
    while not arguments.report and (left := to_run(matrix, chosen, records, runner)):
        row = left[0]
        eta = f", {(time.monotonic() - begin) / done * len(left) / 60:.0f} min left" if done else ""
        done += 1
        print(f"\n[{done}/{done + len(left) - 1}{eta}] {row.name}", file=sys.stderr)
        records[row.name] = measure(row, runner, records.get(row.start or ""))
        write_text(runner.record_path(row), json.dumps(records[row.name], indent=2) + "\n")
        if row.start:
            made_path(row, runner).unlink()
            Path(runner.path(row.model)).unlink()  # a start is needed again, a tuned model is a command away
        write_report(valid(matrix, records), out)
    finished = valid(matrix, records)
    write_report(finished, out)
    print(f"{len(finished)} of {len(matrix)} rows: {out / 'comparison.md'}")


if __name__ == "__main__":
    run(main)
