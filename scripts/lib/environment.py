"""Run under the project's own Python environment, whatever `python3` started the program.

Imported first by every program in scripts/. The pinned libraries live in build/venv; a program started by another
interpreter (`scripts/tokenize.py ...` from a shell, or by `pvtune generate`) starts itself again with that one.
"""

import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_VENV = os.path.join(ROOT, "build", "venv")
_PYTHON = os.path.join(_VENV, "bin", "python")


def _enter() -> None:
    """Replace this process by the same command under build/venv, once, if that environment exists."""
    if os.path.realpath(sys.prefix) == os.path.realpath(_VENV) or "PVTUNE_PYTHON" in os.environ:
        return
    if os.access(_PYTHON, os.X_OK) and getattr(sys.modules["__main__"], "__file__", None):
        os.environ["PVTUNE_PYTHON"] = _PYTHON  # guards against a loop
        sys.stdout.flush()
        os.execv(_PYTHON, [_PYTHON, os.path.abspath(sys.modules["__main__"].__file__), *sys.argv[1:]])


_enter()
os.environ.pop("PVTUNE_PYTHON", None)
