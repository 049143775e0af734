"""`pvtune demo-convergence` as a user runs it: the table, the JSON, the picture, what it refuses."""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any

from support import ProgramTest, ROOT

PVTUNE = os.environ.get("PVTUNE", str(ROOT / "build" / "pvtune"))
SMALL = ("--dimension", 5, "--values", 3, "--large-dimension", 60, "--large-values", 8, "--tau", 0.05, "--iterations", 12)


def demo(*arguments: Any) -> subprocess.CompletedProcess:
    """The command with these arguments."""
    command = [PVTUNE, "demo-convergence", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PVTUNE_PYTHON": sys.executable}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)


class DemoConvergence(unittest.TestCase):
    """What it prints and writes."""

    def setUp(self) -> None:
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)

    def refused(self, done: subprocess.CompletedProcess, word: str) -> None:
        self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
        self.assertRegex(done.stderr, r"\Apvtune: [^\n]+\n\Z")
        self.assertIn(word, done.stderr)

    def test_every_inequality_is_in_the_json(self) -> None:
        done = demo(*SMALL, "--seed", 5, "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("holds", done.stdout)
        self.assertNotIn("VIOLATED", done.stdout)
        result = json.loads(done.stdout.splitlines()[-1])
        self.assertEqual([problem["problem"] for problem in result["problems"]],
                         ["quadratic", "logistic", "large quadratic"])
        self.assertEqual((result["violated"], result["seed"]), (0, 5))
        count = 0
        for problem in result["problems"]:
            for each in problem["runs"]:
                for step in each["iterations"]:
                    count += 1
                    slack = 1e-12 * each["iterations"][0]["f_x"]
                    self.assertLessEqual(step["f_y"], step["f_x"] + slack)
                    if each["v_step"] != "full space, 1/L_S":
                        self.assertLessEqual(step["f_next"], step["bound"] + slack)
                        self.assertLessEqual(step["bound"], step["f_y"] + slack)
        self.assertEqual(count, result["iterations"])

    def test_repeats_and_takes_one_problem(self) -> None:
        runs = []
        for _ in range(2):
            done = demo(*SMALL, "--problem", "logistic", "--json")
            result = json.loads(done.stdout.splitlines()[-1])
            del result["seconds"]
            runs.append(result)
        self.assertEqual(runs[0], runs[1])
        self.assertEqual([problem["problem"] for problem in runs[0]["problems"]], ["logistic"])

    def test_writes_json_and_picture(self) -> None:
        out = self.folder / "new" / "theory"
        done = demo(*SMALL, "--out", out)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(sorted(path.name for path in out.iterdir()), ["convergence.json", "convergence.png"])
        self.assertEqual(json.loads((out / "convergence.json").read_text())["violated"], 0)
        self.assertEqual((out / "convergence.png").read_bytes()[:8], b"\x89PNG\r\n\x1a\n")
        self.assertGreater((out / "convergence.png").stat().st_size, 20_000)

    def test_refuses_what_cannot_be_done(self) -> None:
        self.refused(demo("--dimension", 20, "--values", 16), "--dimension 20")
        self.refused(demo("--tau", 0.5), "--tau 0.5")
        self.refused(demo("--problem", "cubic"), "--problem")
        self.refused(demo("--iterations", 0), "--iterations")
        self.refused(demo("--condition", "nan"), "--condition")
        self.refused(demo("--device", "cuda"), "--device cuda")
        (self.folder / "file").write_text("x")
        self.refused(demo(*SMALL, "--out", self.folder / "file"), "file")

    def test_dry_run_starts_nothing(self) -> None:
        done = demo("--dry-run", "--json", "--out", self.folder / "none")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertGreater(json.loads(done.stdout)["memory_bytes"], 0)
        self.assertFalse((self.folder / "none").exists())


class PlotConvergence(ProgramTest):
    """The picture's program on files that are none of ours."""

    def test_refuses_other_files(self) -> None:
        bad = self.folder / "bad.json"
        for text in ("{", "{}", '{"problems": [{"runs": [{"v_step": "exact"}]}]}', '{"problems": []}'):
            bad.write_text(text)
            self.refuse("plot_convergence.py", bad, "--out", self.folder, says="bad.json")
        self.refuse("plot_convergence.py", self.folder / "none.json", "--out", self.folder, says="none.json")
        other = self.folder / "convergence.png"
        other.write_text("notes")
        demo(*SMALL, "--out", self.folder / "demo")
        self.refuse("plot_convergence.py", self.folder / "demo" / "convergence.json", "--out", self.folder,
                    says="convergence.png: is a file, but no PNG picture")
        self.assertEqual(other.read_text(), "notes")


if __name__ == "__main__":
    unittest.main()
