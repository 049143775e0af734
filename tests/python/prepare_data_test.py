"""scripts/prepare_data.py: sources, ways of sampling, overlap, shards, kill and resume."""

import collections
import contextlib
import gzip
import importlib.util
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
import unittest
from pathlib import Path
from typing import Any, Optional
from unittest import mock

import h5py
import numpy
import tokenizers
from support import ROOT, ProgramTest, vocabulary, write_tokenizer

import errors  # noqa: E402  (scripts/lib, on the path through support)
import overlap  # noqa: E402
import sampling  # noqa: E402
import text_sources  # noqa: E402

sys.path.insert(0, str(ROOT / "scripts"))
import prepare_data  # noqa: E402

WORDS = ["the", "model", "of", "a", "quantised", "weight", "moves", "12", "codes,", "and", "then", "Ünïcödé", "the end.\n"]


def text_of(seed: int, words: int) -> str:
    """Random words."""
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(words))


class PrepareTest(ProgramTest):
    def setUp(self) -> None:
        super().setUp()
        self.tokenizer = self.folder / "tokenizer.json"
        write_tokenizer(self.tokenizer)
        self.library = tokenizers.Tokenizer.from_file(str(self.tokenizer))
        self.texts = [text_of(seed, words) for seed, words in enumerate((40, 5, 300, 90, 1, 500, 60))]
        self.lines = self.folder / "documents.jsonl"
        self.lines.write_text("".join(json.dumps({"text": text, "id": 1}) + "\n" for text in self.texts))

    def start(self, program: str, *arguments: object, stdin: Optional[str] = None) -> subprocess.CompletedProcess:
        """prepare_data.py in this process, which has its libraries loaded; others as they are run by a user."""
        if program != "prepare_data.py" or "PYTHONPATH" in os.environ:
            return super().start(program, *arguments, stdin=stdin)
        said, complained, status, here = io.StringIO(), io.StringIO(), 0, os.getcwd()
        try:
            os.chdir(self.folder)
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained), \
                    mock.patch.object(sys, "argv", [program, *map(str, arguments)]):
                errors.run(prepare_data.main)
        except SystemExit as ended:
            status = int(ended.code or 0)
        finally:
            os.chdir(here)
        return subprocess.CompletedProcess([], status, said.getvalue(), complained.getvalue())

    def ids(self, text: str) -> list[int]:
        return self.library.encode(text, add_special_tokens=False).ids

    def common(self, *arguments: object, out: str = "out.h5") -> tuple[object, ...]:
        source = () if {"--from", "--dataset"} & set(map(str, arguments)) else ("--from", self.lines)
        return ("prepare_data.py", *source, "--tokenizer", self.tokenizer, "--out", self.folder / out, *arguments)

    def prepare(self, *arguments: object, out: str = "out.h5") -> dict[str, Any]:
        return json.loads(self.succeed(*self.common(*arguments, "--json", out=out)).splitlines()[-1])

    def tokens(self, out: str = "out.h5") -> numpy.ndarray:
        with h5py.File(self.folder / out) as file:
            return file["/tokens"][:]


