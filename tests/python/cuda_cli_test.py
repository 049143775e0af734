"""`pvtune --device cuda` as a user runs it, on the emulated device: every command against the CPU's results, and every
trouble with a device that must be told in one line."""

import json
import os
import subprocess
import unittest
from pathlib import Path
from typing import Any

import cli_test
from cli_test import CONFIG, ROOT, CommandLine, tensors, write_folder

EMULATED = os.environ.get("PVTUNE_EMULATED", str(ROOT / "build" / "release" / "emulated" / "pvtune"))
TUNE = ("--ctx", 16, "--batch", 2, "--lr", 0.003, "--code-lr", 0.3, "--tau", 1, "--threads", 1, "--steps", 2)


def run_cuda(*arguments: Any, **environment: Any) -> subprocess.CompletedProcess:
    """A command on the emulated device."""
    command = [EMULATED, arguments[0], "--device", "cuda", *map(str, arguments[1:])]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False,
                          env={**os.environ, **{name: str(value) for name, value in environment.items()}})


class CudaTest(CommandLine):
    """A quantised model, its teacher and a text."""

    def tune_arguments(self, out: Path) -> list[Any]:
        return ["tune", "--model", self.quantized, "--teacher", self.model, "--tokens", self.tokens, "--out", out,
                *TUNE]

    def refuse_cuda(self, *arguments: Any, says: str, **environment: Any) -> None:
        """One line, exit status 2, nothing half-written."""
        done = run_cuda(*arguments, **environment)
        self.assertEqual(done.returncode, 2, done.stderr)
        lines = [line for line in done.stderr.splitlines() if line.startswith("pvtune: ")]
        self.assertIn(says, lines[-1])
        self.assertEqual(list(self.here.rglob("*.partial")), [])


