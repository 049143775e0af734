"""gpu-check against a bundle of programs for the emulated device and stand-ins for NVIDIA's: what it records, what it
tells, and what it makes of programs that fail, hang or are not there."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import unittest
from pathlib import Path
from typing import Any, Optional

from support import ROOT, ProgramTest

EMULATED = ROOT / "build" / "release" / "emulated" / "tests" / "cuda"
QUICK = ("select_largest_test", "sum_of_squares_test")
NVIDIA_SMI = """\
#!/bin/bash
[[ " $* " == *" -lms "* ]] && { printf '1700\\n1800\\n'; exec sleep 600; }
echo "NVIDIA Test GPU 80GB, 580.1, 9.0, 81559, 345, 2619, 1980, 2619, 700.00, [N/A]"
"""
SANITIZER = """\
#!/bin/bash
while [[ $1 == --* ]]; do
    [[ $1 == --tool ]] && tool=$2
    [[ $1 == --kernel-name ]] && kernels=$2
    shift 2
done
echo "$tool ${kernels-of any name}" >>"$1.kernels"
if [[ $tool == racecheck ]]; then
    echo "========= Error: race in $(basename "$1")"
    echo "========= RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)"
    exit 97
fi
"$@"
echo "========= ERROR SUMMARY: 0 errors"
"""
PASSING = """\
#!/bin/bash
for word; do
    [[ $word == --gtest_output=json:* ]] && report=${word#--gtest_output=json:}
    [[ $word == --gtest_filter=* ]] && echo "$word" >>"$0.filters"
done
echo '{"testsuites": [{"testsuite": [{"classname": "CudaRope", "name": "Works", "result": "COMPLETED"}]}]}' >"$report"
"""
NONE_RAN = PASSING.replace('{"classname": "CudaRope", "name": "Works", "result": "COMPLETED"}', "")
PVTUNE = """\
#!/bin/bash
echo "words for a person"
[[ " $* " == *" --device cuda "* ]] || exit 3
echo "$*" >>"$0.commands"
out() {
    while (($#)); do
        [[ $1 == --out ]] && touch "$2"
        [[ $1 == --log ]] && cp "${0%/*}/run.jsonl" "$2"
        shift
    done
}
case $1 in
    bench) [[ $* == *7b* ]] && { echo "out of memory" >&2; exit 2; }
        cat "${0%/*}/bench.json" ;;
    eval) echo '{"perplexity": 24.1, "tokens_per_second": 12345.6}' ;;
    import) out "$@"; echo '{}' ;;
    quantize) out "$@"; echo '{"weights": 1}' ;;
    tune) if [[ " $* " == *" --dry-run "* ]]; then
            echo '{"memory": {"codes": 262144, "straight-through buffers": 2097152, "logits": 5}, "memory_bytes": 2359301}'
            exit
        fi
        out "$@"; echo '{"seconds_per_step": 0.5}' ;;
