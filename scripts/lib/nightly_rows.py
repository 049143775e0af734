"""The matrix of small real runs of scripts/nightly.py: import -> quantise -> tune -> eval -> export, killed and resumed as
well."""

import hashlib
import json
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import child
from errors import Error

Record = dict[str, Any]
LAYERS = 2
CONTEXT = 128
# Every representation, at the flags that its users start from.
REPRESENTATIONS = {
    "vq": ["--representation", "vq", "--code-bits", "8", "--group", "8"],
    "aqlm": ["--representation", "aqlm", "--codebooks", "2", "--code-bits", "8", "--group", "8"],
    "scalar": ["--representation", "scalar", "--code-bits", "3", "--group", "64"],
    "quip": ["--representation", "quip", "--code-bits", "2"],
}
EXPORTS = {"vq": ["hf-aqlm"], "aqlm": ["hf-aqlm"], "scalar": ["hf-gptq", "--round-zeros"], "quip": ["hf-dense"]}


@dataclass
class Programs:
    """What rows run: the program and its device."""

    pvtune: Path
    device: str

    def run(self, *arguments: object) -> Record:
        """The JSON result of a command."""
        done = child.run(self.command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise Error(f"pvtune {arguments[0]}: exit status {done.returncode}: {last}")
        return json.loads(done.stdout.strip().splitlines()[-1])

    def command(self, *arguments: object) -> list[str]:
        """Two threads, so that products of a library, too, are cut the same way everywhere."""
        return [str(self.pvtune), *map(str, arguments), "--device", self.device, "--threads", "2", "--quiet", "--json"]

    def run_killed(self, again: Callable[[], bool], *arguments: object) -> Record:
        """Kills the command as soon as again() holds, and lets another with --resume finish it."""
        process = subprocess.Popen(self.command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not again():
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if process.returncode == 0:
            raise Error(f"pvtune {arguments[0]}: was done before it could be killed")
        return self.run(*arguments, "--resume")


def make_inputs(folder: Path, gguf: Path, text: Path, sources: str, scripts: Callable[..., None]) -> None:
    """The first blocks of SmolLM2-135M as a Hugging Face folder, and tokens of the text; made again with other sources,
    since the scripts that make them are under test too."""
    made_with = folder / "sources.json"
    if made_with.exists() and made_with.read_text(encoding="utf-8") == sources:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    scripts("gguf_to_hf.py", "--from", gguf, "--out", folder / "whole")
    _keep_first_layers(folder / "whole", folder / "hf")
    shutil.rmtree(folder / "whole")
    scripts("tokenize.py", "--tokenizer", folder / "hf" / "tokenizer.json", "--text", text, "--out", folder / "tokens.h5")
    made_with.write_text(sources, encoding="utf-8")


def _keep_first_layers(whole: Path, out: Path) -> None:
    """A Hugging Face folder with fewer blocks."""
    from safetensors.numpy import load_file, save_file

    out.mkdir()
    config = json.loads((whole / "config.json").read_text(encoding="utf-8"))
    config["num_hidden_layers"] = LAYERS
    (out / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shutil.copy(whole / "tokenizer.json", out)
    kept = {}
    for file in sorted(whole.glob("*.safetensors")):
        for name, value in load_file(file).items():
            words = name.split(".")
            if words[:2] != ["model", "layers"] or int(words[2]) < LAYERS:
                kept[name] = value
    save_file(kept, out / "model.safetensors")


def row_names(devices: list[str]) -> list[str]:
    """`device representation precision` of every row."""
    return [f"{device} {representation} {precision}" for device in devices for representation in REPRESENTATIONS
            for precision in ("f32", "bf16")]


def run_row(name: str, pvtune: Path, inputs: Path, folder: Path) -> Record:
    """Everything twice: undisturbed, and killed and resumed. The two must agree bit for bit."""
    device, representation, precision = name.split()
    programs = Programs(pvtune, device)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    record: Record = {}
    start = time.monotonic()
    model = folder / "model.h5"
    record["imported"] = programs.run("import", "--from", inputs / "hf", "--out", model)["content_hash"]
    runs = {way: _quantize_and_tune(programs, representation, precision, model, inputs / "tokens.h5", folder / way,
                                    way == "killed") for way in ("undisturbed", "killed")}
    for key in ("quantized", "tuned"):
        if runs["killed"][key] != runs["undisturbed"][key]:
            raise Error(f"{name}: {key}: a run that was killed and resumed gives {runs['killed'][key]}, "
                        f"an undisturbed one {runs['undisturbed'][key]}")
    record.update(runs["undisturbed"])
    measured = programs.run("eval", "--model", folder / "undisturbed" / "tuned.h5", "--tokens", inputs / "tokens.h5",
                            "--ctx", CONTEXT, "--precision", precision)
    record.update({key: measured[key] for key in ("nll", "perplexity")})
    exported = folder / "exported"
    programs.run("export", "--model", folder / "undisturbed" / "tuned.h5", "--out", exported, "--format",
                 *EXPORTS[representation])
    record["exported"] = _digest(sorted(exported.glob("*.safetensors")))
    record["seconds"] = round(time.monotonic() - start, 1)
    shutil.rmtree(folder)
    return record


def _digest(files: list[Path]) -> str:
    """Of the contents of the files, in order."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:32]


def _quantize_and_tune(programs: Programs, representation: str, precision: str, model: Path, tokens: Path, folder: Path,
                       killed: bool) -> Record:
    """One way through both commands."""
    folder.mkdir()
    quantized, tuned = folder / "quantized.h5", folder / "tuned.h5"
    quantize = ["quantize", "--model", model, *REPRESENTATIONS[representation], "--calibrate", tokens, "--sequences", 8,
                "--ctx", CONTEXT, "--block-epochs", 1, "--precision", precision, "--out", quantized]
    tune = ["tune", "--model", quantized, "--teacher", model, "--tokens", tokens, "--strategy", "pv-ste", "--steps", 6,
            "--batch", 4, "--ctx", CONTEXT, "--lr", "1e-3", "--code-lr", "1e-1", "--precision", precision,
            "--checkpoint-every", 1, "--out", tuned]
    if killed:
        first_block = Path(f"{quantized}.calibration") / "block_0000.h5"
        made = programs.run_killed(first_block.exists, *quantize)
        adapted = programs.run_killed(Path(f"{tuned}.checkpoint").exists, *tune)
    else:
        made, adapted = programs.run(*quantize), programs.run(*tune)
    return {"quantized": made["content_hash"], "bits_per_weight": made["bits_per_weight"],
            "relative_output_error": made["relative_output_error"], "tuned": adapted["content_hash"],
            "loss": adapted["loss"], "seconds_per_step": adapted["seconds_per_step"],
            "peak_bytes": adapted["peak_bytes"]}
