"""A share of the 10,000 mutated files that scripts/fuzz.sh puts through pvtune, and that a fault would be seen."""

import os
import random
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fuzz"))
import mutated_files  # noqa: E402

MUTATIONS = 200


class MutatedFiles(unittest.TestCase):
    def test_no_crash_no_hang_no_output(self) -> None:
        with tempfile.TemporaryDirectory() as kept:
            counts, faults = mutated_files.run_all(MUTATIONS, seed=1, jobs=2, keep=Path(kept))
        self.assertEqual(faults, [])
        self.assertEqual(sum(runs for runs, _ in counts.values()), MUTATIONS)
        for name, (runs, refused) in counts.items():  # neither all harmless nor all broken beyond reading
            self.assertTrue(0 < refused, name)
        self.assertLess(sum(refused for _, refused in counts.values()), MUTATIONS)

    def test_a_mutation_is_known_by_its_number(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            results = []
            for _ in range(2):
                path = Path(folder) / "file"
                path.write_bytes(bytes(range(256)) * 8)
                mutated_files.bytes_changed(random.Random("0:7"), path)
                results.append(path.read_bytes())
        self.assertEqual(results[0], results[1])
        self.assertNotEqual(results[0], bytes(range(256)) * 8)

    def test_faults_are_seen(self) -> None:
        """Programs that do each forbidden thing."""
        for script, words in (("kill -SEGV $$", "status -11"), ("exit 1", "status 1"), ("exit 2", "no good line"),
                              ("echo 'pvtune: no' >&2; touch out.h5; exit 2", "left ['out.h5']"),
                              ("touch out.h5 out.h5.partial", "left ['out.h5', 'out.h5.partial']"), ("exec sleep 60", "hangs"),
                              ("echo 'pvtune: no' >&2; exit 2", "")):
            with tempfile.TemporaryDirectory() as folder:
                program = Path(folder) / "program"
                program.write_text(f"#!/bin/sh\n{script}\n")
                program.chmod(0o755)
                good = Path(folder) / "good"
                good.mkdir()
                (good / "file").write_bytes(bytes(100))
                (good / "out.h5.checkpoint").touch()
                seeds = [mutated_files.Seed("file", "file", ["import", "--out", "out.h5"], [mutated_files.bytes_changed])]
                with mock.patch.object(mutated_files, "PVTUNE", str(program)), \
                        mock.patch.object(mutated_files, "TIMEOUT", 1 if "sleep" in script else 60):
                    _, _, fault = mutated_files.run_one(good, seeds, 0, 0, Path(folder))
                self.assertIn(words, fault, script)
                self.assertEqual(bool(words), bool(fault), script)
                self.assertEqual(os.path.exists(Path(folder) / "mutated-0-0" / "command.txt"), bool(words))


if __name__ == "__main__":
    unittest.main()
