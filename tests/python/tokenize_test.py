"""scripts/tokenize.py and scripts/tokenizer_bridge.py."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import unittest
from pathlib import Path

import h5py
import numpy
import tokenizers
from support import ROOT, ProgramTest, vocabulary, write_tokenizer


class TokenizeTest(ProgramTest):
    def setUp(self) -> None:
        super().setUp()
        self.tokenizer = self.folder / "tokenizer.json"
        write_tokenizer(self.tokenizer)
        self.out = self.folder / "tokens.h5"

    def write(self, name: str, data: bytes) -> str:
        (self.folder / name).write_bytes(data)
        return name

    def tokenize(self, *arguments: str) -> numpy.ndarray:
        self.succeed("tokenize.py", "--tokenizer", self.tokenizer, "--out", self.out, "--text", *arguments)
        with h5py.File(self.out) as file:
            return file["/tokens"][:]

    def decode(self, tokens: numpy.ndarray) -> str:
        return tokenizers.Tokenizer.from_file(str(self.tokenizer)).decode(tokens.tolist(), skip_special_tokens=False)

    def test_round_trip_of_several_files(self) -> None:
        first, second = "the cat, Ünïcödé 1234\n\n", "and  the\tend — 日本\n"
        tokens = self.tokenize(self.write("a", first.encode()), self.write("b", second.encode()))
        self.assertEqual(self.decode(tokens), first + second)

    def test_merges_and_special_tokens_are_used(self) -> None:
        tokens = self.tokenize(self.write("a", b" the<|end|>"))
        self.assertEqual(tokens.tolist(), [vocabulary().index("Ġthe"), 0])

    def test_line_ends_become_newlines_unless_kept(self) -> None:
        name = self.write("a", b"a\r\nb\rc\n")
        self.assertEqual(self.decode(self.tokenize(name)), "a\nb\nc\n")
        self.assertEqual(self.decode(self.tokenize(name, "--newlines", "keep")), "a\r\nb\rc\n")

    def test_names_that_are_not_utf_8(self) -> None:
        text, tokenizer, out = (os.fsdecode(os.fsencode(self.folder) + name) for name in (b"/a\xff", b"/b\xfe", b"/c\xfd"))
        shutil.copy(self.tokenizer, tokenizer)
        Path(text).write_text("the end")
        done = subprocess.run([sys.executable, ROOT / "scripts" / "tokenize.py", "--tokenizer", tokenizer, "--text", text,
                               "--out", out], capture_output=True, check=False, timeout=300)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(done.stdout.startswith(os.fsencode(out) + b": "))
        with h5py.File(out) as file:
            self.assertIn("/a\ufffd", file.attrs["command"].decode())
            self.assertEqual(file["/tokens"].attrs["tokenizer"].decode(), "b\ufffd")
        shutil.copy(out, self.out)
        verified = subprocess.run([ROOT / "build" / "pvtune", "inspect", self.out, "--verify"], capture_output=True, text=True,
                                  check=False)
        self.assertEqual(verified.returncode, 0, verified.stderr)

    def test_layout_of_the_store(self) -> None:
        tokens = self.tokenize(self.write("a", b"the end " * 200_000))
        with open(self.out, "rb") as raw:
            self.assertGreaterEqual(raw.read(9)[8], 2)  # superblock with a checksum
        with h5py.File(self.out) as file:
            data = file["/tokens"]
            self.assertEqual(data.dtype, numpy.uint32)
            self.assertEqual(data.shape, tokens.shape)
            self.assertTrue(data.fletcher32)
            self.assertIsNone(data.compression)
            self.assertLessEqual(data.chunks[0] * 4, 1 << 20)
            self.assertEqual(file.attrs["format_version"], 1)
            self.assertEqual(file.attrs["format_version"].dtype, numpy.int64)
            self.assertEqual(file.attrs["kind"], b"tokens")
            self.assertTrue(file.attrs["command"].startswith(b"scripts/tokenize.py --tokenizer"))
            self.assertRegex(file.attrs["content_hash"].decode(), "^[0-9a-f]{32}$")
            self.assertEqual(data.attrs["tokenizer"], b"tokenizer.json")
            digest = hashlib.sha256(self.tokenizer.read_bytes()).hexdigest()
            self.assertEqual(data.attrs["tokenizer_hash"].decode(), digest)
            self.assertEqual(data.attrs["vocabulary"], len(vocabulary()))

    def test_content_hash_depends_on_content_alone(self) -> None:
        def content_hash() -> bytes:
            with h5py.File(self.out) as file:
                return file.attrs["content_hash"]

        self.tokenize(self.write("a", b"the end"))
        first = content_hash()
        self.tokenize(self.write("b", b"the end"))
        self.assertEqual(content_hash(), first)
        self.tokenize(self.write("b", b"the End"))
        self.assertNotEqual(content_hash(), first)

    def test_json_result(self) -> None:
        name = self.write("a", b"the")
        out = self.succeed("tokenize.py", "--tokenizer", self.tokenizer, "--out", self.out, "--text", name, "--json")
        self.assertEqual(json.loads(out.splitlines()[-1])["tokens"], 1)

    def test_refusals(self) -> None:
        common = ("tokenize.py", "--out", self.out)
        good = ("--tokenizer", self.tokenizer, "--text")
        self.refuse(*common, *good, "missing.txt", says="missing.txt: no such file")
        self.refuse(*common, *good, self.write("bad", b"good \xff bad"), says="not UTF-8 at byte 5")
        self.refuse(*common, *good, self.write("empty", b""), says="holds no text")
        text = self.write("a", b"text")
        self.refuse(*common, "--tokenizer", "missing.json", "--text", text, says="missing.json: no such file")
        self.refuse(*common, "--tokenizer", self.write("t.json", b"{}"), "--text", text, says="not a tokenizer.json")
        self.assertFalse(self.out.exists())
        self.refuse("tokenize.py", *good, text, "--out", "no/where.h5", says="no such folder")

    def test_no_other_file_is_replaced(self) -> None:
        text = self.write("a", b"text")
        foreign = self.folder / "foreign.h5"
        with h5py.File(foreign, "w") as file:
            file.attrs["kind"] = "tokens of another program"
        for path in (self.folder / text, foreign):
            before = path.read_bytes()
            self.refuse("tokenize.py", "--tokenizer", self.tokenizer, "--out", path, "--text", text,
                        says="no store of 'tokens'")
            # Before any work: not even the tokenizer is looked at.
            self.refuse("tokenize.py", "--tokenizer", "missing.json", "--out", path, "--text", text,
                        says="no store of 'tokens'")
            self.assertEqual(path.read_bytes(), before)

    @unittest.skipUnless(os.path.exists("/dev/full"), "no /dev/full here")
    def test_a_full_disk_leaves_the_old_file(self) -> None:
        self.tokenize(self.write("a", b"the end"))
        before = self.out.read_bytes()
        (self.folder / "tokens.h5.partial").symlink_to("/dev/full")
        self.refuse("tokenize.py", "--tokenizer", self.tokenizer, "--out", self.out, "--text", "a", says="no space left")
        self.assertEqual(self.out.read_bytes(), before)

    def test_wikitext_has_the_published_number_of_tokens(self) -> None:
        tokenizer = ROOT / "out" / "demo" / "hf" / "tokenizer.json"
        text = ROOT.parent / "shared" / "data" / "wikitext2-test.txt"
        if not tokenizer.is_file() or not text.is_file():
            self.skipTest("needs ../shared/data and the tokenizer that `make demo` makes")
        self.tokenizer = tokenizer
        self.assertEqual(self.tokenize(str(text)).size, 301_948)


class BridgeTest(ProgramTest):
    def ask(self, *requests: str) -> list[dict]:
        write_tokenizer(self.folder / "tokenizer.json")
        out = self.succeed("tokenizer_bridge.py", "--tokenizer", "tokenizer.json", stdin="".join(r + "\n" for r in requests))
        return [json.loads(line) for line in out.splitlines()]

    def test_encode_and_decode(self) -> None:
        text = "the \u00fcber-cat\n\u65e5"
        (encoded,) = self.ask(json.dumps({"encode": text}))
        (decoded,) = self.ask(json.dumps({"decode": encoded["tokens"]}))
        self.assertEqual(decoded, {"text": text})

    def test_a_bad_request_is_answered_and_the_next_one_served(self) -> None:
        answers = self.ask("not json", "[]", '{"encode": 1}', '{"decode": [-1]}', '{"decode": ["a"]}', '{"x": 1}',
                           '{"encode": "the"}')
        self.assertEqual([list(answer) for answer in answers], [["error"]] * 6 + [["tokens"]])

    def test_ids_that_the_tokenizer_lacks_are_nothing(self) -> None:
        (encoded,) = self.ask('{"encode": "the"}')
        self.assertEqual(self.ask(json.dumps({"decode": [99999, *encoded["tokens"], 2**32 - 1]})), [{"text": "the"}])

    def test_missing_tokenizer(self) -> None:
        self.refuse("tokenizer_bridge.py", "--tokenizer", "missing.json", says="no such file")


if __name__ == "__main__":
    unittest.main()
