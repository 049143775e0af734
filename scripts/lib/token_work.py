"""Tokenised documents in a folder of work: a file of tokens, a file of where documents end, and how far it came.

Both files only grow, and state.json is replaced after every batch; a run that was killed goes on behind the last state.
"""

import contextlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any, Iterator

from errors import Error
from files import lock, remove_own

_TOKENS, _ENDS = "tokens.bin", "ends.bin"
_TOKEN_BYTES, _END_BYTES = 4, 8


class TokenWork:
    """The folder OUT.preparing, this run's alone until it is closed; settings tell one run from another."""

    def __init__(self, out: Path, settings: dict[str, Any], resume: bool) -> None:
        self.folder = out.with_name(out.name + ".preparing")
        self.state: dict[str, Any] = {"settings": settings, "pieces": 0, "tokens": 0, "documents": 0, "complete": False}
        with contextlib.ExitStack() as opened:
            opened.enter_context(_alone(out, self.folder))
            self._begin(settings, resume)
            self._tokens = opened.enter_context(self._open(_TOKENS, self.state["tokens"] * _TOKEN_BYTES))
            self._ends = opened.enter_context(self._open(_ENDS, self.state["documents"] * _END_BYTES))
            self._opened = opened.pop_all()

    def _begin(self, settings: dict[str, Any], resume: bool) -> None:
        """Take over what an earlier run left, or remove it."""
        if resume and (self.folder / "state.json").is_file():
            self.state = self._read_state(settings)
        elif self.folder.exists():
            shutil.rmtree(self.folder)
        if resume and not self.state["pieces"]:
            print(f"nothing in {self.folder} to go on from: starting at the beginning", file=sys.stderr)
        self.folder.mkdir(exist_ok=True)

    def _read_state(self, settings: dict[str, Any]) -> dict[str, Any]:
        path = self.folder / "state.json"
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            given = state["settings"]
        except (ValueError, KeyError, TypeError) as error:
            raise Error(f"{path}: is damaged: start again without --resume") from error
        for name, value in settings.items():
            if given.get(name) != value:
                raise Error(f"{self.folder}: was begun with {name} {given.get(name)!r}, not {value!r}: give the same, or"
                            " start again without --resume")
        return state

    def _open(self, name: str, size: int) -> Any:
        """A file that is appended to, cut to what the state knows of it."""
        file = open(self.folder / name, "ab")
        if file.tell() < size:
            raise Error(f"{self.folder / name}: is shorter than state.json says: start again without --resume")
        file.truncate(size)
        return file

    def append(self, pieces: list[tuple[Any, bool]]) -> None:
        """Tokens of the next pieces, and whether a document ends with each."""
        import numpy

        ends = []
        for tokens, last in pieces:
            self._tokens.write(numpy.asarray(tokens, dtype="<u4").tobytes())
            self.state["tokens"] += len(tokens)
            if last:
                ends.append(self.state["tokens"])
        self._ends.write(numpy.asarray(ends, dtype="<u8").tobytes())
        self.state["pieces"] += len(pieces)
        self.state["documents"] += len(ends)
        self.save()

    def save(self) -> None:
        """Make what was appended, and the state, what a resumed run finds."""
        self._tokens.flush()
        self._ends.flush()
        partial = self.folder / "state.json.partial"
        partial.write_text(json.dumps(self.state), encoding="utf-8")
        os.replace(partial, self.folder / "state.json")

    def tokens(self) -> Any:
        """All tokens so far, mapped from the file."""
        return _mapped(self.folder / _TOKENS, "<u4", self.state["tokens"])

    def ends(self) -> Any:
        """Where each document ends, in tokens."""
        return _mapped(self.folder / _ENDS, "<u8", self.state["documents"])

    def close(self) -> None:
        """No more is appended; the folder stays, for the next run."""
        self._opened.close()

    def remove(self) -> None:
        """The work is done."""
        shutil.rmtree(self.folder)
        self.close()


@contextlib.contextmanager
def _alone(out: Path, folder: Path) -> Iterator[None]:
    """While this run prepares the output no other one does. The lock lies beside the folder, which comes and goes."""
    path = folder.with_name(folder.name + ".lock")
    held = lock(path)
    if held is None:
        raise Error(f"{out}: another run is preparing it: wait for it or choose another --out")
    try:
        yield
    finally:
        remove_own(held, path)
        os.close(held)


def _mapped(path: Path, dtype: str, count: int) -> Any:
    import numpy

    return numpy.memmap(path, dtype=dtype, mode="r", shape=(count,)) if count else numpy.zeros(0, dtype=dtype)


def batches(pieces: Iterator[Any], characters: int) -> Iterator[list[Any]]:
    """Pieces together, about so many characters a batch."""
    batch: list[Any] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece.text)
        if size >= characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
