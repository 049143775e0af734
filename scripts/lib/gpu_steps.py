"""What gpu-check runs, step by step: each unit is one program (or a few that need each other), with a time limit."""

import functools
import json
import os
import re
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Optional

import gpu_device
from gpu_process import Ended, Processes

Record = dict[str, Any]

CONFORMANCE = "wrappers_test"
PARITY = "tune_test"
SANITIZERS = ("memcheck", "racecheck", "synccheck")
SHAPES = ("1b", "7b")
NO_TORCH = "no PyTorch with CUDA here"
WARM_UP = 2  # steps that are not counted
TUNE_FLAGS = ("--strategy", "pv-ste", "--batch", "2", "--ctx", "1024", "--lr", "1e-3", "--code-lr", "3e-2",
              "--precision", "bf16", "--checkpoint-every", "0")
EVAL_FLAGS = ("--ctx", "1024", "--windows", "40", "--precision", "bf16")

PHASES = ("teacher", "forward", "loss", "backward", "p", "v")

_SANITIZER_SUMMARY = re.compile(r"(?:ERROR SUMMARY|RACECHECK SUMMARY): (\d+)")
_SLOW_CASES = "*AtScale"  # as in scripts/test.sh
_FOUND_ERRORS = 97  # exit status asked of compute-sanitizer
# Kernels whose mangled name has our namespace, as compute-sanitizer 2023.3 and newer are told: tests call cuBLASLt too,
# and hazards inside its kernels are not ours to mend.
_ONLY_OUR_KERNELS = ("--kernel-name", "kns=pvtune")
_KEPT_CHARACTERS = 4000


@dataclass
class Unit:
    """run gives a record with an `outcome`: passed, failed or not run."""

    name: str
    expected_seconds: float
    limit_seconds: float
    run: Callable[[float], Record]


@dataclass
class Step:
    name: str
    words: str
    units: list[Unit]
    jobs: int = 1
    clocked: bool = False  # the device's clock is watched meanwhile
    must_pass: bool = True  # else a failure is told but is none of the check's
    must_run: bool = False
    missing: str = ""  # why there is no unit


@dataclass
class Bundle:
    """The folder that gpu_bundle.sh made, and what the programs in it run with."""

    folder: Path
    data: Path
    scratch: Path
    processes: Processes
    tune_steps: int
    tests: list[str] = field(default_factory=list)
    gemm_flops_per_second: Optional[float] = None  # of this run, once it is measured

    def __post_init__(self) -> None:
        self.tests = sorted(path.name for path in (self.folder / "bin").glob("*_test"))

    @property
    def pvtune(self) -> Path:
        return self.folder / "bin" / "pvtune"

    @functools.cached_property
    def torch_python(self) -> Optional[str]:
        """Looked for when it is needed: to import PyTorch takes seconds."""
        return gpu_device.find_torch()


def all_steps(bundle: Bundle) -> list[Step]:
    kernels = [name for name in bundle.tests if name not in (CONFORMANCE, PARITY)]
    return [
        Step("conformance", "the wrappers that kernels are built of", [_test(bundle, CONFORMANCE, 5, 180)],
             must_run=True),
        Step("kernels", "every kernel against its CPU oracle", [_test(bundle, name, 3, 180) for name in kernels],
             must_run=True, missing="no test in bin/"),
        Step("parity", "tuning the tiny models, against the CPU", [_test(bundle, PARITY, 20, 300)], must_run=True),
        _sanitizer_step(bundle, [CONFORMANCE, *kernels]),
        _demo_step(bundle),
        Step("bench", "the operations against the device's limits", [_bench(bundle, shape) for shape in SHAPES],
             clocked=True, must_pass=False),
        _pytorch_step(bundle),
    ]


def not_run(reason: str) -> Record:
    return {"outcome": "not run", "reason": reason}


def failed(ended: Ended) -> Record:
    return {"outcome": "failed", "reason": ended.how(), "output": ended.end_of_output()}


def last_object(text: str) -> Optional[Record]:
    """The JSON object on the last line, as every command with --json prints it."""
    lines = text.strip().splitlines()
    try:
        value = json.loads(lines[-1]) if lines else None
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def read_cases(path: Path) -> Optional[Record]:
    """Counts of a GoogleTest JSON report, with the names of what failed."""
    try:
        suites = json.loads(path.read_text(encoding="utf-8"))["testsuites"]
    except (OSError, ValueError, KeyError):
        return None
    cases = [case for suite in suites for case in suite["testsuite"]]
    failures = [f"{case['classname']}.{case['name']}" for case in cases if case.get("failures")]
    skipped = sum(case["result"] in ("SKIPPED", "SUPPRESSED") for case in cases)
    return {"passed": len(cases) - skipped - len(failures), "failed": len(failures), "skipped": skipped,
            "failures": failures}


def _passed_if_any_ran(cases: Record) -> Record:
    ran = cases["passed"] + cases["skipped"] > 0
    return {"outcome": "passed"} if ran else {"outcome": "failed", "reason": "no test ran"}


def _test(bundle: Bundle, name: str, expected_seconds: float, limit_seconds: float) -> Unit:
    def run(limit: float) -> Record:
        program = bundle.folder / "bin" / name
        if not program.exists():
            return not_run(f"bin/{name} is not in the bundle")
        report = bundle.scratch / f"{name}.json"
        ended = bundle.processes.run([program, f"--gtest_output=json:{report}", "--gtest_color=no"], limit)
        cases = read_cases(report)
        if ended.status == 0 and cases is not None and cases["failed"] == 0:
            return {**_passed_if_any_ran(cases), **cases}
        # Without a report it crashed, or its time was up: counted as one failed case.
        return {**failed(ended), **(cases or {"passed": 0, "failed": 1, "skipped": 0, "failures": [name]})}

    return Unit(name, expected_seconds, limit_seconds, run)


