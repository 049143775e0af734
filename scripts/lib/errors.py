"""Errors that a user can cause and mend: one line on standard error, exit status 2."""

import errno
import io
import os
import sys
from typing import Callable


class Error(Exception):
    """One line that names the file or flag, the value and the remedy."""


def one_line(text: object) -> str:
    """The text of an exception on a single line."""
    return " ".join(str(text).split())


def run(main: Callable[[], None]) -> None:
    """Call main and turn what a user can cause into one line and an exit status."""
    program = os.path.basename(sys.argv[0])
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # files' names are printed as they are, UTF-8 or not
    try:
        main()
        sys.stdout.flush()
    except Error as error:
        _fail(program, one_line(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _fail(program, describe(error))
    except MemoryError:
        _fail(program, "not enough memory for this input: split it into smaller files or use a larger machine")
    except ModuleNotFoundError as error:
        _fail(program, f"the Python library {error.name} is not installed: run `make setup`")
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        sys.exit(130)


def describe(error: OSError) -> str:
    """`path: what is wrong`, with a remedy where there is a usual one."""
    path = f"{error.filename}: " if error.filename else ""
    reason = one_line(error.strerror or error)
    if error.errno == errno.ENOSPC:
        reason = "no space left on the device: free some, or write elsewhere with --out"
    return path + reason[:1].lower() + reason[1:]


def _fail(program: str, text: str) -> None:
    print(f"{program}: {text}", file=sys.stderr)
    sys.exit(2)
