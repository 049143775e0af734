"""What the demo is made of besides the engine: phases, text, curves, report."""

import json
import unittest

from support import ProgramTest


class PhaseTest(ProgramTest):
    def test_a_record_of_what_ran(self) -> None:
        out = self.succeed("demo_phase.py", "--out", "p.json", "--", "sh", "-c", "echo hello; echo '{\"a\": 1}'")
        self.assertIn("hello", out)
        record = json.loads((self.folder / "p.json").read_text())
        self.assertEqual(record["result"], {"a": 1})
        self.assertGreater(record["peak_bytes"], 0)
        self.assertGreaterEqual(record["seconds"], 0)

    def test_failure_keeps_the_status_and_leaves_no_record(self) -> None:
        self.assertEqual(self.start("demo_phase.py", "--out", "p.json", "--", "sh", "-c", "exit 7").returncode, 7)
        self.assertEqual(self.start("demo_phase.py", "--out", "p.json", "--", "./missing").returncode, 2)
        self.assertFalse((self.folder / "p.json").exists())


class TextTest(ProgramTest):
    def split(self, *source: object) -> tuple[str, str]:
        self.succeed("demo_text.py", *source, "--tune", "t", "--eval", "e")
        return (self.folder / "t").read_text(), (self.folder / "e").read_text()

    def test_a_file_is_cut_at_a_paragraph(self) -> None:
        text = "".join(f"Paragraph {i} of the text.\nIt has two lines.\n\n" for i in range(100))
        (self.folder / "a.txt").write_text(text)
        tune, evaluation = self.split("--file", "a.txt")
        self.assertEqual(tune + evaluation, text)
        self.assertTrue(tune.endswith("\n\n") and evaluation.startswith("Paragraph 80 "))

    def test_a_file_without_paragraphs_is_cut_at_a_line(self) -> None:
        (self.folder / "a.txt").write_text("".join(f"line {i}\n" for i in range(1000)))
        tune, evaluation = self.split("--file", "a.txt")
        self.assertTrue(tune.endswith("\n") and evaluation.startswith("line "))

    def test_a_word_cannot_be_split(self) -> None:
        (self.folder / "a.txt").write_text("word")
        self.refuse("demo_text.py", "--file", "a.txt", "--tune", "t", "--eval", "e", says="too short")

    def test_what_is_read_is_not_written_over(self) -> None:
        text = "".join(f"Paragraph {i}.\n\n" for i in range(100))
        (self.folder / "a.txt").write_text(text)
        (self.folder / "link").symlink_to("a.txt")
        (self.folder / "0.html").write_text(text)
        for tune, evaluation, says in (("a.txt", "e", "--tune a.txt: is read too"), ("t", "link", "--eval link: is"),
                                       ("t", self.folder / "t", "t: is --tune too")):
            self.refuse("demo_text.py", "--file", "a.txt", "--tune", tune, "--eval", evaluation, says=says)
        self.refuse("demo_text.py", "--folder", ".", "--tune", "0.html", "--eval", "e", says="0.html: is read too")
        for name in ("a.txt", "0.html"):
            self.assertEqual((self.folder / name).read_text(), text)
        self.assertEqual(sorted(path.name for path in self.folder.iterdir()), ["0.html", "a.txt", "link"])

    def test_pages_are_split_by_document_and_are_prose(self) -> None:
        page = ("<html><head><title>no</title></head><body><script>no</script><ul class='docnav'><li>no, go to the next page"
                " of this fine book</li></ul><p>Page number {} holds one paragraph with a <b>bold</b>\n word &amp; more.</p>"
                "<pre>no code in here, however long the code may be</pre></body></html>")
        for i in range(10):
            (self.folder / f"{i}.html").write_text(page.format(i))
        (self.folder / "index.html").write_text(page.format("index"))
        tune, evaluation = self.split("--folder", self.folder)
        expected = "Page number {} holds one paragraph with a bold word & more.\n\n"
        self.assertEqual(evaluation, expected.format(4) + expected.format(9))
        self.assertEqual(tune, "".join(expected.format(i) for i in (0, 1, 2, 3, 5, 6, 7, 8)))


