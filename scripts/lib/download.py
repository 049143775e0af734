"""Files that come over HTTPS and can be read while they do.

A download goes into PATH.partial and takes its name when it is whole; one that was stopped goes on where it was, unless
the server has another version by then: PATH.partial.etag says which one it is. One run at a time downloads a file.
"""

import http.client
import io
import os
import re
import shutil
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Callable, Optional

from errors import Error, one_line
from files import is_at, lock, remove_own

_TIMEOUT = 60  # seconds without a byte
_BLOCK = 1 << 20
_PATIENCE = 5  # seconds for a download that nobody reads any more to notice it
_LOOK_AGAIN = 0.2  # seconds between looks at another run's download

Came = Callable[[Path, int], None]  # told where the file is read and how many bytes are there


class Stopped(Exception):
    """Nobody reads what is downloaded any more."""


class Download(io.RawIOBase):
    """The bytes of the file at url, from the first; closing it before the end leaves what came for the next attempt."""

    def __init__(self, url: str, path: Path) -> None:
        super().__init__()
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
            _download(url, path, self._came)
        except Stopped:
            pass
        except BaseException as error:  # raised where the bytes are read
            self._error = error
        with self._news:
            self._done = True
            self._news.notify()

    def _came(self, source: Path, there: int) -> None:
        """So many bytes are on the disk now."""
        if self._stopped:
            raise Stopped
        with self._news:
            if self._file is None and there:
                self._file = open(source, "rb", buffering=0)
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
        _download(url, path, lambda source, there: None)


def _download(url: str, path: Path, came: Came) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    held = _turn(path, partial, came)
    if held is None:
        return came(path, path.stat().st_size)
    with open(held, "r+b") as file:
        try:
            _fill(url, file, partial, came)
            if not is_at(held, partial):
                raise Error(f"{partial}: was taken away while it was downloaded: start again")
            os.replace(partial, path)
            _version_file(partial).unlink(missing_ok=True)
        finally:
            _remove_empty(held, partial)


def _turn(path: Path, partial: Path, came: Came) -> Optional[int]:
    """The open partial file, when no other run has it; None where the file is whole by then."""
    told = False
    while not path.is_file():
        held = lock(partial)
        if held is not None and not path.is_file():
            return held
        if held is not None:  # the other run was done in between
            _remove_empty(held, partial)
            os.close(held)
            break
        if not told:
            print(f"{path}: another run is downloading it: waiting for it", file=sys.stderr, flush=True)
        told = True
        came(partial, 0)  # who does not read any more does not wait either
        time.sleep(_LOOK_AGAIN)
    return None


def _remove_empty(held: int, partial: Path) -> None:
    """Nothing is left of a download of which nothing came."""
    if os.fstat(held).st_size == 0:
        _version_file(partial).unlink(missing_ok=True)
        remove_own(held, partial)


def _fill(url: str, file: Any, partial: Path, came: Came) -> None:
    """Download what is not there yet."""
    have = os.fstat(file.fileno()).st_size
    print(f"{url}: downloading" + (f" from byte {have:,}" if have else ""), file=sys.stderr, flush=True)
    remedy = (f"get the file by other means and give it as --from, or put it at {partial.with_suffix('')}, or name a"
              " mirror of the hub in HF_ENDPOINT")
    try:
        _fetch(url, file, partial, have, came)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and not isinstance(error, urllib.error.HTTPError) and error.filename:
            raise  # of our own file, not of the connection
        raise Error(f"{url}: cannot be downloaded ({one_line(error)}): {remedy}") from error


def _fetch(url: str, file: Any, partial: Path, have: int, came: Came) -> None:
    begun = _version_file(partial).read_text("latin-1") if have and _version_file(partial).is_file() else ""
    answer = _ask(url, have, begun)
    if answer is None:
        return _fetch(url, file, partial, 0, came)
    with answer:
        if answer.status != http.client.PARTIAL_CONTENT:
            have = 0
        whole = _announced(answer, have)
        check_room(url, partial, have, (whole or have) - have)
        if not have:
            file.truncate(0)
            _version_file(partial).write_text(_version(answer), "latin-1")
        file.seek(have)
        _write(answer, file, partial, have, came)
    size = os.fstat(file.fileno()).st_size
    if whole is not None and size != whole:
        raise http.client.IncompleteRead(b"", whole - size)


def _ask(url: str, have: int, begun: str) -> Any:
    """The server's answer; None where what is there is not the beginning of what it has."""
    headers = {"Range": f"bytes={have}-"} if have else {}
    if begun:
        headers["If-Range"] = begun
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if not have or error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        return None  # nothing is behind what came, whole or of another file
    if answer.status == http.client.PARTIAL_CONTENT and begun and _version(answer) != begun:
        answer.close()  # a server that does not know If-Range
        return None
    return answer


def _write(answer: Any, file: Any, partial: Path, have: int, came: Came) -> None:
    """Append what comes."""
    came(partial, have)
    while block := answer.read1(_BLOCK):
        came(partial, have)  # what comes when nobody reads any more is not kept
        file.write(block)
        file.flush()  # a reader follows
        have += len(block)
        came(partial, have)
    os.fsync(file.fileno())


def _version_file(partial: Path) -> Path:
    """Where the server's name of the version that is downloaded is kept."""
    return partial.with_name(partial.name + ".etag")


def _version(answer: Any) -> str:
    """The server's name of the file's version, for If-Range, which takes no weak ETag; empty where it has none."""
    tag = answer.headers.get("ETag", "")
    return tag if tag.startswith('"') else answer.headers.get("Last-Modified", "")


def _announced(answer: Any, have: int) -> Optional[int]:
    """How many bytes the whole file has, as the server says, if it does."""
    part = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
    if part and int(part[1]) != have:
        raise http.client.HTTPException(f"bytes from {part[1]} on were sent, those from {have} on were asked for")
    if part and part[2] != "*":
        return int(part[2])
    length = answer.headers.get("Content-Length")
    return None if length is None else have + int(length)


def check_room(url: str, partial: Path, have: int, length: int) -> None:
    """Whether the disk takes so many bytes more; what is there already and not gone on with gives its own."""
    there = partial.stat().st_size if partial.is_file() else 0
    room = shutil.disk_usage(partial.parent).free + (0 if have else there)
    if length > room:
        raise Error(f"{url}: {length / 1e6:,.1f} MB are to come and {partial.parent} has room for {room / 1e6:,.1f} MB:"
                    " free some, or choose another disk with --cache")
