"""scripts/comparison.py on a tiny model: rows, what is run again and what is not, table and plot."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import unittest
from typing import Any

import h5py
import numpy
from cli_test import ROOT, CommandLine, tokenize
from support import ProgramTest


class Comparison(CommandLine):
    """One start, two strategies, one untuned row."""

    def setUp(self) -> None:
        super().setUp()
        self.config: dict[str, Any] = {
            "model": "model.h5", "tokens": "t.h5", "texts": {"a text": "--tokens t.h5 --ctx 16"}, "common": "--threads 1",
            "calibration": "", "tuning": "--steps 2 --batch 2 --ctx 16",
            "strategies": {"continuous": "", "pv-ste": "--code-lr 0.1"}, "rates": {"^vq": {"pv-ste": "--code-lr 0.3"}},
            "starts": {"aqlm 1": "--representation aqlm --code-bits 4"},
            "untuned": {"round-to-nearest 2": "--representation scalar --code-bits 2 --group 32"},
        }

        self.out = self.here / "out"

    def start(self, *arguments: str) -> subprocess.CompletedProcess:
        (self.here / "c.json").write_text(json.dumps(self.config))
        command = [sys.executable, str(ROOT / "scripts" / "comparison.py"), "--config", str(self.here / "c.json"),
                   "--inputs", str(self.folder), "--out", str(self.out), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)

    def ran(self, *arguments: str) -> list[str]:
        """The names of the rows that it ran."""
        done = self.start(*arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return [line.split("] ", 1)[1] for line in done.stderr.splitlines() if line.startswith("[")]

    def test_rows_are_run_once_and_again_when_they_change(self) -> None:
        tuned = ["aqlm 1, continuous", "aqlm 1, pv-ste"]
        self.assertEqual(self.ran("--only", "pv-ste"), ["aqlm 1", "aqlm 1, pv-ste"])
        self.assertEqual(self.ran(), ["unquantised", "aqlm 1, continuous", "round-to-nearest 2"])
        self.assertEqual(self.ran(), [])
        self.config["strategies"]["pv-ste"] = "--code-lr 0.2"
        self.assertEqual(self.ran(), tuned[1:])
        self.config["rates"]["1$"] = {"pv-ste": "--code-lr 0.3"}
        self.assertEqual(self.ran(), tuned[1:], "rates of some starts")
        self.config["starts"]["aqlm 1"] = "--representation aqlm --code-bits 3"
        self.assertEqual(self.ran(), ["aqlm 1", *tuned], "what is tuned from a start that changed is stale")

        rows = {row["name"]: row for row in json.loads((self.out / "comparison.json").read_text())}
        self.assertEqual(len(rows), 5)
        self.assertEqual(rows["unquantised"]["bits_per_weight"], 16)
        self.assertLess(rows["aqlm 1"]["model_bytes"], rows["unquantised"]["model_bytes"])
        for row in rows.values():
            self.assertGreater(row["perplexity"]["a text"], 1)
        table = (self.out / "comparison.md").read_text().splitlines()
        self.assertEqual(len(table), 2 + len(rows))
        tuned_to = [row["perplexity"]["a text"] for row in rows.values() if row["strategy"]]
        self.assertEqual(sum("**" in line for line in table), tuned_to.count(min(tuned_to)), "the best of the start")
        self.assertTrue((self.out / "comparison.png").read_bytes().startswith(b"\x89PNG"))

    def test_rows_of_another_text_are_run_again(self) -> None:
        other = tokenize(self.here, self.tokenizer, [5, 6, 7] * 100, self.here / "other.h5")
        inputs = self.here / "inputs"
        inputs.mkdir()
        for path in (self.model, self.tokens):
            shutil.copy(path, inputs)
        self.folder = inputs
        self.config["texts"]["a text"] = "--tokens o.h5 --ctx 16"
        shutil.copy(self.tokens, inputs / "o.h5")
        all_rows = self.ran()
        self.assertEqual(len(all_rows), 5)
        shutil.copy(other, inputs / "o.h5")
        before = {path: path.stat().st_mtime_ns for path in (self.out / "models").glob("*.h5")}
        self.assertEqual(self.ran(), all_rows)
        self.assertEqual({path: path.stat().st_mtime_ns for path in before}, before, "models of the same text stay")
        shutil.copy(other, inputs / "t.h5")
        self.assertEqual(self.ran("--only", "pv-ste"), ["aqlm 1, pv-ste"], "nothing is quantised for a text here")

    def test_goes_on_with_the_rows_of_another_run(self) -> None:
        self.assertEqual(len(self.ran()), 5)
        earlier = self.out / "comparison.json"
        self.out = self.here / "elsewhere"
        self.assertEqual(self.ran("--rows", str(earlier)), [])
        self.assertEqual((self.out / "comparison.json").read_text(), earlier.read_text())

        # Another machine's start has other bits.
        earlier.write_text(earlier.read_text().replace(json.loads(earlier.read_text())[1]["content_hash"], "0" * 32))
        self.config["strategies"]["pv-ste"] = "--code-lr 0.2"
        self.assertEqual(self.ran("--rows", str(earlier), "--only", "pv-ste"), ["aqlm 1", "aqlm 1, pv-ste"])
        names = [row["name"] for row in json.loads((self.out / "comparison.json").read_text())]
        self.assertEqual(names, ["unquantised", "aqlm 1", "aqlm 1, pv-ste", "round-to-nearest 2"])
        self.assertEqual(self.ran("--rows", str(earlier)), ["aqlm 1, continuous"])

    def test_a_row_stopped_while_it_was_measured(self) -> None:
        self.ran()
        for row in ("aqlm-1", "aqlm-1-pv-ste"):
            (self.out / "rows" / f"{row}.json").unlink()
        model = next((self.out / "models").glob("aqlm-1-*.h5"))
        made = model.stat().st_mtime_ns
        self.assertEqual(self.ran(), ["aqlm 1", "aqlm 1, pv-ste"])
        self.assertEqual(model.stat().st_mtime_ns, made, "the model was there")
        self.assertEqual([path.name for path in (self.out / "models").glob("*pv-ste*")], [])

        # A report of a model from another start is not taken for this one's.
        command = json.loads((self.out / "rows" / "aqlm-1-pv-ste.json").read_text())["command"]
        tuned = self.out / command[command.index("--out") + 1]
        tuned.write_bytes(model.read_bytes())
        tuned.with_name(tuned.name + ".json").write_text('{"made": {}, "seconds": 1, "start_hash": "0"}')
        (self.out / "rows" / "aqlm-1-pv-ste.json").unlink()
        self.assertEqual(self.ran(), ["aqlm 1, pv-ste"])

    def test_refusals(self) -> None:
        def refused(says: str, *arguments: str) -> None:
            done = self.start(*arguments)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn(says, done.stderr.splitlines()[-1])
            self.assertNotIn("Traceback", done.stderr)

        refused("no row has such a name", "--only", "nothing")
        refused("not a regular expression", "--only", "(")
        refused("nowhere.json: No such file", "--rows", str(self.here / "nowhere.json"))
        refused("no list of rows", "--rows", str(self.here / "c.json"))
        self.config["starts"]["aqlm 1"] = "--representation marble"
        refused("exit status 2 of", "--only", "aqlm 1")
        self.config["rates"] = {"1$": "--code-lr 0.3"}
        refused("'rates' must hold")
        self.config["rates"] = {"1$": {"pv-ste": 0.3}}
        refused("'rates' must hold texts")
        self.config["rates"] = {"*1": {"pv-ste": "--code-lr 0.3"}}
        refused("'*1' is not a regular expression")
        self.config["rates"] = {"1$": {"pv-ste": "--code-lr '0.3"}}
        refused("is not a command line (No closing quotation)")
        self.config["rates"] = {}
        self.config["common"] = '--threads "1'
        refused("'common': '--threads \"1' is not a command line")
        self.config["common"] = ""
        del self.config["texts"]
        refused("'texts' must be there")


class Interrupt(ProgramTest):
    """Ctrl-C, with a program that takes its time to save what it has."""

    SLOW = """#!{python}
