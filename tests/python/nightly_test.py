"""The reproducibility run's own working: what it holds against what, and that a changed result fails by name."""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

import numpy
from safetensors.numpy import load_file, save_file
from support import ROOT

sys.path.insert(0, str(ROOT / "scripts"))


class Operations(unittest.TestCase):
    """A whole run of one stage, with expectations of its own."""

    def setUp(self) -> None:
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        self.expected = self.folder / "expected.json"

    def nightly(self, *arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(ROOT / "scripts" / "nightly.py"), "--expected", str(self.expected), "--out",
                   str(self.folder / "out"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=dict(os.environ))

    def test_a_changed_operation_fails_by_name(self) -> None:
        only = ("--only", "^operations cpu$")
        done = self.nightly(*only, "--update", "--reason", "a first record")
        self.assertEqual(done.returncode, 0, done.stderr)
        expected = json.loads(self.expected.read_text())
        self.assertEqual(expected["updates"][0]["reason"], "a first record")

        done = self.nightly(*only)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("PASS", done.stdout)
        self.assertNotIn("operations cpu\n", self.nightly(*only).stderr, "what passed is not run again")

        (platform,) = expected["platforms"].values()
        platform["operations cpu"]["bf16"]["rmsnorm_forward"] = "0" * 32
        self.expected.write_text(json.dumps(expected))
        done = self.nightly(*only)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertRegex(done.stderr, "FAILED operations cpu: rmsnorm_forward \\(bf16\\): computes [0-9a-f]{32}, expected 0{32}")
        self.assertEqual(done.stderr.count("FAILED"), 1)
        report = (self.folder / "out" / "report.md").read_text()
        self.assertTrue(report.startswith("# FAIL: 0 of 1 stages passed"), report)

    def test_refusals(self) -> None:
        for arguments, says in ((("--update",), "--reason"), (("--only", "nothing at all"), "--list"),
                                (("--only", "("), "regular expression")):
            done = self.nightly(*arguments)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn(says, done.stderr)
        self.expected.write_text("{")
        done = self.nightly("--only", "operations cpu")
        self.assertEqual(done.returncode, 2)
        self.assertIn("expected.json: not JSON", done.stderr)


ROW = {"imported": "a", "quantized": "b", "tuned": "0123456789abcdef", "exported": "d", "bits_per_weight": 2.0,
       "relative_output_error": 0.01, "loss": 1.0, "nll": 10.0, "perplexity": 22026.0, "seconds_per_step": 0.5,
       "peak_bytes": 2**28}
FINGERPRINTS = {"fingerprints": {"f32": {"add": "1"}, "bf16": {"add": "2"}}}


class Running(unittest.TestCase):
    """Which stages run and what is said, with stages that do nothing."""

    def setUp(self) -> None:
        import nightly

        self.nightly = nightly
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.out = Path(scratch.name)
        self.expected = self.out / "expected.json"
        self.platform, self.commit = "here", "1234567"
        self.records: dict[str, Any] = {"first": {}, "operations cpu": FINGERPRINTS, "cpu vq f32": ROW}
        self.seconds = 100.0  # of every stage
        self.clock = 0.0
        self.drawn = mock.patch("nightly_report._draw_trends")
        self.drawn.start()
        self.addCleanup(mock.patch.stopall)

    def run_nightly(self, *arguments: str) -> list[str]:
        """The names of the stages that ran; what was printed is in self.said and self.complained."""
        ran = []

        def stage(name: str) -> Any:
            def run() -> Any:
                ran.append(name)
                self.clock += self.seconds
                if isinstance(self.records[name], BaseException):
                    raise self.records[name]
                return self.records[name]

            return self.nightly.Stage(name, run)

        said, complained = io.StringIO(), io.StringIO()
        with mock.patch.multiple(self.nightly, all_stages=lambda out: [stage(name) for name in self.records],
                                 platform=lambda: self.platform,
                                 sources=lambda: {"commit": self.commit, "changes": ""}), \
                mock.patch.object(self.nightly.time, "monotonic", lambda: self.clock), \
                mock.patch.object(sys, "argv", ["nightly.py", "--expected", str(self.expected), "--out", str(self.out),
                                                *arguments]), \
                contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained), \
                contextlib.suppress(SystemExit, KeyboardInterrupt):
            self.nightly.main()
        self.said, self.complained = said.getvalue(), complained.getvalue()
        return ran

    def points(self) -> int:
        return len((self.out / "history.jsonl").read_text().splitlines())

    def headline(self) -> str:
        return (self.out / "report.md").read_text().splitlines()[0]

    def test_what_passed_runs_again_where_sources_or_platform_are_others(self) -> None:
        names = list(self.records)
        self.assertEqual(self.run_nightly(), names)
        self.assertEqual(self.run_nightly(), [])
        self.platform = "here, with another g++"
        self.assertEqual(self.run_nightly(), names)
        self.commit = "89abcde"
        self.assertEqual(self.run_nightly(), names)
        self.assertEqual(self.run_nightly(), [])

    def test_again_is_for_the_stages_that_are_asked_for(self) -> None:
        self.run_nightly()
        self.assertEqual(self.run_nightly("--again", "--only", "first"), ["first"])
        self.assertEqual(self.run_nightly(), [])
        self.assertEqual(self.run_nightly("--again"), list(self.records))

    def test_a_run_of_no_stage_is_no_point_of_the_trend(self) -> None:
        self.run_nightly()
        self.run_nightly()
        self.assertEqual(self.points(), 1)
        self.run_nightly("--again")
        self.assertEqual(self.points(), 2)
        (self.out / "history.jsonl").unlink()  # or killed before it was written
        self.run_nightly()
        self.assertEqual(self.points(), 1)

    def test_what_is_left_is_known_from_stages_that_passed_here(self) -> None:
        self.records["cpu vq f32"] = KeyboardInterrupt()
        self.run_nightly()
        self.assertIn("[1/3] first", self.complained)
        self.assertFalse((self.out / "history.jsonl").exists())
        self.commit = "89abcde"
        self.run_nightly()
        self.assertIn("[1/3, at least 3 min left] first", self.complained)

    def test_what_is_left_is_known_from_the_expectations_at_first(self) -> None:
        self.run_nightly("--update", "--reason", "a first record")
        for file in ("state.json", "history.jsonl"):
            (self.out / file).unlink()
        self.seconds = 10.0
        self.run_nightly("--only", "first")
        self.run_nightly()
        self.assertIn("[2/3, 3 min left] operations cpu", self.complained)
        self.assertIn("[3/3, 2 min left] cpu vq f32", self.complained)
        self.run_nightly("--again")
        self.assertIn("[1/3, 30 s left] first", self.complained)

    def test_a_stage_that_failed_does_not_say_how_long_it_takes(self) -> None:
        self.run_nightly()
        self.seconds = 1.0
        self.records["first"] = self.nightly.Error("no compiler")
        self.run_nightly("--again", "--only", "first")
        self.assertIn("FAIL: first", self.said)
        self.run_nightly("--only", "first")
        self.assertIn("[1/1, 2 min left] first", self.complained)

    def test_nothing_runs_behind_a_build_that_failed(self) -> None:
        self.records = {"build": self.nightly.Error("no compiler"), **self.records}
        self.assertEqual(self.run_nightly(), ["build"])
        self.assertEqual(self.headline(), "# FAIL: 0 of 4 stages passed")
        report = (self.out / "report.md").read_text()
        self.assertIn("- **build**: no compiler", report)
        self.assertIn("| operations cpu | not run | 0 |", report)
        self.assertTrue(self.said.startswith("FAIL: build (3 not run): "), self.said)
        self.records["build"] = {}
        self.assertEqual(self.run_nightly(), list(self.records), "what was not run has not passed")
        self.assertTrue(self.headline().startswith("# PASS"))

    def test_a_stage_that_breaks_fails_alone(self) -> None:
        self.records["first"] = FileNotFoundError(2, "No such file or directory", "build/pvtune")
        self.assertEqual(self.run_nightly(), list(self.records))
        self.assertEqual(self.headline(), "# FAIL: 2 of 3 stages passed")
        self.assertIn("FileNotFoundError: [Errno 2] No such file or directory: 'build/pvtune'", self.complained)

    def test_the_first_line_says_what_no_hashes_stand_for(self) -> None:
        unknown = "PASS (no hashes recorded for this platform: tolerances only)"
        self.run_nightly()
        self.assertTrue(self.said.startswith(unknown + ": "), self.said)
        self.assertEqual(self.headline(), f"# {unknown}: 3 of 3 stages passed")
        self.run_nightly("--update", "--reason", "a first record", "--only", "operations|first")
        self.assertTrue(self.said.startswith("PASS: "), self.said)
        self.run_nightly()
        self.assertTrue(self.headline().startswith("# PASS (no hashes recorded for this platform in 1 of 2 stages: "))
        self.assertIn("No hashes are recorded here for cpu vq f32: ", (self.out / "report.md").read_text())
        self.run_nightly("--update", "--reason", "rows too")
        self.run_nightly()
        self.assertEqual(self.headline(), "# PASS: 3 of 3 stages passed")
        self.platform = "elsewhere"
        self.run_nightly("--only", "first")
        self.assertEqual(self.headline(), "# PASS: 1 of 1 stages passed", "has nothing that could be hashed")

    def test_the_first_run_is_drawn(self) -> None:
        self.drawn.stop()
        self.run_nightly()
        report = (self.out / "report.md").read_text()
        for name in ("perplexity", "seconds_per_step", "peak_bytes"):
            self.assertIn(f"(trend-{name}.png)", report)
            self.assertEqual((self.out / f"trend-{name}.png").read_bytes()[:4], b"\x89PNG")


