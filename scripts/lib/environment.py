"""Run under the project's own Python environment, whatever `python3` started the program.

Imported first by every program in scripts/. The pinned libraries live in build/venv (PVTUNE_PYTHON names another Python,
as for pvtune); a program started by another interpreter (`scripts/tokenize.py ...` from a shell) starts itself again with
that one.
"""

import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_PYTHON = os.environ.get("PVTUNE_PYTHON") or os.path.join(ROOT, "build", "venv", "bin", "python")
_ENTERED = "_PVTUNE_ENTERED"  # guards against a loop; for this process alone


def _place(program: str) -> tuple[str, str]:
    """Two environments have links to one interpreter, and one environment several links to it."""
    return os.path.realpath(os.path.dirname(program)), os.path.realpath(program)


def _enter() -> None:
    """Replace this process by the same command under that Python, once, if it exists."""
    if _ENTERED in os.environ or _place(sys.executable) == _place(_PYTHON):
        return
    if os.access(_PYTHON, os.X_OK) and getattr(sys.modules["__main__"], "__file__", None):
        os.environ[_ENTERED] = "1"
        sys.stdout.flush()
        os.execv(_PYTHON, [_PYTHON, os.path.abspath(sys.modules["__main__"].__file__), *sys.argv[1:]])


_enter()
os.environ.pop(_ENTERED, None)
