"""gpu-check's training step: seconds, rate and memory of `pvtune tune` on a model of random weights, and PyTorch's."""

import json
import math
import shutil
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import gpu_device
from errors import Error
from gpu_steps import (NO_TORCH, WARM_UP, Bundle, Record, Step, Unit, command, failed, last_object, log_figures,
                       not_run)
from llama_shapes import read_config, tensors

# V-step state as docs/tuning.md counts it: 2.8 bytes a weight.
TUNE_FLAGS = ("--strategy", "pv-ste", "--code-moment", "group", "--code-buffer", "bf16", "--precision", "bf16",
              "--checkpoint-every", "0")
PYTORCH_ROUNDS = ("--warmup", 3, "--repeats", 5)
LIMIT_SECONDS = 540
# Allocations that hold something for every quantised weight from one step to the next; all else is one block's.
STATE = ("codes", "codebooks", "scales", "zeros", "second moment of codes", "straight-through buffers", "mean gradients",
         "codes of earlier steps")
FLOPS_RULE = ("8 a parameter in a product (block matrices and head) and token: student forward and backward 6, teacher 2; "
              "neither attention scores nor recomputed activations are counted")
GOALS = {"gemm_share": ("at least", 0.5), "pytorch_ratio": ("at least", 1.5), "v_step_share": ("at most", 0.05),
         "state_bytes_per_weight": ("at most", 3.0)}


@dataclass
class Training:
    """The sizes, where the model's files are, and what the units have recorded so far."""

    shape: str
    steps: int
    batch: int
    length: int
    folder: Path
    done: dict[str, Record] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        return read_config(self.shape)

    @property
    def tokens(self) -> int:
        return self.batch * self.length

    def kept(self, name: str, record: Record) -> Record:
        self.done[name] = record
        return record


def training_step(bundle: Bundle, training: Training) -> Step:
    step = Step("training", f"{training.shape}: {training.steps} steps of {training.batch} x {training.length} tokens", [],
                clocked=True, must_pass=False)

    def unit(name: str, expected_seconds: float, run: Any) -> Unit:
        return Unit(name, expected_seconds, LIMIT_SECONDS,
                    lambda limit: training.kept(name, run(bundle, training, limit)))

    step.units = [unit("model", 150, make_model), unit("GEMM rate", 30, gemm_rate), unit("tuning", 60, tune),
                  unit("PyTorch", 150, pytorch), Unit("figures", 1, 60, lambda _: figures(bundle, training))]
    return step


def make_model(bundle: Bundle, training: Training, limit: float) -> Record:
    """model.h5, quantized.h5 and config.json; what an earlier check left in the folder is used again."""
    deadline = time.monotonic() + limit
    try:
        config = training.config
    except Error as error:
        return {"outcome": "failed", "reason": str(error)}
    folder, text = training.folder, json.dumps(config)
    files = [folder / name for name in ("config.json", "model.h5", "quantized.h5")]
    if all(file.exists() for file in files) and files[0].read_text(encoding="utf-8") == text:
        return {"outcome": "passed", "made": False}
    script = bundle.folder / "random_model.py"
    if not script.exists() or not bundle.pvtune.exists():
        return not_run(f"{script.name} or bin/pvtune is not in the bundle")
    folder.mkdir(parents=True, exist_ok=True)
    files[0].unlink(missing_ok=True)
    written = folder / "config.json.new"
    written.write_text(text, encoding="utf-8")
    source = folder / "hf"
    ended = bundle.processes.run([sys.executable, script, "--config", written, "--out", source], limit)
    if ended.status != 0:
        return failed(ended)
    record: Record = {"outcome": "passed", "made": True}
    for name, arguments in (("import", ("--from", source, "--out", files[1])),
                            ("quantize", ("--model", files[1], "--representation", "aqlm", "--codebooks", 2,
                                          "--code-bits", 8, "--group", 8, "--out", files[2]))):
        said = command(bundle, deadline - time.monotonic(), name, *arguments)
        shutil.rmtree(source, ignore_errors=True)
        if said["outcome"] != "passed":
            return {**said, "reason": f"{name}: {said['reason']}"}
        record[name] = said["result"]
    written.rename(files[0])
    return record


def gemm_rate(bundle: Bundle, _training: Training, limit: float) -> Record:
    """The rate that the kernel benchmark measured in this run; if that did not run, measured now with one small entry."""
    if bundle.gemm_flops_per_second is None:
        said = command(bundle, limit, "bench", "--precision", "bf16", "--shape", "1b", "--op", "rmsnorm_forward")
        if said["outcome"] != "passed":
            return said
        bundle.gemm_flops_per_second = said["result"]["limits"]["gemm_flops_per_second"]
    return {"outcome": "passed", "result": {"gemm_flops_per_second": bundle.gemm_flops_per_second}}


