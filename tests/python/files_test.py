"""scripts/lib/files.py: files that are written whole or not at all, by one run at a time."""

import os
import stat
import unittest

from support import ProgramTest

import errors  # noqa: E402  (scripts/lib, on the path through support)
import files  # noqa: E402


class Replaced(ProgramTest):
    def setUp(self) -> None:
        super().setUp()
        self.path = self.folder / "a.txt"

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())

    def test_a_second_run_is_refused_and_leaves_the_first_ones_file(self) -> None:
        with files.replaced(self.path) as partial:
            partial.write_text("the first")
            with self.assertRaises(errors.Error) as refused:
                files.write_text(self.path, "the second")
            self.assertEqual(str(refused.exception),
                             f"{self.path}: another run is writing it: wait for it or choose another name")
        self.assertEqual(self.path.read_text(), "the first")
        files.write_text(self.path, "the second")
        self.assertEqual(self.path.read_text(), "the second")
        self.assertEqual(self.names(), ["a.txt"])

    def test_what_a_killed_run_left_is_written_over(self) -> None:
        self.folder.joinpath("a.txt.partial").write_text("much longer than what comes now")
        with files.replaced(self.path) as partial:
            self.assertEqual(partial.read_bytes(), b"")
            with open(partial, "rb+") as file:
                file.write(b"now")
        self.assertEqual(self.path.read_text(), "now")

    def test_a_failure_leaves_what_was_there(self) -> None:
        self.path.write_text("before")
        with self.assertRaises(KeyboardInterrupt), files.replaced(self.path) as partial:
            partial.write_text("half")
            raise KeyboardInterrupt
        self.assertEqual(self.path.read_text(), "before")
        self.assertEqual(self.names(), ["a.txt"])

    def test_a_file_that_took_the_partial_ones_name_is_neither_taken_nor_removed(self) -> None:
        with self.assertRaisesRegex(errors.Error, "partial: was taken away"), files.replaced(self.path) as partial:
            partial.unlink()
            partial.write_text("another one's")
        self.assertEqual(partial.read_text(), "another one's")
        self.assertEqual(self.names(), ["a.txt.partial"])

    def test_what_is_no_regular_file_stays(self) -> None:
        os.mkfifo(self.path)
        self.folder.joinpath("link").symlink_to("/dev/null")
        for name in ("a.txt", "link"):
            with self.assertRaisesRegex(errors.Error, f"{name}: is no regular file: name another"):
                files.write_text(self.folder / name, "text")
        self.assertTrue(stat.S_ISFIFO(self.path.stat().st_mode))
        self.assertEqual(self.names(), ["a.txt", "link"])


if __name__ == "__main__":
    unittest.main()
