"""The build: objects follow their compiler and its flags, and a program says so where the CPU lacks what it was built for."""

import shutil
import subprocess
import unittest
from pathlib import Path

from support import ROOT, ProgramTest

# The compiler's name and that of /proc/cpuinfo; no CPU has all of them.
INSTRUCTIONS = {"fma4": "fma4", "avx512f": "avx512f", "avx512bf16": "avx512_bf16"}


class BuildTest(ProgramTest):
    """In folders of their own, with the real Makefile."""

    def test_objects_follow_the_flags(self) -> None:
        shutil.copy(ROOT / "Makefile", self.folder)
        source = self.folder / "host" / "one.cpp"
        source.parent.mkdir()
        source.write_text("int one() { return 1; }\n", encoding="utf-8")

        def compiled(*flags: str) -> bool:
            done = subprocess.run(["make", "build/release/host/one.o", *flags], cwd=self.folder, capture_output=True, text=True,
                                  check=True)
            return "c++" in done.stdout

        self.assertTrue(compiled())
        self.assertFalse(compiled())
        self.assertTrue(compiled("CXXFLAGS.release=-O0"))
        self.assertFalse(compiled("CXXFLAGS.release=-O0"))
        self.assertTrue(compiled())

    def test_a_lesser_cpu_gets_a_line(self) -> None:
        held = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
        lacking = next((flag for flag, name in INSTRUCTIONS.items() if name not in held), None)
        if "flags" not in held or lacking is None:
            self.skipTest("not an x86, or one with all instructions")
        source = self.folder / "program.cpp"
        source.write_text("int main() { return 0; }\n", encoding="utf-8")

        def status_and_words(*flags: str) -> tuple[int, str]:
            program = self.folder / "program"
            subprocess.run(["g++", *flags, "-o", program, source, ROOT / "host" / "built_for.cpp"], check=True)
            done = subprocess.run([program], capture_output=True, text=True, check=False)
            return done.returncode, done.stderr

        self.assertEqual(status_and_words("-march=native"), (0, ""))
        status, words = status_and_words("-m" + lacking)
        self.assertEqual(status, 2)
        self.assertRegex(words, rf"^pvtune: built for a CPU with {lacking}, which this one lacks: run `make build`.*\n$")


if __name__ == "__main__":
    unittest.main()