class PlotTest(ProgramTest):
    def test_three_pictures(self) -> None:
        steps = [{"step": i, "loss": 8 / i, "codes_changed": i // 5, "groups": 1000, "seconds": 2.5, "new": "x"}
                 for i in range(1, 41)]
        steps[3].update(loss=None, codes_changed=None)
        lines = [json.dumps(step) for step in steps] + ["{broken", "[1]"]
        (self.folder / "run.jsonl").write_text("\n".join(lines))
        done = self.start("plot.py", "run.jsonl", "--out", "plots")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("run.jsonl:41", done.stderr)
        self.assertIn("run.jsonl:42", done.stderr)
        for name in ("loss", "codes_changed", "seconds"):
            data = (self.folder / "plots" / f"{name}.png").read_bytes()
            self.assertTrue(data.startswith(b"\x89PNG"))
            self.assertGreaterEqual(int.from_bytes(data[16:20], "big"), 1000)  # width at 150 dpi

    def test_refusals(self) -> None:
        (self.folder / "run.jsonl").write_text("nothing\n")
        self.refuse("plot.py", "run.jsonl", "--out", "plots", says="holds no step")
        self.refuse("plot.py", "missing.jsonl", "--out", "plots", says="no such file")

    def test_only_a_picture_is_replaced(self) -> None:
        log = json.dumps({"step": 1, "loss": 8, "seconds": 2.5}) + "\n"
        (self.folder / "loss.png").write_text(log)
        self.refuse("plot.py", "loss.png", "--out", ".", says="loss.png: is a file, but no PNG picture")
        self.assertEqual((self.folder / "loss.png").read_text(), log)
        self.assertEqual([path.name for path in self.folder.iterdir()], ["loss.png"])
        for _ in range(2):
            self.succeed("plot.py", "loss.png", "--out", "plots")


class ReportTest(ProgramTest):
    RESULTS = {
        "setup": None, "import": None,
        "inspect-dense": {"bits_per_weight": 16.0},
        "eval-dense": {"perplexity": 24.15, "nll": 3.18, "tokens": 40920, "seconds": 10.0},
        "quantize": {"bits_per_weight": 2.153, "relative_mse": 0.097, "peak_bytes": 3 << 30},
        "inspect-quantized": {"bits_per_weight": 2.153},
        "eval-quantized": {"perplexity": 600000.0}, "generate-quantized": None,
        "tune": {"loss": 1.5, "steps": 100, "seconds_per_step": 2.5, "peak_bytes": 2 << 30},
        "inspect-tuned": {"bits_per_weight": 2.153},
        "eval-tuned": {"perplexity": 88.5}, "generate-tuned": None,
    }

    def setUp(self) -> None:
        super().setUp()
        self.phases = self.folder / "phases"
        self.phases.mkdir()
        for index, (name, result) in enumerate(self.RESULTS.items()):
            record = {"command": ["build/pvtune", name], "status": 0, "seconds": 1.5, "peak_bytes": 1 << 30,
                      "output": f"sample of {name}\x07\n", "result": result}
            (self.phases / f"{index:02d}-{name}.json").write_text(json.dumps(record))
        for name, size in (("model", 3000), ("quantized", 200), ("tuned", 210)):
            (self.folder / f"{name}.h5").write_bytes(bytes(size))
        self.arguments = ("demo_report.py", "--phases", self.phases, "--out", self.folder, "--text", "a text")

    def test_report(self) -> None:
        out = self.succeed(*self.arguments, "--setting", "tuning", "--steps 100")
        self.assertIn("88.50 tuned", out)
        report = json.loads((self.folder / "report.json").read_text())
        self.assertEqual(report["perplexity"], {"dense": 24.15, "quantized": 600000.0, "tuned": 88.5})
        self.assertEqual(report["bits_per_weight"], 2.153)
        self.assertEqual(report["peak_bytes"], 2 << 30)
        self.assertEqual(report["seconds"]["tune"], 1.5)
        self.assertEqual(report["seconds"]["total"], 1.5 * len(self.RESULTS))
        text = (self.folder / "report.md").read_text()
        for words in ("| PV-tuned | 2.153 | 0.0 MB | 88.50 |", "600,000.00", "(loss.png)", "(codes_changed.png)",
                      "sample of generate-quantized", "sample of generate-tuned", "a text", "--steps 100"):
            self.assertIn(words, text)
        self.assertNotIn("\x07", text)

    def test_a_missing_result_is_named(self) -> None:
        next(self.phases.glob("*-tune.json")).unlink()
        self.refuse(*self.arguments, says="'tune'")
        self.assertFalse((self.folder / "report.json").exists())


class SummaryTest(ProgramTest):
    """The last line of `make test`."""

    def summary(self, failed: str, *programs: str) -> tuple[int, list[str]]:
        (self.folder / "failed").write_text(failed)
        done = self.start("lib/test_summary.py", self.folder, self.folder / "failed", *programs)
        return done.returncode, done.stdout.splitlines()

    def write(self, name: str, report: dict) -> None:
        (self.folder / f"{name}.json").write_text(json.dumps(report))

    def test_counts_cases(self) -> None:
        (self.folder / "release.a_test.xml").write_text("""<testsuites><testsuite name="A">
            <testcase classname="A" name="good" status="run" result="completed"/>
            <testcase classname="A" name="bad" status="run" result="completed"><failure message="x"/></testcase>
            <testcase classname="A" name="left" status="run" result="skipped">
            <skipped message="f.cpp:3&#x0A;no data&#x0A;"/></testcase></testsuite></testsuites>""")
        self.write("python.b_test", {"passed": ["x", "y"], "failed": [], "skipped": {}})
        status, lines = self.summary("release.a_test\n", "release.a_test", "python.b_test")
        self.assertEqual(status, 1)
        self.assertEqual(lines, ["skipped  release.a_test: A.left: no data", "FAILED   release.a_test: A.bad",
                                 "3 passed, 1 failed, 1 skipped"])

    def test_a_crash_an_error_at_the_end_and_nothing_at_all_fail(self) -> None:
        self.write("b", {"passed": ["x"], "failed": [], "skipped": {}})
        status, lines = self.summary("a\nb\n", "a", "b")
        self.assertEqual((status, lines[-1]), (1, "1 passed, 2 failed"))
        status, lines = self.summary("")
        self.assertEqual((status, lines[-1]), (1, "0 passed, 0 failed"))
        status, lines = self.summary("", "b")
        self.assertEqual((status, lines[-1]), (0, "1 passed, 0 failed"))

    def test_a_program_in_which_nothing_ran_fails(self) -> None:
        (self.folder / "a.xml").write_text('<testsuites tests="0" failures="0"></testsuites>')
        self.write("b", {"passed": ["x"], "failed": [], "skipped": {}})
        self.write("c", {"passed": [], "failed": [], "skipped": {"y": "no data"}})
        status, lines = self.summary("", "a", "b", "c")
        self.assertEqual((status, lines), (1, ["skipped  c: y: no data", "FAILED   a: no test ran in it",
                                               "1 passed, 1 failed, 1 skipped"]))


if __name__ == "__main__":
    unittest.main()
