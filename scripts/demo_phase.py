#!/usr/bin/env python3
"""Run one phase of the demo and keep what it did: seconds, peak memory, output, and its JSON result if it prints one.

Works with any Python 3, as the first phase is the set-up. Standard error (progress) passes through; standard output
does too and is kept. The exit status is the command's.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Optional

KEPT_CHARACTERS = 20_000


def last_object(output: str) -> Optional[dict]:
    """The JSON object on the last line of the output, as every command with --json prints it."""
    lines = output.strip().splitlines()
    if not lines:
        return None
    try:
        value = json.loads(lines[-1])
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def run(command: list) -> tuple:
    """Exit status and standard output of the command, which is echoed line by line but for a JSON result."""
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    except OSError as error:
        print(f"{command[0]}: cannot be started ({error.strerror})", file=sys.stderr)
        return 2, ""
    lines = []
    try:
        for line in process.stdout:
            if not line.startswith(b'{"'):  # the result is for the report, the words before it for the person
                sys.stdout.buffer.write(line)
                sys.stdout.flush()
            lines.append(line)
        status = process.wait()
    except KeyboardInterrupt:  # the command got it too: let it save and leave
        process.wait()
        status = 130
    return status if status >= 0 else 128 - status, b"".join(lines).decode("utf-8", "replace")


def main() -> None:
    parser = argparse.ArgumentParser(description="Run a phase of the demo; write its seconds, memory and result as JSON.")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON file to write")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="the command and its arguments, after --")
    arguments = parser.parse_args()
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        parser.error("no command given")
    start = time.monotonic()
    status, output = run(command)
    record: dict[str, Any] = {
        "command": command,
        "status": status,
        "seconds": round(time.monotonic() - start, 3),
        # The largest process of the phase, as the system counts it (ru_maxrss is in KiB on Linux).
        "peak_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
        "output": output[-KEPT_CHARACTERS:],
        "result": last_object(output),
    }
    if status == 0:
        arguments.out.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.exit(status)


if __name__ == "__main__":
    main()