def _sanitizer_step(bundle: Bundle, tests: list[str]) -> Step:
    step = Step("sanitizer", "compute-sanitizer on the small tests", [], jobs=min(4, os.cpu_count() or 1),
                missing="compute-sanitizer is not on this machine")
    sanitizer = gpu_device.find_sanitizer()
    if sanitizer is not None:
        step.units = [_sanitized(bundle, sanitizer, tool, test) for tool in SANITIZERS for test in tests]
    return step


def _sanitized(bundle: Bundle, sanitizer: str, tool: str, test: str) -> Unit:
    def run(limit: float) -> Record:
        program = bundle.folder / "bin" / test
        if not program.exists():
            return not_run(f"bin/{test} is not in the bundle")
        report = bundle.scratch / f"{tool}-{test}.json"
        kernels = _ONLY_OUR_KERNELS if tool == "racecheck" else ()
        ended = bundle.processes.run([sanitizer, "--tool", tool, *kernels, "--error-exitcode", _FOUND_ERRORS, program,
                                      f"--gtest_filter=-{_SLOW_CASES}", f"--gtest_output=json:{report}",
                                      "--gtest_color=no"], limit)
        found = _SANITIZER_SUMMARY.findall(ended.out + ended.error)
        if not found and "not supported" in ended.out + ended.error:  # as in some sandboxes
            return not_run("compute-sanitizer refuses this device")
        cases = read_cases(report)
        if ended.status == 0 and found and int(found[-1]) == 0 and cases is not None:
            return {**_passed_if_any_ran(cases), "errors": 0, "cases": cases["passed"]}
        said = "\n".join(line for line in ended.out.splitlines() if line.startswith("========="))
        return {**failed(ended), "errors": int(found[-1]) if found else None, "said": said[:_KEPT_CHARACTERS]}

    return Unit(f"{tool} {test}", 10, 300, run)


def command(bundle: Bundle, limit: float, *arguments: object) -> Record:
    """A command of pvtune on the device, whose result is the JSON object on its last line."""
    if not bundle.pvtune.exists():
        return not_run("bin/pvtune is not in the bundle")
    ended = bundle.processes.run([bundle.pvtune, *arguments, "--device", "cuda", "--quiet", "--json"], limit)
    result = last_object(ended.out)
    if ended.status != 0 or result is None:
        return failed(ended)
    return {"outcome": "passed", "result": result}


def log_figures(path: Path, warm_up: int) -> Optional[Record]:
    """Medians of the steps of a run log, without the first ones; None if there are no steps."""
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        lines = lines[min(warm_up, len(lines) - 1):]
        seconds = [line["seconds"] for line in lines]
        phases = {phase: [line[f"{phase}_seconds"] for line in lines] for phase in PHASES}
        return {"steps_counted": len(lines), "seconds_per_step": statistics.median(seconds),
                "tokens_per_second": statistics.median(line["tokens_per_second"] for line in lines),
                "phase_seconds": {phase: statistics.median(values) for phase, values in phases.items()},
                "v_step_share": sum(phases["v"]) / sum(seconds)}
    except (OSError, ValueError, KeyError, ZeroDivisionError):
        return None


def _bench(bundle: Bundle, shape: str) -> Unit:
    def run(limit: float) -> Record:
        record = command(bundle, limit, "bench", "--precision", "bf16", "--shape", shape)
        if record["outcome"] == "passed":
            bundle.gemm_flops_per_second = record["result"].get("limits", {}).get("gemm_flops_per_second")
        return record

    return Unit(shape, 45, 300, run)


def _demo_step(bundle: Bundle) -> Step:
    step = Step("demo", f"SmolLM2-135M: measure, tune {bundle.tune_steps} steps, measure", [], clocked=True)
    files = {name: bundle.data / f"{name}.h5" for name in ("model", "quantized", "tune", "eval")}
    missing = [path.name for path in files.values() if not path.exists()]
    if missing:
        step.missing = f"{bundle.data} lacks {', '.join(missing)}: `make demo` makes them"
        return step
    tuned, log = bundle.scratch / "tuned.h5", bundle.scratch / "demo.jsonl"

    def measure(model: Path) -> Callable[[float], Record]:
        def run(limit: float) -> Record:
            if not model.exists():
                return not_run(f"there is no {model.name}")
            return command(bundle, limit, "eval", "--model", model, "--tokens", files["eval"], *EVAL_FLAGS)
        return run

    def tune(limit: float) -> Record:
        said = command(bundle, limit, "tune", "--model", files["quantized"], "--teacher", files["model"], "--tokens",
                       files["tune"], *TUNE_FLAGS, "--steps", bundle.tune_steps, "--out", tuned, "--log", log)
        return {**said, "log": log_figures(log, WARM_UP)}

    step.units = [Unit("unquantised", 15, 300, measure(files["model"])),
                  Unit("quantised", 15, 300, measure(files["quantized"])),
                  Unit("tuning", 60, 540, tune),
                  Unit("tuned", 15, 300, measure(tuned))]
    return step


def _pytorch_step(bundle: Bundle) -> Step:
    script = bundle.folder / "baseline" / "gpu_attention.py"

    def run(limit: float) -> Record:
        if bundle.torch_python is None:
            return not_run(NO_TORCH)
        ended = bundle.processes.run([bundle.torch_python, script], limit, gpu_device.environment())
        result = last_object(ended.out)
        return {"outcome": "passed", "result": result} if ended.status == 0 and result else failed(ended)

    return Step("pytorch", "PyTorch's attention, copy and product", [Unit("operations", 30, 300, run)], clocked=True,
                must_pass=False)
