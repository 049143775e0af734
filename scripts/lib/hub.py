"""The data sets that quantisation papers use, fetched as plain files over HTTPS from the Hugging Face hub."""

import http.client
import os
import shutil
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple, Optional

from errors import Error, one_line

_TIMEOUT = 60  # seconds without a byte


class Dataset(NamedTuple):
    """Where a data set lies on the hub."""

    repository: str
    splits: dict[str, list[str]]  # files of each, in order
    join: Optional[str] = None  # between rows that are one text


_PAJAMA = ("arxiv", "book", "c4", "cc_2019-30", "cc_2020-05", "cc_2021-04", "cc_2022-05", "cc_2023-06", "github",
           "stackexchange", "wikipedia")

DATASETS = {
    # One row a line of text; GPTQ, AQLM and QuIP# join them like this, for tuning and for perplexity.
    "wikitext2": Dataset("Salesforce/wikitext",
                         {split: [f"wikitext-2-raw-v1/{split}-00000-of-00001.parquet"]
                          for split in ("train", "validation", "test")}, "\n\n"),
    "c4": Dataset("allenai/c4", {"train": [f"en/c4-train.{i:05d}-of-01024.json.gz" for i in range(1024)],
                                 "validation": [f"en/c4-validation.{i:05d}-of-00008.json.gz" for i in range(8)]}),
    "redpajama": Dataset("togethercomputer/RedPajama-Data-1T-Sample",
                         {"train": [f"{name}_sample.jsonl" for name in _PAJAMA]}),
}


def files_of(name: str, split: str, count: int, cache: Path) -> list[Path]:
    """The first count files (0: all) of a split on this machine, downloaded where they are not there yet."""
    dataset = DATASETS[name]
    if split not in dataset.splits:
        raise Error(f"--split {split}: {name} has {', '.join(dataset.splits)}")
    wanted = dataset.splits[split]
    if count > len(wanted):
        raise Error(f"--files {count}: the split {split} of {name} has {len(wanted)}")
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    found = []
    for file in wanted[: count or len(wanted)]:
        path = cache / dataset.repository / file
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            _download(f"{hub}/datasets/{dataset.repository}/resolve/main/{file}", path)
        found.append(path)
    return found


def _download(url: str, path: Path) -> None:
    """Into path.partial, from where an earlier attempt stopped, then renamed."""
    partial = path.with_name(path.name + ".partial")
    have = partial.stat().st_size if partial.is_file() else 0
    print(f"{url}: downloading" + (f" from byte {have:,}" if have else ""), file=sys.stderr, flush=True)
    remedy = (f"get the file by other means and give it as --from, or put it at {path}, or name a mirror of the hub in"
              " HF_ENDPOINT")
    try:
        _fetch(url, partial, have)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            partial.unlink(missing_ok=True)
        elif isinstance(error, OSError) and error.filename:
            raise  # of our own file, not of the connection
        raise Error(f"{url}: cannot be downloaded ({one_line(error)}): {remedy}") from error
    os.replace(partial, path)


def _fetch(url: str, partial: Path, have: int) -> None:
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
        if answer.status != http.client.PARTIAL_CONTENT:
            have = 0
        length = answer.headers.get("Content-Length")
        check_room(url, partial, have, int(length or 0))
        with open(partial, "ab" if have else "wb") as file:
            got = 0
            while block := answer.read(1 << 20):
                file.write(block)
                got += len(block)
            file.flush()
            os.fsync(file.fileno())
    if length is not None and got != int(length):
        raise http.client.IncompleteRead(b"", int(length) - got)


def check_room(url: str, partial: Path, have: int, length: int) -> None:
    """Whether the disk takes so many bytes more; what is there already and not gone on with gives its own."""
    there = partial.stat().st_size if partial.is_file() else 0
    room = shutil.disk_usage(partial.parent).free + (0 if have else there)
    if length > room:
        raise Error(f"{url}: {length / 1e6:,.1f} MB are to come and {partial.parent} has room for {room / 1e6:,.1f} MB:"
                    " free some, or choose another disk with --cache")
