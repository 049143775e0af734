"""Exported folders in the programs that they are for: transformers, with the aqlm package and with GPTQModel. From import
to export each model goes through the command line; logits, perplexities and sizes are compared with pvtune's own."""

import os

# The package's kernel for the CPU adds to one output from all threads at once, without care: right only on one thread.
os.environ["NUMBA_NUM_THREADS"] = "1"
# GPTQModel would compile its module with torch.compile, for nothing at these sizes.
os.environ["TORCHDYNAMO_DISABLE"] = "1"

import json  # noqa: E402
import unittest  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import aqlm  # noqa: E402
import h5py  # noqa: E402
import torch  # noqa: E402
from exported import BOUND, DEMO, ExportTest, needs_demo  # noqa: E402
from gptqmodel.nn_modules.qlinear.torch import TorchLinear  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTQConfig  # noqa: E402

# What f16 leaves of the embedding, the head and the norms (2^-12 of each), seen in the logits.
ROUNDED = 3e-3


def weight_bytes(path: Path) -> int:
    """The size of a safetensors file less its header: the header's own length in 8 bytes, then so many."""
    with open(path, "rb") as file:
        return path.stat().st_size - 8 - int.from_bytes(file.read(8), "little")


class ExportParity(ExportTest):
    def check_aqlm(self, representation: str, **flags: Any) -> None:
        tuned = self.tuned(representation, **flags)
        folder = self.export(tuned, "hf-aqlm")
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        replaced = [module for module in theirs.modules() if isinstance(module, aqlm.QuantizedLinear)]
        self.assertEqual(len(replaced), 14)
        name = f"hf-aqlm {flags['codebooks']}x{flags['code_bits']} g{flags['group']}"
        self.same_logits(theirs, self.imported(folder), BOUND, name)
        self.same_logits(theirs, tuned, ROUNDED, f"{name}, before export")
        self.assertEqual(self.said["bytes"], (folder / "model.safetensors").stat().st_size)
        text = "the cat the dog"
        tokenizer = AutoTokenizer.from_pretrained(folder)
        self.assertEqual(tokenizer.decode(tokenizer(text)["input_ids"]), text)

    def test_aqlm_bytes(self) -> None:
        self.check_aqlm("aqlm", codebooks=2, code_bits=8, group=8)

    def test_aqlm_other_bits(self) -> None:
        self.check_aqlm("aqlm", codebooks=3, code_bits=5, group=4)

    def test_aqlm_words(self) -> None:
        self.check_aqlm("vq", codebooks=1, code_bits=10, group=16)

    def test_dense(self) -> None:
        tuned = self.tuned("quip", code_bits=2)
        for dtype, size, bound in (("bf16", 2, 3e-2), ("f32", 4, BOUND)):
            folder = self.export(tuned, "hf-dense", "--dtype", dtype)
            theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
            parameters = sum(parameter.numel() for parameter in theirs.parameters())
            self.assertEqual(weight_bytes(folder / "model.safetensors"), size * parameters)
            self.assertEqual(self.said["bytes"], (folder / "model.safetensors").stat().st_size)
            self.same_logits(theirs, self.imported(folder), BOUND, f"hf-dense {dtype}")
            self.same_logits(theirs, tuned, bound, f"hf-dense {dtype}, before export")
            folder.rename(self.folder / f"dense-{dtype}")

    def check_gptq(self, bits: int, group: int) -> None:
        tuned = self.tuned("scalar", code_bits=bits, group=group)
        with h5py.File(tuned, "r+") as store:  # scales and zeros that the layout holds, so that the export rounds nothing
            for item in store["tensors"].values():
                if isinstance(item, h5py.Group):
                    item["scales"][...] = item["scales"][...].astype("float16")
                    item["zeros"][...] = item["zeros"][...].round().clip(1, 2**bits - 1)
        folder = self.export(tuned, "hf-gptq", "--dtype", "f32")
        self.assertEqual(self.said["bytes"], (folder / "model.safetensors").stat().st_size)
        theirs = AutoModelForCausalLM.from_pretrained(  # its other kernels for the CPU are compiled at first use
            folder, dtype=torch.float32, device_map="cpu", quantization_config=GPTQConfig(bits=bits, backend="torch"))
        replaced = [module for module in theirs.modules() if isinstance(module, TorchLinear)]
        self.assertEqual(len(replaced), 14)
        for module in replaced:  # or scales * (codes - zeros) is computed in f16, and rounded
            module.scales = module.scales.float()
        self.same_logits(theirs, tuned, BOUND, f"hf-gptq {bits} bits")

    def test_gptq_of_2_bits(self) -> None:
        self.check_gptq(2, group=32)

    def test_gptq_of_3_bits(self) -> None:
        self.check_gptq(3, group=32)

    def test_gptq_of_4_bits(self) -> None:
        self.check_gptq(4, group=32)

    def test_gptq_of_8_bits_in_whole_rows(self) -> None:
        self.check_gptq(8, group=0)

    @needs_demo
    def test_perplexity_of_the_demo(self) -> None:
        """SmolLM2 at 2 bits: the size within 2 % of the accounted bits, the perplexity within 0.5 %."""
        windows, length = 2, 128
        out = self.folder / "smollm2"
        said = json.loads(self.pvtune("export", "--model", DEMO / "tuned.h5", "--format", "hf-aqlm", "--out", out, "--json",
                                      "--quiet").splitlines()[-1])
        self.assertLess(abs(said["bytes"] / said["accounted_bytes"] - 1), 0.02)
        ours = json.loads(self.pvtune("eval", "--model", DEMO / "tuned.h5", "--tokens", DEMO / "eval.h5", "--ctx", length,
                                      "--windows", windows, "--json", "--quiet").splitlines()[-1])["perplexity"]
        with h5py.File(DEMO / "eval.h5") as store:
            tokens = torch.from_numpy(store["tokens"][:windows * length].astype("int64")).reshape(windows, length)
        model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
        with torch.no_grad():
            logits = torch.cat([model(window[None]).logits for window in tokens])
        nll = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        theirs = nll.exp().item()
        print(f"SmolLM2 2x8: {said['bytes']} bytes of {said['accounted_bytes']} accounted; perplexity {ours:.4f} here, "
              f"{theirs:.4f} in transformers with aqlm")
        self.assertLess(abs(theirs / ours - 1), 0.005)


if __name__ == "__main__":
    unittest.main()