class Sources(PrepareTest):
    def test_plain_text_as_tokenize_does(self) -> None:
        text = self.folder / "a.txt"
        text.write_bytes("the cat\r\nÜnïcödé 日本\n\n the end".encode() * 100)
        self.prepare("--from", text)
        self.succeed("tokenize.py", "--tokenizer", self.tokenizer, "--text", text, "--out", self.folder / "other.h5")
        numpy.testing.assert_array_equal(self.tokens(), self.tokens("other.h5"))
        with h5py.File(self.folder / "out.h5") as file:
            self.assertEqual(file["/tokens"].attrs["tokenizer"], b"tokenizer.json")
            self.assertEqual(file["/tokens"].attrs["vocabulary"], len(vocabulary()))
            self.assertEqual(file["/tokens"].attrs["sampling"], b"concat")
            self.assertTrue(file.attrs["command"].startswith(b"scripts/prepare_data.py"))
        self.assertEqual(sorted(path.name for path in self.folder.glob("out.h5*")), ["out.h5"])

    def test_long_text_is_cut_where_tokens_stay_the_same(self) -> None:
        text = "\n\n".join(text_of(seed, 2000) for seed in range(10))
        with mock.patch.object(text_sources, "PIECE", 1000):
            parts = list(text_sources.pieces([[text[i : i + 777] for i in range(0, len(text), 777)]], self.ids))
        self.assertEqual("".join(part.text for part in parts), text)
        self.assertGreater(len(parts), 50)
        self.assertEqual([part.ends for part in parts], [False] * (len(parts) - 1) + [True])
        self.assertEqual([token for part in parts for token in self.ids(part.text)], self.ids(text))

    def test_text_without_line_ends_is_cut_too(self) -> None:
        with mock.patch.object(text_sources, "PIECE", 1000):
            for text in ("x" * 10_000, "word " * 2_000, "\n" * 10_000):
                parts = [part.text for part in text_sources.pieces([[text]], self.ids)]
                self.assertEqual("".join(parts), text)
                self.assertLessEqual(max(map(len, parts)), 2000)

    def test_json_lines_plain_and_compressed(self) -> None:
        expected = [token for text in self.texts for token in self.ids(text)]
        compressed = self.folder / "documents.json.gz"
        compressed.write_bytes(gzip.compress(self.lines.read_bytes()))
        named = self.folder / "documents.ndjson"
        named.write_bytes(self.lines.read_bytes())
        for source in (self.lines, compressed, named):
            result = self.prepare("--from", source)
            self.assertEqual((result["documents_read"], result["tokens"]), (len(self.texts), len(expected)))
            self.assertEqual(self.tokens().tolist(), expected)

    def test_half_a_surrogate_pair_is_a_character_that_is_missing(self) -> None:
        (self.folder / "a.jsonl").write_text('{"text": "the \\ud83d end \\ud83d\\ude00"}\n')
        self.prepare("--from", "a.jsonl")
        self.assertEqual(self.tokens().tolist(), self.ids("the \ufffd end \U0001f600"))

    @unittest.skipUnless(importlib.util.find_spec("zstandard"), "zstandard is not installed (requirements-data.txt)")
    def test_zstandard(self) -> None:
        import zstandard

        compressed = self.folder / "d.jsonl.zst"
        data = self.lines.read_bytes()
        compressed.write_bytes(zstandard.compress(data[:100]) + zstandard.compress(data[100:]))
        self.assertEqual(self.prepare("--from", compressed)["documents_read"], len(self.texts))
        compressed.write_bytes(zstandard.compress(data)[:-20])
        self.refuse(*self.common("--from", compressed), says="d.jsonl.zst: ")

    @unittest.skipUnless(importlib.util.find_spec("pyarrow"), "pyarrow is not installed (requirements-data.txt)")
    def test_parquet(self) -> None:
        import pyarrow
        import pyarrow.parquet

        path = self.folder / "d.parquet"
        pyarrow.parquet.write_table(pyarrow.table({"text": self.texts, "id": [1] * len(self.texts)}), path)
        self.prepare("--from", path)
        self.assertEqual(self.tokens().tolist(), [token for text in self.texts for token in self.ids(text)])
        self.refuse(*self.common("--from", path, "--field", "body"), says="there is: text, id")
        self.refuse(*self.common("--from", path, "--field", "id"), says="is no text")
        path.write_bytes(path.read_bytes()[:-30])
        self.refuse(*self.common("--from", path), says="d.parquet: cannot be read")

    def test_a_missing_library_is_named_with_the_command(self) -> None:
        for name, library in (("d.parquet", "pyarrow"), ("d.jsonl.zst", "zstandard")):
            (self.folder / name).write_bytes(b"x")
            hidden = self.folder / "hidden"
            hidden.mkdir(exist_ok=True)
            (hidden / f"{library}.py").write_text(f"raise ModuleNotFoundError(name={library!r})")
            with mock.patch.dict(os.environ, {"PYTHONPATH": str(hidden)}):
                self.refuse(*self.common("--from", name), says="pip install -r third_party/requirements-data.txt")

    def test_joined_and_ended_documents(self) -> None:
        self.prepare("--join", "\n\n")
        self.assertEqual(self.tokens().tolist(), self.ids("\n\n".join(self.texts)))
        self.prepare("--document-end", "<|end|>", "--documents", 3)
        self.assertEqual(self.tokens().tolist(), [token for text in self.texts[:3] for token in [*self.ids(text), 0]])

    def test_refusals(self) -> None:
        def write(name: str, data: bytes) -> Path:
            (self.folder / name).write_bytes(data)
            return self.folder / name

        for name, data, words in (("a.jsonl", b'{"text": "x"}\nhello\n', "a.jsonl:2: not a JSON object"),
                                  ("b.jsonl", b'{"body": "x"}\n', "b.jsonl:1: has no text under 'text' (there is: body)"),
                                  ("c.jsonl", b"[1]\n", "c.jsonl:1"), ("d.txt", b"ab\xff", "not UTF-8"),
                                  ("e.jsonl.gz", b"no gzip", "cannot be decompressed"), ("f.txt", b"", "holds no text"),
                                  ("g.jsonl.gz", gzip.compress(b'{"text": "x"}\n' * 99)[:-9], "cannot be decompressed")):
            self.refuse(*self.common("--from", write(name, data)), says=words)
        self.refuse(*self.common("--from", "none.txt"), says="none.txt: no such file")
        self.refuse(*self.common("--dataset", "c4", "--join", " "), says="--join: a data set is joined")
        self.refuse(*self.common("--join", "\udcff"), says="--join '\ufffd': not UTF-8")
        for flag, value in (("--split", "train"), ("--files", 1), ("--cache", self.folder)):
            self.refuse(*self.common(flag, value), says=f"{flag}: is of --dataset")
        self.refuse(*self.common(out="no/where.h5"), says="no such folder")
        self.refuse(*self.common(out=write("notes.txt", b"notes").name), says="notes.txt: is a file, but no store of 'tokens'")
        self.assertEqual((self.folder / "notes.txt").read_bytes(), b"notes")
        self.refuse(*self.common("--sampling", "biased"), says="needs --sequences and --ctx")
        self.refuse(*self.common("--sequences", 2), says="need --ctx")
        self.refuse(*self.common("--ctx", 10**6), says="gives no sequence")
        self.refuse(*self.common("--ctx", 10**6, "--sequences", 1, "--sampling", "biased"), says="the longest has")
        self.refuse(*self.common("--ctx", 10**6, "--sequences", 1, "--sampling", "unbiased"), says="tokens in all")
        self.refuse(*self.common("--ctx", 64, "--sequences", 10**5), says="the text gives")
        self.refuse(*self.common("--ctx", 64, "--shard-tokens", 32), says="less than one sequence")
        self.refuse(*self.common("--document-end", "nothing"), says="has no such token")
        self.refuse(*self.common("--exclude", self.lines, "--ctx", 64), says="not a token store")
        self.assertFalse((self.folder / "out.h5").exists())


