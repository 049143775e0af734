"""Files that are written whole or not at all: to `name.partial`, synced, renamed."""

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Iterator, Optional

from errors import Error


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give the path to write to; on success the file takes its final name, on failure it is removed. No other run
    writes it meanwhile; nor may a library put a file of its own at the path, or lock it."""
    check_target(path)
    partial = path.with_name(path.name + ".partial")
    held = lock(partial)
    if held is None:
        raise Error(f"{path}: another run is writing it: wait for it or choose another name")
    try:
        open(partial, "wb").close()  # what a run left that was killed
        yield partial
        if not is_at(held, partial):
            raise Error(f"{partial}: was taken away while it was written: write it again")
        os.fchmod(held, 0o666 & ~_umask())  # it may have been another's
        os.fsync(held)
        os.replace(partial, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except BaseException:
        remove_own(held, partial)
        raise
    finally:
        os.close(held)


def check_target(path: Path) -> None:
    """Refuse a path that cannot be written or where something else than a file would be replaced."""
    if not path.parent.is_dir():
        raise Error(f"{path.parent}: no such folder; make it first or choose another --out")
    if path.is_dir():
        raise Error(f"{path}: is a folder; choose another --out")
    if path.exists() and not path.is_file():
        raise Error(f"{path}: is no regular file: name another")


def check_begins(path: Path, beginning: bytes, kind: str) -> None:
    """Refuse to write over what does not begin (in any case of letters) as files of this kind do."""
    if not path.is_file():
        return
    with open(path, "rb") as file:
        found = file.read(len(beginning))
    if found and found.lower() != beginning.lower():
        raise Error(f"{path}: is a file, but no {kind}; remove it or choose another --out")


def write_text(path: Path, text: str) -> None:
    """Write a whole text file as UTF-8."""
    with replaced(path) as partial:
        partial.write_bytes(text.encode("utf-8"))


def lock(path: Path) -> Optional[int]:
    """A descriptor of the file, made if it is missing, which no other run gets until it is closed; None if one has."""
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