class Sources(unittest.TestCase):
    """What stages passed on: any edit makes other sources of them, with git and without."""

    def setUp(self) -> None:
        import nightly

        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.root = Path(scratch.name)
        (self.root / "scripts").mkdir()
        (self.root / "scripts" / "a.py").write_text("a")
        mock.patch.object(nightly, "ROOT", self.root).start()
        self.addCleanup(mock.patch.stopall)
        self.sources = nightly.sources

    def edits(self) -> None:
        """Files that are changed, new, renamed or made."""
        seen = [self.sources()]
        for name, text in (("scripts/a.py", "b"), ("scripts/new.py", ""), ("scripts/gr\u00fc\u00dfe\n.py", "1"),
                           ("scripts/gr\u00fc\u00dfe\n.py", "2"), (os.fsdecode(b"scripts/\xff"), "")):
            (self.root / name).write_text(text)
            self.assertNotIn(self.sources(), seen, name)
            seen.append(self.sources())
        (self.root / "scripts" / "new.py").rename(self.root / "scripts" / "newer.py")
        self.assertNotIn(self.sources(), seen)
        os.symlink("nowhere", self.root / "scripts" / "link")
        self.assertEqual(self.sources(), self.sources())

    def test_without_git(self) -> None:
        with mock.patch.dict(os.environ, {"GIT_CEILING_DIRECTORIES": str(self.root.parent)}):
            self.assertEqual(self.sources()["commit"], "unknown")
            self.edits()
            before = self.sources()
            (self.root / "build").mkdir()
            (self.root / "build" / "made").write_text("")
            self.assertEqual(self.sources(), before)

    def test_with_git(self) -> None:
        for command in (["init", "-q"], ["add", "scripts/a.py"],
                        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "a"]):
            subprocess.run(["git", *command], cwd=self.root, check=True)
        clean = self.sources()
        self.assertEqual(clean["changes"], "")
        self.edits()
        self.assertEqual(self.sources()["commit"], clean["commit"])
        (self.root / ".git" / "HEAD").write_text("damaged")  # git fails: that is not "no changes"
        self.assertEqual(self.sources()["commit"], "unknown")


