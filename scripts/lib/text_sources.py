"""Texts from files, read as a stream, also while they are downloaded: plain text, JSON lines, parquet, each also compressed.

A source gives pieces: a whole document, or a part of a long one. Long texts are cut where the tokenizer gives the same
tokens for the parts as for the whole, so that a file of any size needs the memory of one piece.
"""

import contextlib
import gzip
import io
import json
import zlib
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, NamedTuple, Optional

import download
from errors import Error, one_line
from hf_tokenizer import encodable

PIECE = 1 << 18  # characters
_CONTEXT = 64  # characters on each side of a cut that are tokenised together and apart
_TRIES = 16

INSTALL = "build/venv/bin/python -m pip install -r third_party/requirements-data.txt"


class Source(NamedTuple):
    """A file, and where it comes from when it is not there."""

    path: Path
    url: str = ""

    def stored(self) -> Any:
        """Its bytes."""
        return download.read_as_it_comes(self.url, self.path) if self.url else open(self.path, "rb")


class Piece(NamedTuple):
    """A text, and whether its document ends with it."""

    text: str
    ends: bool


def documents(sources: list[Source], field: str, newlines: str) -> Iterator[Iterable[str]]:
    """Every document of the files in order; a document is a stream of its parts."""
    for source in sources:
        path = source.path
        plain = path.with_suffix("") if path.suffix in (".gz", ".zst") else path
        if plain.suffix in (".jsonl", ".json", ".ndjson"):
            yield from ([text] for text in _json_lines(source, field))
        elif plain.suffix == ".parquet":
            if source.url:
                download.fetch(source.url, path)  # it is read from its end
            yield from ([text] for text in _parquet(path, field))
        else:
            yield _text(source, newlines)


def joined(parts: Iterable[Iterable[str]], between: str) -> Iterator[str]:
    """All documents as one text with `between` between them."""
    for index, document in enumerate(parts):
        if index > 0:
            yield between
        yield from document


def pieces(stream: Iterable[Iterable[str]], encode: Callable[[str], list[int]]) -> Iterator[Piece]:
    """Documents as pieces of about PIECE characters or less."""
    for document in stream:
        text = ""
        for part in document:
            text += part
            while len(text) > 2 * PIECE:
                end = cut(text, encode)
                yield Piece(text[:end], False)
                text = text[end:]
        yield Piece(text, True)


def cut(text: str, encode: Callable[[str], list[int]]) -> int:
    """Where to cut, near PIECE: behind a line's end, the last of a few where the tokens on both sides stay the same.

    A tokenizer that marks the start of every text (a space put before it) has no such place: there the cut costs a
    token.
    """
    place, last = PIECE, 0
    for _ in range(_TRIES):
        place = text.rfind("\n", PIECE // 2, place - 1) + 1
        if place == 0:
            break
        if text[place - 2].isspace() or text[place].isspace():
            continue
        last = last or place
        left, right = text[max(0, place - _CONTEXT) : place], text[place : place + _CONTEXT]
        if encode(left + right) == encode(left) + encode(right):
            return place
    space = text.rfind(" ", PIECE // 2, PIECE)
    return last or (space if space > 0 else PIECE)


@contextlib.contextmanager
def _open(source: Source) -> Iterator[Any]:
    """The bytes of a file, decompressed."""
    path = source.path
    with source.stored() as stored:
        if path.suffix == ".gz":
            yield gzip.GzipFile(fileobj=stored)
        elif path.suffix == ".zst":
            try:
                import zstandard
            except ModuleNotFoundError:
                raise Error(f"{path}: .zst needs the Python library zstandard: {INSTALL}") from None
            yield io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(stored, read_across_frames=True))
        else:
            yield stored


def _guarded(path: Path, lines: Iterator[Any]) -> Iterator[Any]:
    """What a damaged file raises, as an error that names it."""
    try:
        yield from lines
    except UnicodeDecodeError as error:
        raise Error(f"{path}: not UTF-8 (a byte 0x{error.object[error.start]:02x}): convert it, e.g. with iconv") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Error(f"{path}: cannot be decompressed ({one_line(error)}): get the file again") from error
    except OSError:
        raise
    except Exception as error:  # zstandard and pyarrow have exceptions of their own
        if type(error).__module__.split(".")[0] not in ("zstandard", "zstd", "pyarrow"):
            raise
        raise Error(f"{path}: cannot be read ({one_line(error)[:200]}): get the file again") from error


def _text(source: Source, newlines: str) -> Iterator[str]:
    def parts() -> Iterator[str]:
        with _open(source) as data, io.TextIOWrapper(data, encoding="utf-8", newline="" if newlines == "keep" else None) as file:
            while part := file.read(PIECE):
                yield part

    return _guarded(source.path, parts())


def _json_lines(source: Source, field: str) -> Iterator[str]:
    def lines() -> Iterator[str]:
        with _open(source) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _field_of(source.path, number, line, field)

    return _guarded(source.path, lines())


def _field_of(path: Path, number: int, line: bytes, field: str) -> str:
    try:
        row = json.loads(line)
    except ValueError as error:
        if isinstance(error, UnicodeDecodeError):
            raise
        raise Error(f"{path}:{number}: not a JSON object ({one_line(error)}): one a line is wanted") from None
    if not isinstance(row, dict) or not isinstance(row.get(field), str):
        known = ", ".join(list(row)[:8]) if isinstance(row, dict) else type(row).__name__
        raise Error(f"{path}:{number}: has no text under {field!r} (there is: {known}): name the field with --field")
    return encodable(row[field])


def _parquet(path: Path, field: str) -> Iterator[str]:
    try:
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise Error(f"{path}: parquet needs the Python library pyarrow (55 MB): {INSTALL}") from None

    def rows() -> Iterator[Optional[str]]:
        with pyarrow.parquet.ParquetFile(path) as file:
            if field not in file.schema_arrow.names:
                known = ", ".join(file.schema_arrow.names[:8])
                raise Error(f"{path}: has no column {field!r} (there is: {known}): name the column with --field")
            for batch in file.iter_batches(batch_size=1024, columns=[field]):
                yield from batch.column(0).to_pylist()

    for index, text in enumerate(_guarded(path, rows())):
        if not isinstance(text, str):
            raise Error(f"{path}: row {index} of {field!r} is no text: name the column with --field")
        yield text