def tune(bundle: Bundle, training: Training, limit: float) -> Record:
    if training.done.get("model", {}).get("outcome") != "passed":
        return not_run("there is no model")
    log, out = bundle.scratch / "training.jsonl", bundle.scratch / "trained.h5"
    log.unlink(missing_ok=True)
    arguments = ("tune", "--model", training.folder / "quantized.h5", "--teacher", training.folder / "model.h5", "--tokens",
                 bundle.folder / "training-tokens.h5", *TUNE_FLAGS, "--batch", training.batch, "--ctx", training.length,
                 "--steps", training.steps, "--out", out)
    plan = command(bundle, limit, *arguments, "--dry-run")
    if plan["outcome"] != "passed":
        return plan
    with gpu_device.memory() as memory:
        said = command(bundle, limit, *arguments, "--log", log)
    out.unlink(missing_ok=True)
    return {**said, "plan": plan["result"], "device_memory": memory, "log": log_figures(log, WARM_UP),
            "flags": list(TUNE_FLAGS)}


def pytorch(bundle: Bundle, training: Training, limit: float) -> Record:
    """Not a failure of the check, whatever it is: the ratio is then missing, with the reason."""
    deadline = time.monotonic() + limit
    python = bundle.torch_python
    if python is None:
        return not_run(NO_TORCH)
    config = training.folder / "config.json"
    if not config.exists():
        return not_run("there is no model")
    script = bundle.folder / "baseline_torch.py"
    variables = {**gpu_device.environment(), "TORCHINDUCTOR_CACHE_DIR": str(bundle.scratch / "inductor"),
                 "TRITON_CACHE_DIR": str(bundle.scratch / "triton")}
    ended = bundle.processes.run([python, script, "--device", "cuda", "--config", config, "--measure", "step", "--precision",
                                  "bf16", "--batch", training.batch, "--ctx", training.length, *PYTORCH_ROUNDS],
                                 deadline - time.monotonic(), variables)
    result = last_object(ended.out)
    if ended.status != 0 or result is None:
        last = ended.error.strip().splitlines()[-1:] or [ended.how()]
        return {**not_run(f"PyTorch's step failed: {last[0]}"), "output": ended.end_of_output()}
    return {"outcome": "passed", "result": result}


def reason(record: Optional[Record]) -> str:
    return "not reached" if record is None else record.get("reason", record["outcome"])


def figures(bundle: Bundle, training: Training) -> Record:
    """Every figure, or in `missing` why there is none."""
    done = training.done
    tuning, gemm, baseline = done.get("tuning"), done.get("GEMM rate"), done.get("PyTorch")
    values: Record = {"model": training.shape, "tokens_per_step": training.tokens, "flops_rule": FLOPS_RULE}
    missing: Record = {}

    def put(name: str, value: Optional[float], why: str) -> None:
        if value is None:
            missing[name] = why
        else:
            values[name] = value

    try:
        matrices, _ = tensors(training.config)
    except Error as error:
        return not_run(str(error))
    weights = sum(math.prod(shape) for shape in matrices.values())
    products = weights + training.config["vocab_size"] * training.config["hidden_size"]
    flops = 8.0 * products * training.tokens
    values.update(quantized_weights=weights, parameters_in_products=products, model_flops_per_step=flops)

    ran = tuning is not None and tuning["outcome"] == "passed"
    log = tuning["log"] if ran else None
    why = reason(tuning) if not ran else "the run log has no steps"
    for name in ("seconds_per_step", "tokens_per_second", "phase_seconds", "v_step_share", "steps_counted"):
        put(name, log[name] if log else None, why)
    seconds = values.get("seconds_per_step")
    put("model_flops_per_second", flops / seconds if seconds else None, why)
    rate = bundle.gemm_flops_per_second
    put("gemm_flops_per_second", rate, f"GEMM rate: {reason(gemm)}")
    put("gemm_share", flops / seconds / rate if seconds and rate else None,
        why if not seconds else f"GEMM rate: {reason(gemm)}")
    memory = tuning["plan"]["memory"] if ran else None
    put("state_bytes_per_weight", sum(memory.get(name, 0) for name in STATE) / weights if memory else None, why)
    put("planned_device_bytes", tuning["plan"]["memory_bytes"] if ran else None, why)
    peak = tuning["device_memory"].get("highest_mib") if ran else None
    put("peak_device_bytes", peak * 2**20 if peak is not None else None,
        "nvidia-smi does not say how much memory is in use" if ran else why)

    theirs = None
    if baseline is not None and baseline["outcome"] == "passed":
        theirs = baseline["result"]["measurements"][0]
        values["pytorch"] = {"version": baseline["result"]["torch"], "compiled": theirs["compiled"]}
    put("pytorch_seconds_per_step", statistics.median(theirs["seconds"]) if theirs else None, reason(baseline))
    put("pytorch_peak_bytes", theirs["peak_bytes"] if theirs else None, reason(baseline))
    put("pytorch_ratio", values["pytorch_seconds_per_step"] / seconds if theirs and seconds else None,
        why if not seconds else reason(baseline))
    return {"outcome": "passed", "result": {**values, "goals": goals(values), "missing": missing}}


def goals(values: Record) -> Record:
    """met is null where there is no figure."""
    found: Record = {}
    for name, (side, goal) in GOALS.items():
        value = values.get(name)
        met = None if value is None else value >= goal if side == "at least" else value <= goal
        found[name] = {side.replace(" ", "_"): goal, "met": met}
    return found