class Inputs(unittest.TestCase):
    """What the matrix starts from, with stand-ins for the scripts that make it."""

    def test_made_once_for_the_same_sources(self) -> None:
        import nightly_rows

        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        folder = Path(scratch.name) / "inputs"
        ran = []

        def scripts(program: str, *arguments: Any) -> None:
            ran.append(program)
            out = Path(arguments[arguments.index("--out") + 1])
            if program == "tokenize.py":
                out.write_text("tokens")
                return
            out.mkdir()
            (out / "config.json").write_text(json.dumps({"num_hidden_layers": 30}))
            (out / "tokenizer.json").write_text("{}")
            save_file({name: numpy.full(1, len(ran), dtype=numpy.float32)
                       for name in ("model.norm.weight", "model.layers.1.a", "model.layers.2.a")}, out / "a.safetensors")

        def make(sources: str) -> float:
            nightly_rows.make_inputs(folder, Path("a.gguf"), Path("a.txt"), sources, scripts)
            found = load_file(folder / "hf" / "model.safetensors")
            self.assertEqual(sorted(found), ["model.layers.1.a", "model.norm.weight"])
            return float(found["model.norm.weight"][0])

        self.assertEqual(make("one commit"), 1)
        self.assertEqual(make("one commit"), 1)
        self.assertEqual(ran, ["gguf_to_hf.py", "tokenize.py"])
        self.assertEqual(make("another"), 3)
        self.assertEqual(len(ran), 4)


