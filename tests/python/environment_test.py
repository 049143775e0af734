"""scripts/lib/environment.py: which Python the programs of scripts/ run under."""

import json
import os
import subprocess
import sys
import unittest
from pathlib import Path
from typing import Optional

from support import ROOT, ProgramTest

VENV = ROOT / "build" / "venv"
OTHER = Path(sys.base_prefix) / "bin" / "python3"


@unittest.skipUnless(sys.prefix != sys.base_prefix and OTHER.exists(), "runs under no environment of its own")
class EnvironmentTest(ProgramTest):
    def seen(self, python: Path, named: Optional[Path]) -> tuple[str, dict[str, str]]:
        """What a program finds, started by a Python, with PVTUNE_PYTHON naming one."""
        program = self.folder / "program.py"
        program.write_text(f"import json, os, sys\nsys.path.insert(0, {str(ROOT / 'scripts' / 'lib')!r})\n"
                           "import environment\nprint(json.dumps([sys.prefix, dict(os.environ)]))\n")
        clean = {name: value for name, value in os.environ.items() if name != "PVTUNE_PYTHON"}
        done = subprocess.run([python, program], capture_output=True, text=True, check=False, timeout=60,
                              env=clean | ({"PVTUNE_PYTHON": str(named)} if named else {}))
        self.assertEqual(done.returncode, 0, done.stderr)
        prefix, environment = json.loads(done.stdout)
        self.assertEqual([name for name in environment if name.startswith("_PVTUNE")], [])
        return os.path.realpath(prefix), environment

    def test_the_projects_own(self) -> None:
        for python in (OTHER, VENV / "bin" / "python"):
            self.assertEqual(self.seen(python, None)[0], os.path.realpath(VENV))

    def test_the_one_that_a_user_names(self) -> None:
        for named, prefix in ((VENV / "bin" / "python", VENV), (OTHER, sys.base_prefix)):
            for python in (OTHER, VENV / "bin" / "python"):
                found, environment = self.seen(python, named)
                self.assertEqual(found, os.path.realpath(prefix), (named, python))
                self.assertEqual(environment["PVTUNE_PYTHON"], str(named), "what the program starts needs it too")


if __name__ == "__main__":
    unittest.main()
