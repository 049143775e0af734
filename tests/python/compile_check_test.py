"""Every kernel compiles for a device, without a warning and without spilled registers, where nvcc is."""

import shutil
import subprocess
import sys
import unittest

from support import ROOT, ProgramTest

SOURCES = sorted(path.relative_to(ROOT) for folder in ("cuda", "tests/cuda") for path in (ROOT / folder).glob("*.cu"))


@unittest.skipUnless(shutil.which("nvcc"), "no nvcc on PATH")
class CompileCheckTest(unittest.TestCase):
    """One case a file: made below."""

    def compile(self, source: str) -> None:
        target = f"build/nvcc/sm_90/{source.removesuffix('.cu')}.o"
        done = subprocess.run(["make", "-s", target], cwd=ROOT, capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        if "__global__" not in (ROOT / source).read_text(encoding="utf-8"):
            return  # calls CUB's kernels alone, which are not in the table
        log = (ROOT / target).with_suffix(".ptxas")
        table = subprocess.run([sys.executable, ROOT / "scripts" / "ptxas_table.py", "--folder",
                                ROOT / "build/nvcc/sm_90", log], capture_output=True, text=True, check=False)
        self.assertEqual(table.returncode, 0, table.stderr)
        self.assertIn(source, table.stdout)


def _case(source: str):
    return lambda self: self.compile(source)


for _source in SOURCES:
    setattr(CompileCheckTest, f"test_{_source.stem}", _case(str(_source)))


LOG = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN6pvtune4cuda12_GLOBAL__N_110add_kernelIfEEvPT_' for 'sm_90'
ptxas info    : Function properties for _ZN6pvtune4cuda12_GLOBAL__N_110add_kernelIfEEvPT_
    16 bytes stack frame, {spills} bytes spill stores, 0 bytes spill loads
ptxas info    : Used 24 registers, used 1 barriers, 16 bytes cumulative stack size, 4096 bytes smem
"""


class PtxasTableTest(ProgramTest):
    def test_figures(self) -> None:
        (self.folder / "add.ptxas").write_text(LOG.format(spills=0))
        text = self.succeed("ptxas_table.py", "--folder", self.folder, self.folder / "add.ptxas")
        self.assertIn("| add.cu | add_kernel | sm_90 | 1 | 24 | 4096 | 16 | 0 |", text)

    def test_a_spill_fails(self) -> None:
        (self.folder / "add.ptxas").write_text(LOG.format(spills=8))
        done = self.start("ptxas_table.py", "--folder", self.folder, "--out", "t.md", self.folder / "add.ptxas")
        self.assertEqual(done.returncode, 1)
        self.assertIn("add.cu: add_kernel<float> spills 8 bytes on sm_90", done.stderr)
        self.assertTrue((self.folder / "t.md").exists())

    def test_a_log_without_kernels(self) -> None:
        (self.folder / "none.ptxas").write_text("nothing\n")
        self.refuse("ptxas_table.py", "--folder", self.folder, self.folder / "none.ptxas", says="no kernel")


if __name__ == "__main__":
    unittest.main()
