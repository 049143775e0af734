"""scripts/run_page.py and scripts/plot.py on the logs of every command, structurally and in a browser."""

import html.parser
import json
import math
import os
import re
import shutil
import subprocess
import unittest
from pathlib import Path
from typing import Any, Optional

from support import ROOT, ProgramTest
from tiny_model import LAYERS, write_folder

import svg  # noqa: E402  (scripts/lib, on the path through support)

PVTUNE = os.environ.get("PVTUNE", str(ROOT / "build" / "pvtune"))
BROWSER = os.environ.get("PVTUNE_BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")
VOID = {"meta", "line", "rect", "circle", "polyline"}


class Page(html.parser.HTMLParser):
    """Every element with its attributes and text; fails on what is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, Optional[str]]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(text)
        self.close()
        if self.open:
            raise AssertionError(f"not closed: {self.open}")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Optional[str]]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID or tag in ("rect", "circle"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, Optional[str]]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            raise AssertionError(f"</{tag}> closes nothing at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def count(self, tag: str, **attributes: str) -> int:
        return sum(name == tag and all(attributes[key] in (found.get(key.rstrip("_")) or "").split() for key in attributes)
                   for name, found in self.elements)


def steps(count: int, blocks: int = 3) -> list[dict[str, Any]]:
    """Lines of a tuning log."""
    return [{"step": i, "loss": 5 / i, "codes_changed": blocks * i, "groups": 1000 * blocks, "seconds": 2.0 + i % 3,
             "teacher_seconds": 0.5, "p_seconds": 0.1, "peak_bytes": 3 << 30, "v_step": True,
             "codes_changed_by_block": [i] * blocks, "groups_by_block": [1000] * blocks} for i in range(1, count + 1)]


class RunTest(ProgramTest):
    def write(self, name: str, rows: list[Any]) -> str:
        (self.folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return name

    def pvtune(self, *arguments: object) -> dict[str, Any]:
        done = subprocess.run([PVTUNE, *map(str, arguments), "--json", "--quiet"], cwd=self.folder, capture_output=True,
                              text=True, check=True, timeout=300)
        return json.loads(done.stdout.splitlines()[-1])

    def real_logs(self) -> list[str]:
        """Logs of all three commands on a tiny model; quantised.h5 and tuned.h5 beside them."""
        write_folder(self.folder / "hf")
        (self.folder / "text.txt").write_text("".join(f"Line {i} for {i * 7919 % 1000} readers.\n" for i in range(400)))
        self.succeed("tokenize.py", "--tokenizer", "hf/tokenizer.json", "--text", "text.txt", "--out", "t.h5")
        self.pvtune("import", "--from", "hf", "--out", "model.h5")
        plain = ("quantize", "--model", "model.h5", "--code-bits", 5)
        self.pvtune(*plain, "--out", "plain.h5", "--log", "plain.jsonl")
        self.pvtune(*plain, "--calibrate", "t.h5", "--sequences", 8, "--ctx", 64, "--out", "quantised.h5", "--log",
                    "calibrate.jsonl")
        self.pvtune("tune", "--model", "quantised.h5", "--teacher", "model.h5", "--tokens", "t.h5", "--ctx", 64, "--batch", 2,
                    "--steps", 6, "--code-lr", 0.1, "--measure-v", "--out", "tuned.h5", "--log", "tune.jsonl")
        self.pvtune("eval", "--model", "tuned.h5", "--tokens", "t.h5", "--ctx", 64, "--log", "eval.jsonl")
        return ["plain.jsonl", "calibrate.jsonl", "tune.jsonl", "eval.jsonl"]


class Pictures(RunTest):
    def test_the_log_of_every_command(self) -> None:
        expected = {"plain.jsonl": {"relative_mse", "bits", "quantize_seconds", "quantize_memory"},
                    "calibrate.jsonl": {"relative_mse", "relative_output_error", "block_error", "bits", "quantize_seconds",
                                        "quantize_memory"},
                    "tune.jsonl": {"loss", "codes_changed", "codes_changed_by_block", "seconds", "measured_change", "memory"},
                    "eval.jsonl": {"perplexity"}}
        for log in self.real_logs():
            printed = self.succeed("plot.py", log, "--out", log + ".plots").split()
            self.assertEqual({Path(line).stem for line in printed}, expected[log])
            for line in printed:
                self.assertTrue((self.folder / line).read_bytes().startswith(b"\x89PNG"))


class Pages(RunTest):
    def make(self, *arguments: object) -> Page:
        self.succeed("run_page.py", *arguments, "--out", "page.html")
        return Page((self.folder / "page.html").read_text(encoding="utf-8"))

    def test_real_runs_and_weights(self) -> None:
        page = self.make(*self.real_logs(), "--weights", "tuned.h5")
        headings = page.texts["h2"]
        for words in ("Loss: divergence", "Perplexity over", "by block (%", "Time of a step", "Peak memory", "Bits by tensor",
                      "before and after its tuning", "outputs"):
            self.assertTrue(any(words in heading for heading in headings), (words, headings))
        self.assertEqual(page.count("svg"), len(headings))
        inspected = self.pvtune("inspect", "tuned.h5", "--tensors")
        cells = page.texts["td"]
        for tensor in inspected["tensors"]:
            self.assertIn(tensor["name"], cells)
        self.assertEqual(sum(cell.startswith("model.layers.") for cell in cells), 9 * LAYERS)
        perplexity = [json.loads(line) for line in (self.folder / "eval.jsonl").read_text().splitlines()][-1]["nll"]
        self.assertTrue(any(f"perplexity {svg.text(math.exp(perplexity))} over" in cell for cell in cells))

    def test_it_needs_nothing_from_outside(self) -> None:
        page = self.make(self.write("run.jsonl", steps(5)), "--title", "<script>alert(1)</script> & more")
        self.assertEqual(page.count("script"), 0)
        self.assertIn("<script>alert(1)</script> & more", page.texts["h1"])
        for tag, attributes in page.elements:
            self.assertNotIn(tag, ("link", "img", "iframe", "object"))
            for name, value in attributes.items():
                self.assertFalse(name.startswith("on") or name in ("src", "href"), (tag, attributes))
                self.assertNotIn("://", value or "")
        self.assertNotIn("@import", (self.folder / "page.html").read_text())
        self.assertNotIn("url(", (self.folder / "page.html").read_text())

    def test_every_value_is_drawn_inside_its_picture(self) -> None:
        page = self.make(self.write("run.jsonl", steps(40)))
        self.assertEqual(page.count("rect", class_="cell"), 40 * 3)
        curves = [found["points"].split() for name, found in page.elements if name == "polyline"]
        self.assertEqual({len(points) for points in curves}, {40})
        for points in curves:
            for x, y in (map(float, point.split(",")) for point in points):
                self.assertTrue(0 <= x <= 640 and 0 <= y <= 300, points)
        loss = [float(point.split(",")[1]) for point in curves[0]]
        self.assertEqual(loss, sorted(loss))  # falls: further down the picture
        titles = page.texts["title"]
        self.assertIn("block 2, tuning step 40: 4", titles)

    def test_long_runs_stay_small(self) -> None:
        page = self.make(self.write("run.jsonl", steps(5000, blocks=32)))
        self.assertEqual(page.count("rect", class_="cell"), 32 * math.ceil(5000 / 13))
        self.assertLess((self.folder / "page.html").stat().st_size, 4 << 20)

    def test_odd_logs(self) -> None:
        rows: list[Any] = steps(4)
        rows[1].update(loss=None, codes_changed_by_block=[1], groups_by_block=None)
        rows[2].update(loss=float("nan"), seconds="x", groups=0)
        rows += [{"step": 4, "loss": 0.5}, {"step": 9, "loss": 0}, [1], {"unknown": 1}]
        self.make(self.write("run.jsonl", rows))
        self.make(self.write("one.jsonl", [{"windows": 1, "nll": 3}]))
        self.make(self.write("bits.jsonl", [{"matrix": "odd name", "relative_mse": 0.1}, {"block": 0, "tuned_error": 0}]))

    def test_refusals(self) -> None:
        self.write("empty.jsonl", [])
        self.refuse("run_page.py", "empty.jsonl", "--out", "p.html", says="holds no step")
        self.refuse("run_page.py", "none.jsonl", "--out", "p.html", says="no such file")
        log = self.write("run.jsonl", steps(2))
        self.refuse("run_page.py", log, "--weights", "none.h5", "--out", "p.html", says="none.h5: no such file")
        self.refuse("run_page.py", log, "--out", "no/p.html", says="no such folder")
        self.refuse("run_page.py", log, "--out", log, says="run.jsonl: is a file, but no HTML page")
        self.assertEqual(self.write("other.jsonl", steps(2)), "other.jsonl")
        self.assertEqual((self.folder / log).read_bytes(), (self.folder / "other.jsonl").read_bytes())
        for before in ("", "<!doctype HTML><p>", "<!DOCTYPE html>"):
            (self.folder / "p.html").write_text(before)
            self.succeed("run_page.py", log, "--out", "p.html")


class Numbers(unittest.TestCase):
    def test_ticks_are_round_and_inside(self) -> None:
        for low, high in ((0, 1), (0, 7), (3, 3.001), (-2e-5, 5e-5), (0, 123456), (17, 17)):
            marks = svg.ticks(low, high)
            self.assertTrue(1 <= len(marks) <= 6, (low, high, marks))
            for mark in marks:
                self.assertTrue(low - 1e-9 * abs(high) <= mark <= high * (1 + 1e-9) + 1e-12)
        self.assertEqual(svg.ticks(0, 10), [0, 2, 4, 6, 8, 10])
        self.assertEqual(svg.ticks(0, 2, least_step=1), [0, 1, 2])

    def test_a_logarithmic_scale(self) -> None:
        scale = svg.Scale([1, 1000], 0, 300, log=True)
        self.assertEqual([scale(1), scale(10), scale(1000)], [0, 100, 300])
        self.assertFalse(svg.Scale([0, 1000], 0, 300, log=True).log)


@unittest.skipUnless(BROWSER, "no chromium here (tests/browser.sh installs it)")
class Browser(RunTest):
    """The page as a browser lays it out."""

    MEASURE = """<script>
        const charts = [...document.querySelectorAll("svg")].map(svg => svg.getBoundingClientRect());
        const outside = [...document.querySelectorAll("svg text")].filter(text => {
            const box = text.getBoundingClientRect(), frame = text.ownerSVGElement.getBoundingClientRect();
            return box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1;
        }).map(text => text.textContent);
        document.body.setAttribute("data-measured", JSON.stringify({
            charts: charts.length, least: Math.min(...charts.map(box => box.width * box.height)), outside,
            width: innerWidth, needed: document.documentElement.scrollWidth,
            stroke: getComputedStyle(document.querySelector("polyline")).stroke,
            requests: performance.getEntriesByType("resource").length }));</script>"""

    def browse(self, *flags: str) -> subprocess.CompletedProcess:
        return subprocess.run([str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                               f"--user-data-dir={self.folder / 'profile'}", *flags, f"file://{self.folder / 'measured.html'}"],
                              capture_output=True, text=True, timeout=300, check=False)

    def test_layout_wide_and_narrow(self) -> None:
        logs = self.real_logs()
        self.write("tune.jsonl", steps(300, blocks=30))
        self.succeed("run_page.py", *logs, "--weights", "tuned.h5", "--out", "page.html")
        page = (self.folder / "page.html").read_text(encoding="utf-8")
        (self.folder / "measured.html").write_text(page.replace("</body>", self.MEASURE + "</body>"), encoding="utf-8")
        for width in (1400, 500):
            done = self.browse(f"--window-size={width},900", "--dump-dom")
            found = re.search(r'data-measured="([^"]*)"', done.stdout)
            self.assertIsNotNone(found, done.stderr[-2000:])
            measured = json.loads(html.unescape(found[1])) if found else {}
            self.assertEqual(measured["charts"], page.count("<svg"))
            self.assertGreater(measured["least"], 20_000)
            self.assertEqual(measured["outside"], [])
            self.assertLessEqual(measured["needed"], measured["width"])
            self.assertRegex(measured["stroke"], r"^rgb\(\d+, \d+, \d+\)$")
            self.assertEqual(measured["requests"], 0)

    def test_a_picture_is_not_blank(self) -> None:
        from PIL import Image

        self.succeed("run_page.py", self.write("tune.jsonl", steps(30)), "--out", "measured.html")
        self.browse("--window-size=1400,900", f"--screenshot={self.folder / 'shot.png'}")
        with Image.open(self.folder / "shot.png") as picture:
            colours = picture.convert("RGB").getcolors(1 << 24)
        self.assertGreater(len(colours), 20)
        keep = os.environ.get("KEEP_SCREENSHOT")
        if keep:
            shutil.copy(self.folder / "shot.png", keep)


if __name__ == "__main__":
    unittest.main()
