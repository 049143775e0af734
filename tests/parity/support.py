"""What the parity tests share: a folder of their own, pvtune run as a user runs it, results of both sides compared."""

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import h5py
import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel
from transformers.utils.logging import disable_progress_bar

ROOT = Path(__file__).resolve().parents[2]
PVTUNE = ROOT / "build" / "pvtune"
sys.path.insert(0, str(ROOT / "tests" / "golden"))
disable_progress_bar()

Tensors = dict[str, torch.Tensor]


class ParityTest(unittest.TestCase):
    """A test with a scratch folder."""

    def setUp(self) -> None:
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        torch.set_num_threads(1)

    def run_program(self, *command: object) -> str:
        """Run a program and give its standard output; a failure shows its standard error."""
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600, check=False,
                              env={**os.environ, "OMP_NUM_THREADS": "2"})
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def pvtune(self, *arguments: object) -> str:
        """Run build/pvtune."""
        return self.run_program(PVTUNE, *arguments)

    def import_model(self, model: PreTrainedModel, shard_bytes: int | str = "5GB") -> Path:
        """Save a transformers model as a folder and import it; the weights file."""
        model.save_pretrained(self.folder / "hf", max_shard_size=shard_bytes)
        out = self.folder / "model.h5"
        self.pvtune("import", "--from", self.folder / "hf", "--out", out, "--quiet")
        return out

    def outputs_of(self, weights: Path, tokens: torch.Tensor) -> Tensors:
        """logits, losses and gradients.<tensor> that pvtune gives for a batch [sequences, length], in f32."""
        save_file({"tokens": tokens.contiguous()}, self.folder / "tokens.safetensors")
        out = self.folder / "outputs.h5"
        self.run_program(ROOT / "build/release/tests/parity/model_outputs", weights,
                         self.folder / "tokens.safetensors", out)
        with h5py.File(out) as file:
            found = {name: torch.from_numpy(file[name][()]) for name in ("logits", "losses")}
            found |= {f"gradients.{name}": torch.from_numpy(data[()]) for name, data in file["gradients"].items()}
        return found

    def relative_error(self, ours: torch.Tensor, theirs: torch.Tensor) -> float:
        """The largest difference, relative to the largest value."""
        self.assertEqual(ours.shape, theirs.shape)
        return ((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max()).item()
