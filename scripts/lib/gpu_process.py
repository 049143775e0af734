"""Programs with a time limit, whose groups of processes end with them; what they said is kept for a report."""

import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

_KEPT_CHARACTERS = 4000  # of the end of a failed program's output


@dataclass
class Ended:
    """How a program ended. status is negative for a signal, None when its time was up."""

    status: Optional[int]
    out: str
    error: str
    seconds: float

    def end_of_output(self) -> str:
        return (self.out + self.error)[-_KEPT_CHARACTERS:]

    def how(self) -> str:
        """`exit status 1`, in words for every case."""
        if self.status is None:
            return f"stopped after {self.seconds:.0f} s"
        if self.status < 0:
            return f"ended by {signal.Signals(-self.status).name}"
        return f"exit status {self.status}"


class Processes:
    """Starts programs; stop() ends those that run and lets no other start."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self._environment = environment
        self._folder = folder
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen] = set()
        self._stopped = False

    def run(self, command: list[object], limit_seconds: float,
            environment: Optional[dict[str, str]] = None) -> Ended:
        """Raises OSError if it cannot be started."""
        start = time.monotonic()
        with self._lock:
            if self._stopped:
                return Ended(None, "", "", 0)
            process = subprocess.Popen([str(word) for word in command], env=environment or self._environment,
                                       cwd=self._folder, text=True, errors="replace", stdin=subprocess.DEVNULL,
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
            self._running.add(process)
        status: Optional[int] = None
        try:
            out, error = process.communicate(timeout=max(limit_seconds, 0.1))
            status = process.returncode
        except subprocess.TimeoutExpired:
            _end(process)
            out, error = process.communicate()
        finally:
            with self._lock:
                self._running.discard(process)
        return Ended(status, out, error, time.monotonic() - start)

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            for process in self._running:
                _end(process)


def _end(process: subprocess.Popen) -> None:
    """Ends the program with everything that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