esac
"""
BENCH = {"pvtune_bench": 1, "precision": "bf16",
         "limits": {"copy_bytes_per_second": 3e12, "gemm_flops_per_second": 7e14},
         "entries": [{"op": "rope", "version": "", "seconds": 2e-4, "bytes_per_second": 2.4e12, "flops_per_second": 0,
                      "share": 0.8, "limit": "copy"},
                     {"op": "loss", "version": "plain", "skipped": "too large"}]}
# Two steps to warm up, then two.
RUN_LOG = [{"seconds": seconds, "tokens_per_second": 256 / seconds, "teacher_seconds": 0.1, "forward_seconds": 0.1,
            "loss_seconds": 0.05, "backward_seconds": 0.2, "p_seconds": 0.02, "v_seconds": 0.04}
           for seconds in (9.0, 5.0, 0.5, 0.5)]
TINY = {"model_type": "llama", "hidden_act": "silu", "vocab_size": 1024, "hidden_size": 256, "intermediate_size": 512,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True}
# 2 blocks of 2 * 256^2 + 2 * 256 * 128 + 3 * 256 * 512.
TINY_WEIGHTS = 1179648
PYTHON_WITH_TORCH = """\
#!/bin/bash
[[ $1 == -c ]] && exit 0
echo "$*" >>"$0.commands"
echo "{\\"torch\\": \\"9.9\\", \\"measurements\\": [{\\"seconds\\": [0.7, 0.65, 0.6], \\"compiled\\": true, \\"peak_bytes\\": 4096}]}"
"""
FAILING = """\
#!/bin/bash
report=${1#--gtest_output=json:}
cat >"$report" <<END
{"testsuites": [{"testsuite": [
    {"classname": "CudaRope", "name": "Works", "result": "COMPLETED"},
    {"classname": "CudaRope", "name": "Breaks", "result": "COMPLETED", "failures": [{"failure": "no"}]}]}]}
END
echo "expected 1, got 2"
exit 1
"""


class GpuCheckTest(ProgramTest):
    def setUp(self) -> None:
        super().setUp()
        self.bundle = self.folder / "bundle"
        for name in ("bin", "lib", "baseline", "data", "path"):
            (self.bundle / name).mkdir(parents=True)
        manifest = {"commit": "0123456789abcdef", "uncommitted_changes": False, "built": "today",
                    "cublas": "libcublasLt.so.13"}
        (self.bundle / "manifest.json").write_text(json.dumps(manifest))
        (self.bundle / "lib" / "libcublasLt.so.13").touch()
        self.write("path/nvidia-smi", NVIDIA_SMI)

    def write(self, name: str, text: str) -> None:
        path = self.bundle / name
        path.write_text(text)
        path.chmod(0o755)

    def carry(self, *names: str) -> None:
        for name in names:
            program = EMULATED / name
            if not program.exists():
                self.skipTest(f"{program.relative_to(ROOT)} is not built")
            shutil.copy(program, self.bundle / "bin" / name)

    def carry_pvtune(self) -> None:
        self.write("bin/pvtune", PVTUNE)
        self.write("bin/bench.json", json.dumps(BENCH) + "\n")
        self.write("bin/run.jsonl", "".join(json.dumps(line) + "\n" for line in RUN_LOG))

    def training(self, *arguments: object) -> list[object]:
        """A check of the training step alone, on a tiny shape."""
        self.carry_pvtune()
        shutil.copy(ROOT / "scripts" / "random_model.py", self.bundle)
        shutil.copytree(ROOT / "scripts" / "lib", self.bundle / "lib", dirs_exist_ok=True)
        (self.folder / "tiny.json").write_text(json.dumps(TINY))
        return ["--steps", *arguments, "--training-model", "tiny.json", "--training-steps", 4, "--training-batch", 2,
                "--training-ctx", 128, "--work", "work"]

    def figures(self) -> dict[str, Any]:
        return self.unit("training", "figures")["result"]

    def command(self, *arguments: object) -> list[str]:
        return [sys.executable, str(ROOT / "scripts" / "gpu_check.py"), "--bundle", str(self.bundle),
                "--out", str(self.folder / "gpu.json"), *map(str, arguments)]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PATH": f"{self.bundle / 'path'}:/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}

    def check(self, *arguments: object, status: int = 0) -> str:
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, env=self.environment(),
                              cwd=self.folder, timeout=300, check=False)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        self.assertNotIn("Traceback", done.stderr)
        return done.stdout + done.stderr

    def record(self) -> dict[str, Any]:
        return json.loads((self.folder / "gpu.json").read_text(encoding="utf-8"))

    def unit(self, step: str, name: Optional[str] = None) -> dict[str, Any]:
        units = self.record()["steps"][step]["units"]
        return units[name] if name else next(iter(units.values()))

    def test_kernels_on_the_emulated_device(self) -> None:
        self.carry("wrappers_test", *QUICK)
        said = self.check("--steps", "conformance", "kernels")
        self.assertIn("all tests passed", said)
        self.assertEqual(self.record()["device"], {
            "name": "NVIDIA Test GPU 80GB", "driver": "580.1", "compute_capability": "9.0", "memory_mib": 81559,
            "clock_sm_mhz": 345, "clock_memory_mhz": 2619, "clock_sm_most_mhz": 1980, "clock_memory_most_mhz": 2619,
            "power_limit_watts": 700.0, "ecc": None})
        self.assertEqual(self.record()["commit"], "0123456789abcdef")
        self.assertEqual(sorted(self.record()["steps"]["kernels"]["units"]), sorted(QUICK))
        for name in QUICK:
            unit = self.unit("kernels", name)
            self.assertEqual((unit["outcome"], unit["failed"], unit["failures"]), ("passed", 0, []))
            self.assertGreater(unit["passed"], 0)
        self.assertGreater(self.unit("conformance")["passed"], 5)
        self.assertRegex(said, r"\[2/3, \d+:\d\d, \d+:\d\d to go\] \w+: \d+ passed, 0 failed")

    def test_a_test_that_fails_is_named_and_the_rest_still_runs(self) -> None:
        self.write("bin/rope_test", FAILING)
        self.write("bin/crash_test", "#!/bin/bash\nkill -SEGV $$\n")
        self.write("bin/wrappers_test", "#!/bin/bash\nexit 0\n")  # no report
        said = self.check("--steps", "conformance", "kernels", "parity", status=1)
        self.assertIn("FAILED CudaRope.Breaks", said)
        self.assertIn("FAILED kernels: ", said)
        self.assertIn("FAILED parity: tune_test not run", said)
        rope = self.unit("kernels", "rope_test")
        self.assertEqual((rope["passed"], rope["failed"], rope["failures"]), (1, 1, ["CudaRope.Breaks"]))
        self.assertIn("expected 1, got 2", rope["output"])
        self.assertEqual(self.unit("kernels", "crash_test")["reason"], "ended by SIGSEGV")
        self.assertEqual(self.unit("conformance")["outcome"], "failed")

    def test_sanitizers(self) -> None:
        for name in ("wrappers_test", "rope_test"):
            self.write(f"bin/{name}", PASSING)
        self.write("path/compute-sanitizer", SANITIZER)
        said = self.check("--steps", "sanitizer", status=1)
        self.assertIn("FAILED sanitizer: racecheck", said)
        unit = self.unit("sanitizer", "memcheck rope_test")
        self.assertEqual((unit["outcome"], unit["errors"], unit["cases"]), ("passed", 0, 1))
        filters = (self.bundle / "bin" / "rope_test.filters").read_text().splitlines()
        self.assertEqual(set(filters), {"--gtest_filter=-*AtScale"})
        kernels = (self.bundle / "bin" / "rope_test.kernels").read_text().splitlines()
        self.assertEqual(set(kernels), {"memcheck of any name", "racecheck kns=pvtune", "synccheck of any name"})
        raced = self.unit("sanitizer", "racecheck rope_test")
        self.assertEqual((raced["outcome"], raced["errors"]), ("failed", 2))
        self.assertIn("race in rope_test", raced["said"])
        self.assertEqual(len(self.record()["steps"]["sanitizer"]["units"]), 6)

    def test_a_program_of_which_no_test_ran_has_failed(self) -> None:
        self.write("bin/wrappers_test", NONE_RAN)
        self.write("path/compute-sanitizer", SANITIZER)
        self.check("--steps", "conformance", "sanitizer", status=1)
        for unit in (self.unit("conformance"), self.unit("sanitizer", "memcheck wrappers_test")):
            self.assertEqual((unit["outcome"], unit["reason"]), ("failed", "no test ran"))

    def test_what_is_missing_is_recorded_and_fails_nothing(self) -> None:
        said = self.check("--steps", "sanitizer", "demo", "bench", "pytorch")
        for step in ("sanitizer", "demo"):
            self.assertEqual(self.record()["steps"][step]["outcome"], "not run")
        if not list(Path("/usr/local").glob("cuda*/**/compute-sanitizer")):
            self.assertIn("compute-sanitizer is not on this machine", said)
        self.assertIn("data lacks model.h5, quantized.h5, tune.h5, eval.h5", said)
        self.assertIn("bin/pvtune is not in the bundle", said)

    def test_the_demo_and_the_benchmark(self) -> None:
        self.carry_pvtune()
        for name in ("model", "quantized", "tune", "eval"):
            (self.bundle / "data" / f"{name}.h5").touch()
        self.check("--steps", "demo", "bench")
        self.assertEqual(self.unit("demo", "tuned")["result"]["perplexity"], 24.1)
        self.assertEqual(self.unit("demo", "tuning")["result"], {"seconds_per_step": 0.5})
        self.assertAlmostEqual(self.unit("demo", "tuning")["log"]["v_step_share"], 0.08)
        self.assertEqual(self.unit("demo", "tuning")["log"]["phase_seconds"]["backward"], 0.2)
        self.assertEqual(self.record()["steps"]["demo"]["clock_sm_mhz"]["highest"], 1800)
        self.assertEqual(self.unit("bench", "1b")["result"], BENCH)
        self.assertIn("out of memory", self.unit("bench", "7b")["output"])

    def test_the_training_step_beside_pytorch(self) -> None:
        self.write("path/python3", PYTHON_WITH_TORCH)
        self.check(*self.training("bench", "training"))
        figures = self.figures()
        self.assertEqual(figures["missing"], {})
        self.assertEqual((figures["seconds_per_step"], figures["tokens_per_second"]), (0.5, 512))
        self.assertEqual((figures["steps_counted"], figures["tokens_per_step"]), (2, 256))
        self.assertEqual(figures["quantized_weights"], TINY_WEIGHTS)
        flops = 8 * (TINY_WEIGHTS + 1024 * 256) * 256
        self.assertEqual(figures["model_flops_per_step"], flops)
        self.assertEqual(figures["gemm_share"], flops / 0.5 / BENCH["limits"]["gemm_flops_per_second"])
        self.assertAlmostEqual(figures["v_step_share"], 0.08)
        self.assertEqual(figures["state_bytes_per_weight"], 2.0)
        self.assertEqual(figures["peak_device_bytes"], 1800 * 2**20)
        self.assertEqual((figures["pytorch_seconds_per_step"], figures["pytorch_ratio"]), (0.65, 1.3))
        self.assertEqual({name: goal["met"] for name, goal in figures["goals"].items()},
                         {"gemm_share": False, "pytorch_ratio": False, "v_step_share": False, "state_bytes_per_weight": True})
        commands = (self.bundle / "bin" / "pvtune.commands").read_text()
        self.assertNotIn("--op", commands)  # the rate is the benchmark's own
        self.assertIn("--batch 2 --ctx 128 --steps 4", commands)
        self.assertIn("--batch 2 --ctx 128", (self.bundle / "path" / "python3.commands").read_text())
        self.assertFalse((self.folder / "work" / "hf").exists())

    def test_the_training_step_without_pytorch(self) -> None:
        self.write("path/python3", "#!/bin/bash\nexit 1\n")
        self.check(*self.training("training"))
        figures = self.figures()
        why = "no PyTorch with CUDA here"
        self.assertEqual(figures["missing"], dict.fromkeys(("pytorch_seconds_per_step", "pytorch_peak_bytes", "pytorch_ratio"), why))
        self.assertIsNone(figures["goals"]["pytorch_ratio"]["met"])
        self.assertIn("--op rmsnorm_forward", (self.bundle / "bin" / "pvtune.commands").read_text())
        self.assertTrue(self.unit("training", "model")["made"])
        self.check(*self.training("training"))
        self.assertFalse(self.unit("training", "model")["made"])

    def test_a_training_step_that_fails_leaves_the_reasons(self) -> None:
        self.write("path/python3", PYTHON_WITH_TORCH.replace('echo "{', 'echo "CUDA out of memory" >&2; exit 2; echo "{'))
        arguments = self.training("training")
        self.write("bin/pvtune", PVTUNE.replace("tune) if", 'tune) echo "needs 80 GiB" >&2; exit 2; if')
                   .replace("bench) ", "bench) exit 2; "))
        self.check(*arguments)
        figures = self.figures()
        self.assertEqual(figures["missing"]["seconds_per_step"], "exit status 2")
        self.assertEqual(figures["missing"]["gemm_flops_per_second"], "GEMM rate: exit status 2")
        self.assertEqual(figures["missing"]["pytorch_seconds_per_step"], "PyTorch's step failed: CUDA out of memory")
        self.assertIn("needs 80 GiB", self.unit("training", "tuning")["output"])
        self.assertEqual({goal["met"] for goal in figures["goals"].values()}, {None})

    def test_a_record_is_added_to(self) -> None:
        self.carry_pvtune()
        self.check("--steps", "bench")
        self.check("--steps", "sanitizer")
        self.assertEqual(set(self.record()["steps"]), {"bench", "sanitizer"})

    def test_the_time_given(self) -> None:
        self.write("bin/wrappers_test", "#!/bin/bash\nexec sleep 600\n")
        self.write("bin/rope_test", "#!/bin/bash\nexit 0\n")
        self.check("--steps", "conformance", "kernels", "--minutes", "0.1", status=1)
        self.assertRegex(self.unit("conformance")["reason"], r"stopped after \d+ s")
        self.assertEqual(self.unit("kernels")["reason"], "the time of --minutes is over")

    def test_an_interrupted_check_leaves_what_it_had(self) -> None:
        self.carry_pvtune()
        self.write("bin/wrappers_test", "#!/bin/bash\nsleep 60 & echo $! >\"${0%/*}/sleeper\"; wait\n")
        sleeper = self.bundle / "bin" / "sleeper"
        with subprocess.Popen(self.command("--steps", "conformance", "kernels"), env=self.environment(),
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as check:
            deadline = time.monotonic() + 60
            while not (sleeper.exists() and sleeper.read_text()) and time.monotonic() < deadline:
                time.sleep(0.02)
            check.send_signal(signal.SIGTERM)
            self.assertEqual(check.wait(timeout=60), 130)
            self.assertEqual(check.stderr.read(), "gpu_check.py: interrupted\n")
        self.assertEqual(self.record()["steps"].keys(), set())
        state = Path(f"/proc/{sleeper.read_text().strip()}/stat")
        deadline = time.monotonic() + 60
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # gone
            while state.read_text().split()[2] != "Z":  # dead and not yet waited for
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.02)

    def test_no_device(self) -> None:
        (self.bundle / "path" / "nvidia-smi").unlink()
        if shutil.which("nvidia-smi", path="/usr/bin:/bin"):
            self.skipTest("this machine has nvidia-smi")
        said = self.check(status=2)
        self.assertEqual(len(said.splitlines()), 1, said)
        self.assertIn("no CUDA device here (nvidia-smi is not installed)", said)
        self.assertFalse((self.folder / "gpu.json").exists())

    def test_a_driver_without_a_device(self) -> None:
        self.write("path/nvidia-smi", "#!/bin/bash\necho 'No devices were found'\nexit 6\n")
        self.assertIn("no CUDA device here (nvidia-smi: No devices were found)", self.check(status=2))

    def test_a_folder_that_is_no_bundle(self) -> None:
        (self.bundle / "manifest.json").unlink()
        self.assertIn("run `make gpu-bundle`", self.check(status=2))

    def test_the_tables(self) -> None:
        self.carry_pvtune()
        self.write("bin/wrappers_test", FAILING)
        for name in ("model", "quantized", "tune", "eval"):
            (self.bundle / "data" / f"{name}.h5").touch()
        self.check("--steps", "conformance", "demo", "bench", status=1)
        (self.folder / "results").mkdir()
        shutil.copy(self.folder / "gpu.json", self.folder / "results" / "gpu-test.json")
        page = self.folder / "results.md"
        page.write_text("# Results\n\n## On GPUs\n\nnot yet measured\n\n## More\n\nwords\n")
        self.succeed("gpu_table.py", "--page", page)
        text = page.read_text()
        self.assertNotIn("not yet measured", text)
        self.assertTrue(text.startswith("# Results\n\n## On GPUs\n\n### NVIDIA Test GPU 80GB\n"), text)
        self.assertTrue(text.endswith("\n\n## More\n\nwords\n"), text)
        self.assertIn("| wrappers | failed | 1 | 1 | 1 |", text)
        self.assertIn("| tuned | 24.10 | 12,346 |", text)
        self.assertIn("| rope | 0.200 | 2,400 | 0.0 | 80 % | copy |", text)
        self.assertIn("| loss (plain): too large |", text)
        self.assertIn("Limits in this run: copy 3,000 GB/s, GEMM 700 TFLOP/s.", text)
        self.assertIn("[gpu-test.json](results/gpu-test.json)", text)
        self.succeed("gpu_table.py", "--page", page)
        self.assertEqual(page.read_text(), text)

    def test_the_table_of_the_training_step(self) -> None:
        self.write("path/python3", PYTHON_WITH_TORCH)
        self.check(*self.training("bench", "training"))
        (self.folder / "results").mkdir()
        page = self.folder / "results.md"

        def text() -> str:
            shutil.copy(self.folder / "gpu.json", self.folder / "results" / "gpu-test.json")
            page.write_text("## On GPUs\n")
            self.succeed("gpu_table.py", "--page", page)
            return page.read_text()

        said = text()
        for row in ("| step | 500 ms |  |  |", "| share of the GEMM rate | 0.0 % | at least 50.0 % | **missed** |",
                    "| PyTorch's step to ours | 1.30x | at least 1.50x | **missed** |",
                    "| V step's share of the step | 8.0 % | at most 5.0 % | **missed** |",
                    "| bytes a quantised weight, one block's memory aside | 2.00 | at most 3.00 | met |",
                    "| most device memory in use | 1.8 GiB |  |  |"):
            self.assertIn(row, said)
        self.assertIn("student forward and backward 6, teacher 2", said)
        self.assertIn("backward 200.0 ms", said)
        self.write("path/python3", "#!/bin/bash\nexit 1\n")
        self.check(*self.training("training"))
        self.assertIn("| PyTorch's step to ours | none: no PyTorch with CUDA here | at least 1.50x | not measured |", text())

    def test_the_page_shows_what_was_recorded_and_nothing_else(self) -> None:
        shutil.copy(ROOT / "docs" / "results.md", self.folder)
        shutil.copytree(ROOT / "docs" / "results", self.folder / "results")
        self.succeed("gpu_table.py", "--page", self.folder / "results.md")
        self.assertEqual((self.folder / "results.md").read_text(), (ROOT / "docs" / "results.md").read_text())


if __name__ == "__main__":
    unittest.main()
