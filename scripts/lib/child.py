"""Programs that save what they have when they are interrupted, and are given the time for it."""

import subprocess
from typing import Any


def run(command: list[str], **options: Any) -> subprocess.CompletedProcess:
    """As subprocess.run, which on Ctrl-C kills the program a quarter of a second later; this one waits for it."""
    with subprocess.Popen(command, **options) as process:
        try:
            out, error = process.communicate()
        except KeyboardInterrupt:  # the program got it too
            process.communicate()
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, error)
