"""What the Python tests share: programs are run as a user runs them, in a folder of their own."""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any, Optional

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "lib"))


class ProgramTest(unittest.TestCase):
    """A test with a scratch folder."""

    def setUp(self) -> None:
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)

    def start(self, program: str, *arguments: object, stdin: Optional[str] = None) -> subprocess.CompletedProcess:
        """Run scripts/<program> with this Python."""
        command = [sys.executable, str(ROOT / "scripts" / program), *map(str, arguments)]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(command, input=stdin, capture_output=True, text=True, env=environment, timeout=300,
                              cwd=self.folder, check=False)

    def succeed(self, program: str, *arguments: object, stdin: Optional[str] = None) -> str:
        """Run it and give its standard output."""
        done = self.start(program, *arguments, stdin=stdin)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def refuse(self, program: str, *arguments: object, says: str) -> None:
        """Run it and expect exit status 2 and one line that holds the words; nothing half-written is left."""
        done = self.start(program, *arguments)
        self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
        last = done.stderr.strip().splitlines()
        self.assertTrue(last and last[-1].startswith(program + ": "), done.stderr)
        self.assertIn(says, last[-1])
        self.assertNotIn("Traceback", done.stderr)
        self.assertEqual(list(self.folder.rglob("*.partial")), [])


def byte_tokens() -> list[str]:
    """The 256 single-byte tokens of byte-level BPE."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(256 - len(printable))]


MERGES = ["t h", "th e", "Ġ the", "\u010a \u010a"]


def vocabulary() -> list[str]:
    """A tiny byte-level vocabulary: two special tokens, all bytes, the merges."""
    return ["<|end|>", "<|start|>", *byte_tokens(), *(merge.replace(" ", "") for merge in MERGES)]


def write_tokenizer(path: Path) -> None:
    """A tokenizer.json with that vocabulary."""
    from gguf_tokenizer import tokenizer_json

    tokens = vocabulary()
    fields: dict[str, Any] = {"model": "gpt2", "pre": "smollm", "tokens": tokens, "merges": MERGES,
                              "token_type": [3, 3] + [1] * (len(tokens) - 2)}
    path.write_text(json.dumps(tokenizer_json(fields)), encoding="utf-8")