class Sampling(PrepareTest):
    def documents_of(self, sequences: numpy.ndarray) -> list[Optional[int]]:
        """Which document each sequence lies in, by brute force."""
        found = []
        for sequence in sequences.tolist():
            places = [index for index, text in enumerate(self.texts)
                      for ids in [self.ids(text)] for start in range(len(ids) - len(sequence) + 1)
                      if ids[start : start + len(sequence)] == sequence]
            found.append(places[0] if places else None)
        return found

    def test_concat_cuts_the_text_in_order(self) -> None:
        whole = [token for text in self.texts for token in self.ids(text)]
        result = self.prepare("--ctx", 50)
        self.assertEqual(result["sequences"], len(whole) // 50)
        self.assertEqual(self.tokens().tolist(), whole[: len(whole) // 50 * 50])
        self.prepare("--ctx", 50, "--sequences", 3)
        self.assertEqual(self.tokens().tolist(), whole[:150])

    def test_unbiased_windows_are_anywhere(self) -> None:
        whole = numpy.array([token for text in self.texts for token in self.ids(text)], numpy.uint32)
        windows = numpy.lib.stride_tricks.sliding_window_view(whole, 50)
        self.prepare("--ctx", 50, "--sequences", 200, "--sampling", "unbiased")
        places = [int(numpy.flatnonzero((windows == row).all(axis=1))[0]) for row in self.tokens().reshape(-1, 50)]
        self.assertEqual(len(set(places)), 200)
        thirds = collections.Counter(place * 3 // len(windows) for place in places)
        for third in range(3):  # 67 of 200 expected, standard deviation under 7
            self.assertAlmostEqual(thirds[third], 200 / 3, delta=4 * 7)

    def test_biased_draws_among_long_documents(self) -> None:
        lengths = [len(self.ids(text)) for text in self.texts]
        shortest = sorted(lengths)[-3]  # three documents have as many
        self.prepare("--ctx", shortest - 20, "--sequences", 60, "--sampling", "biased")
        drawn = collections.Counter(self.documents_of(self.tokens().reshape(60, -1)))
        long = [index for index, length in enumerate(lengths) if length >= shortest - 20]
        self.assertEqual(set(drawn), set(long))
        # The shortest has 21 windows, drawn without repeats: the others share what it cannot give.
        self.assertGreaterEqual(min(drawn.values()), 8)

    def test_biased_start_takes_starts(self) -> None:
        self.prepare("--ctx", 40, "--sequences", 4, "--sampling", "biased-start")
        starts = [self.ids(text)[:40] for text in self.texts]
        for row in self.tokens().reshape(-1, 40).tolist():
            self.assertIn(row, starts)

    def test_the_seed_alone_decides(self) -> None:
        for sampling_name in ("unbiased", "biased"):
            draws = [self.prepare("--ctx", 32, "--sequences", 5, "--sampling", sampling_name, "--seed", seed)["content_hash"]
                     for seed in (3, 3, 4)]
            self.assertEqual(draws[0], draws[1])
            self.assertNotEqual(draws[0], draws[2])


class Overlap(PrepareTest):
    def test_hashes_tell_windows_apart(self) -> None:
        tokens = numpy.random.default_rng(0).integers(0, 4, 3000).astype(numpy.uint32)
        for window in (1, 5, 8):
            hashes = overlap.window_hashes(tokens, window)
            windows = numpy.lib.stride_tricks.sliding_window_view(tokens, window)
            self.assertEqual(len(numpy.unique(hashes)), len(numpy.unique(windows, axis=0)))
            for row in range(0, len(windows), 97):
                self.assertEqual(hashes[row], overlap.window_hashes(windows[row].copy(), window)[0])
        self.assertEqual(overlap.window_hashes(tokens[:3], 5).size, 0)

    def test_shared_sequences_are_dropped_counted_and_refused(self) -> None:
        self.prepare(out="all.h5")
        tokens = self.tokens("all.h5")
        piece = self.folder / "piece.txt"
        piece.write_text(self.library.decode(tokens[210:290].tolist()))
        self.prepare("--from", piece, out="eval.h5")
        evaluation = self.tokens("eval.h5").tolist()
        window = 32

        def shares(sequence: list[int]) -> bool:
            return any(sequence[i : i + window] == evaluation[j : j + window]
                       for i in range(len(sequence) - window + 1) for j in range(len(evaluation) - window + 1))

        rows = tokens[: len(tokens) // 64 * 64].reshape(-1, 64).tolist()
        kept = [row for row in rows if not shares(row)]
        self.assertTrue(0 < len(kept) < len(rows))
        out = self.succeed(*self.common("--ctx", 64, "--exclude", self.folder / "eval.h5", "--json"))
        self.assertIn(f"overlap: {len(rows) - len(kept)} sequences", out)
        self.assertEqual(json.loads(out.splitlines()[-1])["dropped"], len(rows) - len(kept))
        self.assertEqual(self.tokens().reshape(-1, 64).tolist(), kept)
        self.prepare("--from", piece, "--shard-tokens", len(evaluation) - 20, out="shards")
        self.assertEqual([len(self.tokens(f"shards/0000{i}.h5")) for i in range(2)], [len(evaluation) - 20, 20])
        self.prepare("--ctx", 64, "--exclude", self.folder / "shards", out="again.h5")
        self.assertEqual(self.tokens("again.h5").reshape(-1, 64).tolist(), kept, "a folder is one text")
        (self.folder / "out.h5").unlink()
        (self.folder / "empty").mkdir()
        self.refuse(*self.common("--ctx", 64, "--exclude", self.folder / "empty"), says="a folder without a tokens file")
        self.refuse(*self.common("--ctx", 64, "--exclude", self.folder / "eval.h5", "--overlap", "refuse"),
                    says="share 32 tokens in a row")
        for name in ("unbiased", "biased"):
            self.prepare("--ctx", 64, "--sequences", 20, "--sampling", name, "--exclude", self.folder / "eval.h5")
            self.assertFalse(any(shares(row) for row in self.tokens().reshape(-1, 64).tolist()))
        self.refuse(*self.common("--ctx", 64, "--exclude", self.folder / "all.h5", "--sequences", 1), says="share text")

    def test_two_stores_compared(self) -> None:
        self.prepare("--document-end", "<|end|>", out="all.h5")
        self.prepare("--ctx", 100, "--shard-tokens", 100, "--sequences", 4, out="part")
        tokens, part = self.tokens("all.h5").tolist(), [self.tokens(f"part/{i:05d}.h5").tolist() for i in range(4)]
        whole = {tuple(tokens[i : i + 40]) for i in range(len(tokens) - 39)}
        expected = sum(tuple(shard[i : i + 40]) in whole for shard in part for i in range(61))
        self.assertTrue(0 < expected < 4 * 61)
        command = ("check_overlap.py", "part", "--against", "all.h5", "--overlap-tokens", 40, "--json")
        done = self.start(*command)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertEqual(json.loads(done.stdout.splitlines()[-1]), {"windows": 4 * 61, "shared": expected})
        (self.folder / "other.txt").write_text("nothing of that kind at all " * 9)
        self.prepare("--from", self.folder / "other.txt", out="other.h5")
        self.succeed("check_overlap.py", "part", "--against", "other.h5")
        self.refuse("check_overlap.py", "part", "--against", "none.h5", says="none.h5: no such file")

    def test_another_tokenizer_is_refused(self) -> None:
        self.prepare(out="eval.h5")
        self.tokenizer.write_text(json.dumps(json.loads(self.tokenizer.read_text()), indent=1))
        self.refuse(*self.common("--ctx", 64, "--exclude", self.folder / "eval.h5"), says="another tokenizer")


class Shards(PrepareTest):
    def test_shards_together_are_the_store(self) -> None:
        self.prepare("--ctx", 50)
        result = self.prepare("--ctx", 50, "--shard-tokens", 320, out="shards")
        names = sorted(path.name for path in (self.folder / "shards").iterdir())
        self.assertEqual(names, [f"{i:05d}.h5" for i in range(result["shards"])])
        self.assertGreater(len(names), 2)
        parts = [self.tokens(f"shards/{name}") for name in names]
        self.assertTrue(all(part.size == 300 for part in parts[:-1]))
        numpy.testing.assert_array_equal(numpy.concatenate(parts), self.tokens())
        self.refuse(*self.common("--ctx", 50, "--shard-tokens", 320, out="shards"), says="is a folder already")

    def test_resumed_for_other_sequences_of_the_same_text(self) -> None:
        flags = ("--ctx", 50, "--sequences", 7, "--sampling", "unbiased")
        expected = self.prepare(*flags, out="fresh.h5")
        self.refuse(*self.common("--ctx", 10**6, "--sequences", 1, "--sampling", "biased"), says="the longest has")
        tokens = self.folder / "out.h5.preparing" / "tokens.bin"
        before = tokens.stat()
        with mock.patch.object(prepare_data.TokenWork, "append", side_effect=AssertionError("tokenised again")):
            self.assertEqual(self.prepare(*flags, "--resume"), expected)
        self.assertEqual(before.st_size, 4 * expected["tokens_read"])
        self.assertFalse(tokens.parent.exists())

    def test_not_resumed_with_a_file_that_changed(self) -> None:
        too_long = ("--ctx", 10**6)
        self.refuse(*self.common(*too_long), says="gives no sequence")
        before = self.lines.stat()
        self.lines.write_text(self.lines.read_text().replace("model", "label"))
        os.utime(self.lines, ns=(before.st_atime_ns, before.st_mtime_ns + 1000))
        self.assertEqual(self.lines.stat().st_size, before.st_size)
        self.refuse(*self.common(*too_long, "--resume"), says="was begun with files [['documents.jsonl'")
        os.utime(self.lines, ns=(before.st_atime_ns, before.st_mtime_ns))
        self.refuse(*self.common(*too_long, "--resume"), says="gives no sequence")

    def test_a_second_run_on_the_same_output_is_refused(self) -> None:
        flags = ("--ctx", 50, "--shard-tokens", 320)
        expected = self.prepare(*flags, out="alone")
        write = prepare_data.write

        def with_others(*arguments: Any) -> Any:
            for resume in ((), ("--resume",)):
                done = self.start(*self.common(*flags, *resume, out="both"))
                self.assertEqual(done.returncode, 2)
                self.assertEqual(done.stderr.splitlines()[-1], f"prepare_data.py: {self.folder / 'both'}: another run"
                                 " is preparing it: wait for it or choose another --out")
            return write(*arguments)

        with mock.patch.object(prepare_data, "write", with_others):
            self.assertEqual(self.prepare(*flags, out="both"), expected)
        self.refuse(*self.common("--ctx", 10**6, out="both.h5"), says="gives no sequence")
        self.assertEqual(sorted(path.name for path in self.folder.glob("both*")), ["both", "both.h5.preparing"])

    def test_killed_and_resumed_gives_the_same(self) -> None:
        source = self.folder / "many.jsonl"
        with open(source, "w") as file:
            for seed in range(1500):
                file.write(json.dumps({"text": text_of(seed, 400)}) + "\n")
        flags = ("--from", source, "--ctx", 128, "--sampling", "biased", "--sequences", 300)
        expected = self.prepare(*flags, out="whole.h5")
        command = [sys.executable, str(ROOT / "scripts" / "prepare_data.py"), *map(str, self.common(*flags)[1:])]
        state = self.folder / "out.h5.preparing" / "state.json"
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 120
            while process.poll() is None and time.monotonic() < deadline:
                with contextlib.suppress(FileNotFoundError):
                    if json.loads(state.read_text())["pieces"] > 0:
                        break
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
        self.assertIn(process.returncode, (0, -signal.SIGKILL))
        if not state.exists() or json.loads(state.read_text())["complete"]:
            self.skipTest("a fast machine")
        state.with_name("state.json.partial").unlink(missing_ok=True)
        self.assertFalse((self.folder / "out.h5").exists())
        with open(state.parent / "tokens.bin", "ab") as file:
            file.write(b"half a batch")  # written, but not yet in the state
        self.refuse(*self.common(*flags, "--resume", "--join", "x"), says="was begun with join None")
        resumed = self.prepare(*flags, "--resume")
        self.assertEqual(resumed, expected)
        self.assertFalse(state.parent.exists())


class Names(unittest.TestCase):
    def test_every_way_of_sampling_is_described(self) -> None:
        guide = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
        for name in sampling.NAMES:
            self.assertIn(f"`{name}`", guide)


if __name__ == "__main__":
    unittest.main()