class Commands(CudaTest):
    def both(self, *arguments: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        return self.result(cli_test.run(*arguments, "--json")), self.result(run_cuda(*arguments, "--json"))

    def test_eval_agrees_with_the_cpu(self) -> None:
        for model in (self.model, self.quantized):
            for precision, places in (("f32", 4), ("bf16", 1)):
                cpu, cuda = self.both("eval", "--model", model, "--tokens", self.tokens, "--ctx", 16, "--windows", 2,
                                      "--precision", precision)
                self.assertEqual(cpu["tokens"], cuda["tokens"])
                self.assertAlmostEqual(cuda["nll"], cpu["nll"], places=places)

    def test_tune_agrees_with_the_cpu(self) -> None:
        outs = [self.here / "cpu.h5", self.here / "cuda.h5"]
        cpu = self.result(cli_test.run(*self.tune_arguments(outs[0]), "--json"))
        cuda = self.result(run_cuda(*self.tune_arguments(outs[1]), "--json"))
        self.assertAlmostEqual(cuda["loss"] / cpu["loss"], 1, places=3)
        self.assertGreater(cuda["codes_changed"], 0)
        offloaded = self.here / "offloaded.h5"
        again = self.result(run_cuda(*self.tune_arguments(offloaded), "--offload", "all", "--activations", "recompute",
                                     "--json"))
        self.assertEqual(again["content_hash"], cuda["content_hash"])
        nll = [self.result(cli_test.run("eval", "--model", out, "--tokens", self.tokens, "--ctx", 16, "--windows", 2,
                                        "--json"))["nll"] for out in outs]
        self.assertAlmostEqual(nll[0], nll[1], places=2)

    def test_generate_agrees_with_the_cpu(self) -> None:
        cpu, cuda = self.both("generate", "--model", self.quantized, "--tokenizer", self.tokenizer, "--prompt",
                              "w5 w6 w7", "--max-tokens", 6)
        self.assertEqual(cpu["text"], cuda["text"])

    def test_calibration_agrees_with_the_cpu(self) -> None:
        for representation in (("aqlm", "--code-bits", 4), ("scalar", "--code-bits", 3), ("quip", "--code-bits", 3)):
            with self.subTest(representation[0]):
                cpu, cuda = self.both("quantize", "--model", self.model, "--representation", *representation,
                                      "--calibrate", self.tokens, "--sequences", 4, "--ctx", 16, "--block-epochs", 1,
                                      "--block-batch", 2, "--out", self.here / "calibrated.h5")
                # Hessians and sums differ in their last bits, which may turn a code here and there.
                self.assertAlmostEqual(cuda["relative_output_error"] / cpu["relative_output_error"], 1, places=1)
                self.assertAlmostEqual(cuda["relative_mse"] / cpu["relative_mse"], 1, places=1)
                self.assertAlmostEqual(cuda["bits_per_weight"], cpu["bits_per_weight"])

    def test_data_free_codes_agree_with_the_cpus(self) -> None:
        for representation in (("vq", "--codebooks", 1, "--code-bits", 4, "--group", 4), ("aqlm", "--code-bits", 4),
                               ("scalar", "--code-bits", 3), ("quip", "--code-bits", 2)):
            with self.subTest(representation[0]):
                cpu, cuda = self.both("quantize", "--model", self.model, "--representation", *representation, "--out",
                                      self.here / "again.h5")
                self.assertAlmostEqual(cuda["relative_mse"] / cpu["relative_mse"], 1, places=2)
                self.assertAlmostEqual(cuda["bits_per_weight"], cpu["bits_per_weight"])


class Troubles(CudaTest):
    def evaluate(self) -> list[Any]:
        return ["eval", "--model", self.model, "--tokens", self.tokens, "--ctx", 16, "--windows", 1]

    def test_a_quantised_teacher_cannot_be_offloaded(self) -> None:
        arguments = self.tune_arguments(self.here / "t.h5")
        arguments[arguments.index("--teacher") + 1] = self.quantized
        self.refuse_cuda(*arguments, "--offload", "teacher", says="only dense weights can be offloaded")

    def test_beam_beyond_the_devices(self) -> None:
        self.refuse_cuda(*self.tune_arguments(self.here / "t.h5"), "--beam", 9, says="at most 8")

    def test_quip_beyond_the_devices_transforms(self) -> None:
        wide = self.here / "wide.h5"
        folder = write_folder(self.here / "hf", tensors(8, 36864),
                              {**CONFIG, "hidden_size": 8, "intermediate_size": 36864})
        self.result(cli_test.run("import", "--from", folder, "--out", wide, "--json"))
        out = self.here / "q.h5"
        quantize = ("quantize", "--model", wide, "--representation", "quip", "--out", out)
        calibrate = (*quantize, "--calibrate", self.tokens, "--sequences", 2, "--ctx", 16)
        says = "gate_proj.weight' has a side of 36864, the device transforms at most 32768"
        for arguments in (quantize, calibrate, (*calibrate, "--dry-run")):
            self.refuse_cuda(*arguments, says=says)
        self.refuse_cuda(*calibrate, "--dry-run", says=says, PVTUNE_EMULATED_DEVICES=0)
        self.assertEqual([path.name for path in self.here.glob("q.h5*")], [])
        self.result(cli_test.run(*quantize, "--json"))
        evaluate = ("eval", "--model", out, "--tokens", self.tokens, "--ctx", 16, "--windows", 1)
        self.result(cli_test.run(*evaluate, "--json"))
        self.refuse_cuda(*evaluate, says="has a side of 36864, the device transforms at most 32768")

    def test_no_device(self) -> None:
        self.refuse_cuda(*self.evaluate(), says="no CUDA device can be used", PVTUNE_EMULATED_DEVICES=0)

    def test_device_too_old(self) -> None:
        self.refuse_cuda(*self.evaluate(), says="has compute capability 7.5, 8.0 or newer is needed",
                         PVTUNE_EMULATED_CAPABILITY=75)

    def test_plan_does_not_fit(self) -> None:
        self.refuse_cuda(*self.tune_arguments(self.here / "t.h5"), says="available",
                         PVTUNE_EMULATED_MEMORY=(768 << 20) + (64 << 10))

    def test_kernel_fails_in_mid_run(self) -> None:
        out = self.here / "t.h5"
        checkpoint = Path(str(out) + ".checkpoint")
        arguments = [*self.tune_arguments(out), "--checkpoint-every", 1]
        counted = run_cuda(*arguments, "--log", self.here / "log", PVTUNE_EMULATED_FAILING_LAUNCH=10**9)
        self.assertEqual(counted.returncode, 0, counted.stderr)
        self.assertEqual(len((self.here / "log").read_text().splitlines()), 2)
        out.unlink()
        # A launch of the second step, found by halving: before it there is no checkpoint, after it all is done.
        low, high = 0, 2048
        while not checkpoint.exists() and low < high:
            middle = (low + high) // 2
            done = run_cuda(*arguments, PVTUNE_EMULATED_FAILING_LAUNCH=middle)
            if done.returncode == 0:
                high = middle
                out.unlink()
                continue
            low = middle + 1
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertRegex(done.stderr.splitlines()[-1],
                             r"the launch of a kernel: unspecified launch failure \(cuda/\w+\.cuh?:\d+\)")
        self.assertTrue(checkpoint.exists())
        self.assertFalse(out.exists())
        resumed = run_cuda(*arguments, "--resume")
        self.assertEqual(resumed.returncode, 0, resumed.stderr)
        self.assertTrue(out.exists())

    def test_what_waits_in_host_memory_is_no_memory_of_the_device(self) -> None:
        command = ("quantize", "--model", self.model, "--calibrate", self.tokens, "--sequences", 4, "--ctx", 64, "--out",
                   self.here / "q.h5", "--dry-run", "--json")
        cpu, cuda = self.result(cli_test.run(*command)), self.result(run_cuda(*command))
        for name in ("hidden states between blocks", "embedding (f32)", "Hessians of a block as they came (f32)"):
            self.assertIn(name, cpu["memory"])
            self.assertNotIn(name, cuda["memory"])
        self.assertEqual(cpu["host_memory_bytes"], 0)
        self.assertGreaterEqual(cuda["host_memory_bytes"], cpu["memory"]["hidden states between blocks"])

    def test_a_plan_needs_no_device(self) -> None:
        done = run_cuda(*self.tune_arguments(self.here / "t.h5"), "--dry-run", PVTUNE_EMULATED_DEVICES=0)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("codebooks", done.stdout)


if __name__ == "__main__":
    unittest.main()
