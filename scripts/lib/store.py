"""Write the program's HDF5 stores (io/store.h is the C++ side, docs/formats.md the layout).

The file is made in memory and then written like any other, so that a full disk is a plain error. Metadata is of the
HDF5 1.10 format, whose headers carry checksums; data lies in chunks with Fletcher-32 sums; the content hash is the one
that io/store_catalog.cpp computes.
"""

import io
import os
import struct
import sys
from pathlib import Path
from typing import Any, Union

from errors import Error
from files import check_target, replaced

FORMAT_VERSION = 1
_CHUNK_BYTES = 1 << 20
_LONGEST_TEXT = 60_000  # an attribute lies in its object's header, whose messages end at 64 KiB
_DTYPES = {"float32": "f32", "float16": "f16", "float64": "f64", "uint8": "u8", "uint16": "u16", "uint32": "u32",
           "int32": "i32", "int64": "i64"}

Value = Union[str, int, float]


def command_line() -> str:
    """The command that runs, as the store's `command` attribute."""
    import shlex

    words = [os.path.join("scripts", os.path.basename(sys.argv[0])), *sys.argv[1:]]
    text = " ".join(shlex.quote(word) for word in words)
    return text if len(_utf8(text)) <= _LONGEST_TEXT else text[: _LONGEST_TEXT // 4] + " ..."


def _utf8(text: str) -> bytes:
    """As UTF-8, with U+FFFD for what is not in a file's name."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").encode("utf-8")


def write_store(path: Path, kind: str, command: str, datasets: dict[str, tuple[Any, dict[str, Value]]]) -> str:
    """Write datasets (`/name` -> array, attributes) as a store of a kind; return the content hash. Of what is there
    already only a store of that kind is replaced."""
    import h5py

    check_replaces(path, kind)
    root: dict[str, Value] = {"format_version": FORMAT_VERSION, "kind": kind, "command": command}
    digest = content_hash(root, datasets)
    root["content_hash"] = digest
    memory = io.BytesIO()
    with h5py.File(memory, "w", libver=("v110", "v110")) as file:
        set_attributes(file, root)
        for name, (array, attributes) in datasets.items():
            rows = _chunk_rows(array)
            dataset = file.create_dataset(name, data=array, chunks=(rows, *array.shape[1:]), fletcher32=True)
            set_attributes(dataset, attributes)
    with replaced(path) as partial:
        partial.write_bytes(memory.getbuffer())
    return digest


def check_replaces(path: Path, kind: str) -> None:
    """Refuse to write over a file that is no store of this kind; to be asked before long work too."""
    import h5py

    check_target(path)
    if not path.is_file() or path.stat().st_size == 0:
        return
    try:
        with h5py.File(path, "r") as file:
            found = bytes(file.attrs.get("kind", b"")).decode("utf-8", "replace")
    except (OSError, TypeError):
        found = ""
    if found != kind:
        raise Error(f"{path}: is a file, but no store of {kind!r}; remove it or choose another --out")


def set_attributes(target: Any, attributes: dict[str, Value]) -> None:
    """Texts of fixed length: HDF5 keeps those of variable length in a heap that has no checksum."""
    import h5py
    import numpy

    for name, value in attributes.items():
        if isinstance(value, str):
            data = _utf8(value)
            dtype = h5py.string_dtype("utf-8", max(len(data), 1))
            target.attrs.create(name, numpy.array(data, dtype=dtype), dtype=dtype)
        else:
            target.attrs.create(name, value, dtype="<i8" if isinstance(value, int) else "<f8")


def _chunk_rows(array: Any) -> int:
    """Rows of a chunk of at most _CHUNK_BYTES, evened out so that the last one is not mostly padding."""
    most = max(1, _CHUNK_BYTES // (array.nbytes // array.shape[0]))
    pieces = -(-array.shape[0] // most)
    return -(-array.shape[0] // pieces)


def content_hash(root: dict[str, Value], datasets: dict[str, tuple[Any, dict[str, Value]]]) -> str:
    """XXH3-128 over all objects in order of path, without the root's `command` and `content_hash`."""
    import xxhash

    digest = xxhash.xxh3_128()

    def text(value: str) -> None:
        data = _utf8(value)
        digest.update(struct.pack("<q", len(data)) + data)

    def attributes(values: dict[str, Value]) -> None:
        for name in sorted(values, key=lambda key: key.encode()):
            value = values[name]
            text(name)
            if isinstance(value, str):
                text("text")
                text(value)
            elif isinstance(value, int):
                text("integer")
                digest.update(struct.pack("<q", value))
            else:
                text("real")
                digest.update(struct.pack("<d", value))

    text("/")
    text("group")
    attributes({name: value for name, value in root.items() if name not in ("command", "content_hash")})
    for path in sorted(datasets, key=lambda key: key.encode()):
        array, values = datasets[path]
        text(path)
        text(_DTYPES[array.dtype.name])
        digest.update(struct.pack(f"<{1 + array.ndim}q", array.ndim, *array.shape))
        data = xxhash.xxh3_128()
        rows = _chunk_rows(array)
        for first in range(0, array.shape[0], rows):
            data.update(array[first : first + rows].tobytes())
        digest.update(data.digest())
        attributes(values)
    return digest.hexdigest()
