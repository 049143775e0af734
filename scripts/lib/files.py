"""Files that are written whole or not at all: to `name.partial`, synced, renamed."""

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Iterator, Optional

from errors import Error


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give the path to write to; on success the file takes its final name, on failure it is removed."""
    if not path.parent.is_dir():
        raise Error(f"{path.parent}: no such folder; make it first or choose another --out")
    if path.is_dir():
        raise Error(f"{path}: is a folder; choose another --out")
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fchmod(file.fileno(), 0o666 & ~_umask())  # some libraries write files that only the owner can read
            os.fsync(file.fileno())
        os.replace(partial, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def write_text(path: Path, text: str) -> None:
    """Write a whole text file as UTF-8."""
    with replaced(path) as partial:
        partial.write_bytes(text.encode("utf-8"))


def lock(path: Path) -> Optional[int]:
    """A descriptor of the file, made if it is missing, that no other run gets until it is closed; None where one has."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    free = True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        free = False
    except OSError:
        pass  # a file system without locks
    # The other run may have renamed or removed the file between our opening and locking it.
    if free and is_at(descriptor, path):
        return descriptor
    os.close(descriptor)
    return None


def is_at(descriptor: int, path: Path) -> bool:
    """Whether the path still names the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def remove_own(descriptor: int, path: Path) -> None:
    """Remove the open file, but no other one that has taken its name."""
    with contextlib.suppress(OSError):
        if is_at(descriptor, path):
            path.unlink()


def _umask() -> int:
    """The process's mask for new files; it can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