import pathlib, signal, sys, time

def save(*_):
    time.sleep(2)  # a large checkpoint
    pathlib.Path("saved").touch()
    sys.exit(130)

signal.signal(signal.SIGINT, save)
pathlib.Path("begun").touch()
while True:
    signal.pause()
"""

    def interrupt(self, *command: object) -> None:
        """Start the command, press Ctrl-C when the slow program has begun, and expect that it could save."""
        environment = {**os.environ, "PVTUNE_PYTHON": sys.executable}
        with subprocess.Popen([sys.executable, *map(str, command)], cwd=self.folder, env=environment, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
            deadline = time.monotonic() + 300
            while process.poll() is None and time.monotonic() < deadline and not (self.folder / "begun").exists():
                time.sleep(0.01)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
            _, errors = process.communicate(timeout=300)
        self.assertEqual(process.returncode, 130, errors)
        self.assertTrue((self.folder / "saved").exists(), errors)

    def test_the_program_has_time_to_save(self) -> None:
        root = self.folder / "root"
        shutil.copytree(ROOT / "scripts", root / "scripts")
        program = root / "build" / "pvtune"
        program.parent.mkdir()
        program.write_text(self.SLOW.format(python=sys.executable))
        program.chmod(0o755)
        with h5py.File(self.folder / "a.h5", "w") as store:
            store.attrs["content_hash"] = numpy.bytes_(b"0")
        config = {"model": "a.h5", "tokens": "a.h5", "texts": {"a text": ""}, "common": "", "calibration": "",
                  "tuning": "", "strategies": {}, "rates": {}, "starts": {}, "untuned": {}}
        (self.folder / "c.json").write_text(json.dumps(config))
        self.interrupt(root / "scripts" / "comparison.py", "--config", "c.json", "--inputs", ".", "--out", "out")

    def test_so_has_that_of_a_stage_of_the_nightly_run(self) -> None:
        (self.folder / "slow").write_text(self.SLOW.format(python=sys.executable))
        words = (f"import sys; sys.path[:0] = [{str(ROOT / 'scripts')!r}, {str(ROOT / 'scripts' / 'lib')!r}];"
                 " import errors, nightly; nightly.ROOT = '.'; errors.run(nightly.shell_stage(sys.executable, 'slow'))")
        self.interrupt("-c", words)


if __name__ == "__main__":
    unittest.main()
