"""scripts/plan_model.py: plans on its files are those on the real ones, and nothing else runs on them."""

import json
import os
import subprocess
import unittest
from typing import Any

import h5py
from support import ROOT, ProgramTest
from tiny_model import config, write_folder

PVTUNE = os.environ.get("PVTUNE", str(ROOT / "build" / "pvtune"))


class PlanModelTest(ProgramTest):
    def pvtune(self, *arguments: object) -> subprocess.CompletedProcess:
        return subprocess.run([PVTUNE, *map(str, arguments), "--json", "--quiet"], cwd=self.folder, capture_output=True,
                              text=True, check=False, timeout=300)

    def result(self, *arguments: object) -> dict[str, Any]:
        done = self.pvtune(*arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        result = json.loads(done.stdout.splitlines()[-1])
        result.pop("memory_available", None)  # of this moment
        return result

    def tune(self, model: str, teacher: str) -> list[object]:
        return ["tune", "--model", model, "--teacher", teacher, "--tokens", "plan/tokens.h5", "--ctx", 64, "--batch", 4,
                "--out", "out.h5"]

    def test_plans_are_those_of_the_real_files(self) -> None:
        write_folder(self.folder / "hf")
        self.result("import", "--from", "hf", "--out", "model.h5")
        for number, flags in enumerate((("aqlm", "--code-bits", 6), ("vq", "--code-bits", 9, "--group", 4),
                                        ("scalar", "--code-bits", 3, "--group", 32), ("scalar", "--code-bits", 2, "--group", 0),
                                        ("quip", "--code-bits", 3))):
            with self.subTest(flags=flags):
                real = f"real{number}.h5"
                self.result("quantize", "--model", "model.h5", "--out", real, "--representation", *flags)
                self.succeed("plan_model.py", "--config", "hf/config.json", "--tokens", 4096, "--out", "plan",
                             "--representation", *flags)
                expected = self.result(*self.tune(real, "model.h5"), "--dry-run")
                planned = self.result(*self.tune("plan/quantized.h5", "plan/model.h5"), "--dry-run")
                self.assertEqual(planned, expected)
                tensors = [[(tensor["name"], tensor["type"], tensor["shape"], tensor["bits_per_weight"], tensor["bytes"])
                            for tensor in self.result("inspect", file, "--tensors")["tensors"] if "norm" not in tensor["name"]
                            and "embed" not in tensor["name"]] for file in (real, "plan/quantized.h5")]
                self.assertEqual(*tensors)
        calibrate = ["quantize", "--calibrate", "plan/tokens.h5", "--sequences", 8, "--ctx", 64, "--out", "out.h5", "--model"]
        plans = [self.result(*calibrate, model, "--dry-run") for model in ("model.h5", "plan/model.h5")]
        for plan in plans:  # the real file is f32, the plan's bf16
            del plan["bytes_read"], plan["bytes_written"]
        self.assertEqual(*plans)

    def test_nothing_but_a_plan_takes_them(self) -> None:
        (self.folder / "config.json").write_text(json.dumps(config()))
        self.succeed("plan_model.py", "--config", "config.json", "--code-bits", 4, "--tokens", 4096, "--out", "plan")
        for command in (self.tune("plan/quantized.h5", "plan/model.h5"),
                        ["quantize", "--model", "plan/model.h5", "--out", "out.h5"],
                        ["eval", "--model", "plan/model.h5", "--tokens", "plan/tokens.h5", "--ctx", 64]):
            done = self.pvtune(*command)
            self.assertEqual(done.returncode, 2)
            self.assertIn("is incomplete", done.stderr)
            self.assertFalse((self.folder / "out.h5").exists())

    def test_models_of_the_papers_have_their_sizes(self) -> None:
        for name, parameters in (("llama-2-7b", 6_738_415_616), ("llama-2-70b", 68_976_648_192)):
            self.succeed("plan_model.py", "--config", name, "--tokens", 4096, "--out", name)
            self.assertEqual(self.result("inspect", f"{name}/model.h5")["parameters"], parameters)
            self.assertLess(sum(path.stat().st_blocks * 512 for path in (self.folder / name).iterdir()), 4 << 20)
            with h5py.File(self.folder / name / "quantized.h5") as file:
                self.assertEqual(file["tensors/model.layers.0.mlp.up_proj.weight/codes"].dtype, "uint8")

    def test_refusals(self) -> None:
        self.refuse("plan_model.py", "--config", "none.json", "--out", "p", says="no such file, and none of llama-2-7b")
        (self.folder / "c.json").write_text("{}")
        self.refuse("plan_model.py", "--config", "c.json", "--out", "p", says="not a config.json")
        (self.folder / "c.json").write_text(json.dumps({**config(), "model_type": "gemma3_text"}))
        self.refuse("plan_model.py", "--config", "c.json", "--out", "p", says="is of the family 'gemma3_text'")
        self.refuse("plan_model.py", "--config", "llama-2-7b", "--code-bits", 17, "--out", "p", says="outside 1..16")
        self.refuse("plan_model.py", "--config", "llama-2-7b", "--group", 7, "--out", "p", says="does not divide")
        for name in ("aqlm", "vq"):
            self.refuse("plan_model.py", "--config", "llama-2-7b", "--representation", name, "--group", 0, "--out", "p",
                        says="--group 0: is one grid a row of --representation scalar")


if __name__ == "__main__":
    unittest.main()