class Comparing(unittest.TestCase):
    """Hashes count where the platform is known, tolerances everywhere."""

    def setUp(self) -> None:
        import nightly

        self.nightly = nightly
        self.record = {**ROW, "tuned": "c"}
        self.expected = nightly.updated({}, {"row": {"record": self.record, "seconds": 61.2}}, "here", "why", "1234567")

    def problems(self, platform: str, **changes: object) -> list[str]:
        return self.nightly.compare("row", {**self.record, **changes}, self.expected, platform)

    def test_hashes(self) -> None:
        self.assertEqual(self.problems("here"), [])
        self.assertEqual(self.problems("here", tuned="x"), ["tuned: content hash x, expected c"])
        self.assertEqual(self.problems("elsewhere", tuned="x"), [])

    def test_tolerances(self) -> None:
        self.assertEqual(self.problems("elsewhere", loss=1.34), [])
        for changes in ({"loss": 1.36}, {"loss": 0.6}, {"nll": 11.3}, {"bits_per_weight": 2.01}):
            self.assertEqual(len(self.problems("elsewhere", **changes)), 1, changes)
        self.assertEqual(len(self.problems("elsewhere", loss=float("nan"))), 1)

    def test_operations_recorded_elsewhere(self) -> None:
        def stages(**hashes: str) -> dict[str, dict[str, object]]:
            return {"operations": {"record": {"fingerprints": {"f32": hashes}}, "seconds": 1.0}}

        expected = self.nightly.updated({}, stages(add="a"), "here", "why", "1234567")
        expected = self.nightly.updated(expected, stages(add="a", sum="s"), "elsewhere", "why", "1234567")

        def problems(**hashes: str) -> list[str]:
            return self.nightly.compare("operations", stages(**hashes)["operations"]["record"], expected, "here")

        self.assertEqual(problems(add="a", sum="t"), [])
        self.assertEqual(self.nightly.unrecorded(stages(add="a", sum="t"), expected, "here"), ["operations"])
        self.assertEqual(self.nightly.unrecorded(stages(add="a", sum="s"), expected, "elsewhere"), [])
        self.assertEqual(len(problems(add="b", sum="t")), 1)
        self.assertEqual(problems(add="a", new="n"), ["new (f32): computes n, expected no such operation"])


if __name__ == "__main__":
    unittest.main()
