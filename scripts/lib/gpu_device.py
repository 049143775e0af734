"""The device that gpu-check runs on: what nvidia-smi says of it, and where the machine keeps NVIDIA's libraries."""

import contextlib
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Iterator, Optional

from errors import Error, one_line

_FACTS = {
    "name": "name",
    "driver": "driver_version",
    "compute_capability": "compute_cap",
    "memory_mib": "memory.total",
    "clock_sm_mhz": "clocks.sm",
    "clock_memory_mhz": "clocks.mem",
    "clock_sm_most_mhz": "clocks.max.sm",
    "clock_memory_most_mhz": "clocks.max.mem",
    "power_limit_watts": "power.limit",
    "ecc": "ecc.mode.current",
}
_NUMBERS = ("_mhz", "_mib", "_watts")
_LIBRARY_FOLDERS = ("/usr/local/cuda/lib64", "/usr/local/cuda-*/lib64", "/usr/local/cuda-*/targets/*/lib",
                    "/opt/cuda/lib64", "/usr/lib/*-linux-gnu", "/usr/lib64")


def facts() -> dict[str, Any]:
    """Of the device that programs see first. Raises Error if there is none."""
    answer = _ask([f"--query-gpu={','.join(_FACTS.values())}"])
    values = [value.strip() for value in answer.splitlines()[0].split(",")]
    if len(values) != len(_FACTS):
        raise Error(f"nvidia-smi answered {len(values)} values to {len(_FACTS)} questions: {answer.splitlines()[0]}")
    return {name: _value(name, text) for name, text in zip(_FACTS, values)}


def environment(library: Optional[Path] = None) -> dict[str, str]:
    """For programs: devices in nvidia-smi's order, and the folder of a library that the linker would not find."""
    variables = {**os.environ, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    if library is not None:
        variables["LD_LIBRARY_PATH"] = os.pathsep.join(
            filter(None, (str(library.parent), os.environ.get("LD_LIBRARY_PATH"))))
    return variables


def find_library(name: str) -> Optional[Path]:
    """A library of the CUDA toolkit: where the environment says, in a toolkit, the system's, or in a Python package."""
    folders = [Path(folder) for folder in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if folder]
    for pattern in _LIBRARY_FOLDERS:
        folders += sorted(Path("/").glob(pattern[1:]))
    for packages in filter(None, sys.path):
        folders += sorted(Path(packages).glob("nvidia/*/lib"))
    return next((folder / name for folder in folders if (folder / name).exists()), None)


def find_sanitizer() -> Optional[str]:
    """NVIDIA's compute-sanitizer, from PATH or a toolkit."""
    places = [found for pattern in ("bin", "compute-sanitizer", "extras/compute-sanitizer")
              for found in sorted(Path("/usr/local").glob(f"cuda*/{pattern}/compute-sanitizer"))]
    runnable = (str(place) for place in places if os.access(place, os.X_OK))
    return shutil.which("compute-sanitizer") or next(runnable, None)


def find_torch() -> Optional[str]:
    """A Python whose PyTorch sees the device: this one, or one from PATH."""
    question = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    for python in dict.fromkeys(filter(None, (sys.executable, shutil.which("python3"), shutil.which("python")))):
        try:
            if subprocess.run([python, "-c", question], capture_output=True, timeout=120, env=environment(),
                              check=False).returncode == 0:
                return python
        except (OSError, subprocess.TimeoutExpired):
            continue
    return None


@contextlib.contextmanager
def clocks() -> Iterator[dict[str, Any]]:
    """Fills in the clock of the multiprocessors over the body, from a reading a second."""
    seen: dict[str, Any] = {}
    with _readings("clocks.sm", 1000) as readings:
        yield seen
    if readings:
        seen.update(lowest=min(readings), median=statistics.median(readings), highest=max(readings))


@contextlib.contextmanager
def memory() -> Iterator[dict[str, Any]]:
    """Fills in the most of the device's memory that was in use over the body, by whomever."""
    seen: dict[str, Any] = {}
    with _readings("memory.used", 200) as readings:
        yield seen
    if readings:
        seen["highest_mib"] = max(readings)


@contextlib.contextmanager
def _readings(what: str, milliseconds: int) -> Iterator[list[int]]:
    """Filled in at the end; empty where the device does not say."""
    seen: list[int] = []
    with tempfile.TemporaryFile("w+") as log:
        try:
            watcher = subprocess.Popen([*_command(), f"--query-gpu={what}", "-lms", str(milliseconds)],
                                       stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.DEVNULL,
                                       start_new_session=True)
        except OSError:
            yield seen
            return
        # The first reading, so that a short body has one too: nvidia-smi takes its time to start.
        deadline = time.monotonic() + 10
        while not os.fstat(log.fileno()).st_size and watcher.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        try:
            yield seen
        finally:
            watcher.kill()
            watcher.wait()
            log.seek(0)
            seen += [int(line) for line in log.read().splitlines() if re.fullmatch(r"\s*\d+\s*", line)]


def _command() -> list[str]:
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    return ["nvidia-smi", "--format=csv,noheader,nounits", "-i", first or "0"]


def _ask(questions: list[str]) -> str:
    advice = "run `make gpu-bundle` and copy build/gpu-bundle to a machine with a device"
    try:
        done = subprocess.run([*_command(), *questions], capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        raise Error(f"no CUDA device here (nvidia-smi is not installed): {advice}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Error(f"no CUDA device here ({one_line(error)}): {advice}") from None
    if done.returncode != 0 or not done.stdout.strip():
        said = one_line(done.stdout + done.stderr) or f"exit status {done.returncode}"
        raise Error(f"no CUDA device here (nvidia-smi: {said}): {advice}")
    return done.stdout


def _value(name: str, text: str) -> Any:
    if not text or text.startswith("["):  # [N/A], [Not Supported]
        return None
    if not name.endswith(_NUMBERS):
        return text
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        return None
