"""Files that come over HTTPS and can be read while they do.

A download goes into PATH.partial and takes its name when it is whole; one that was stopped goes on where it was.
"""

import http.client
import io
import os
import shutil
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Callable, Optional

from errors import Error, one_line

_TIMEOUT = 60  # seconds without a byte
_BLOCK = 1 << 20
_PATIENCE = 5  # seconds for a download that nobody reads any more to notice it


class Stopped(Exception):
    """Nobody reads what is downloaded any more."""


class Download(io.RawIOBase):
    """The bytes of the file at url, from the first; closing it before the end leaves what came for the next attempt."""

    def __init__(self, url: str, path: Path) -> None:
        super().__init__()
        self._partial = path.with_name(path.name + ".partial")
        self._news = threading.Condition()
        self._there = 0  # bytes of the file on the disk
        self._done = self._stopped = False
        self._error: Optional[BaseException] = None
        self._file: Any = None
        self._position = 0
        # A reader that dies with its program takes the thread with it.
        self._thread = threading.Thread(target=self._run, args=(url, path), daemon=True)
        self._thread.start()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with self._news:
            self._news.wait_for(lambda: self._done or self._there > self._position)
            if self._error:
                raise self._error
            there = self._there
        if self._file is None:
            return 0  # whole, and empty
        some = self._file.readinto(memoryview(buffer)[: there - self._position])
        self._position += some
        return some

    def close(self) -> None:
        self._stopped = True
        self._thread.join(_PATIENCE)
        if self._file:
            self._file.close()
        super().close()

    def _run(self, url: str, path: Path) -> None:
        try:
            _download(url, path, self._partial, self._came)
        except Stopped:
            pass
        except BaseException as error:  # raised where the bytes are read
            self._error = error
        with self._news:
            self._done = True
            self._news.notify()

    def _came(self, there: int) -> None:
        """So many bytes are on the disk now."""
        if self._stopped:
            raise Stopped
        with self._news:
            if self._file is None and there:
                self._file = open(self._partial, "rb", buffering=0)
            self._there = there
            self._news.notify()


def read_as_it_comes(url: str, path: Path) -> Any:
    """The file at path, downloaded from url behind the reader's back where it is not there yet."""
    if path.is_file():
        return open(path, "rb")
    return io.BufferedReader(Download(url, path), _BLOCK)


def fetch(url: str, path: Path) -> None:
    """The whole file at path, downloaded where it is not there yet."""
    if not path.is_file():
        _download(url, path, path.with_name(path.name + ".partial"), lambda there: None)


def _download(url: str, path: Path, partial: Path, came: Callable[[int], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    have = partial.stat().st_size if partial.is_file() else 0
    print(f"{url}: downloading" + (f" from byte {have:,}" if have else ""), file=sys.stderr, flush=True)
    remedy = (f"get the file by other means and give it as --from, or put it at {path}, or name a mirror of the hub in"
              " HF_ENDPOINT")
    try:
        _fetch(url, partial, have, came)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and not isinstance(error, urllib.error.HTTPError) and error.filename:
            raise  # of our own file, not of the connection
        raise Error(f"{url}: cannot be downloaded ({one_line(error)}): {remedy}") from error
    os.replace(partial, path)


def _fetch(url: str, partial: Path, have: int, came: Callable[[int], None]) -> None:
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if not have or error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        return _fetch(url, partial, 0, came)  # nothing is behind what came, whole or of another file: once more
    with answer:
        if answer.status != http.client.PARTIAL_CONTENT:
            have = 0
        length = answer.headers.get("Content-Length")
        check_room(url, partial, have, int(length or 0))
        with open(partial, "ab" if have else "wb") as file:
            got = 0
            came(have)
            while block := answer.read1(_BLOCK):
                file.write(block)
                file.flush()  # a reader follows
                got += len(block)
                came(have + got)
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
