"""pvtune completion and pvtune manual: everything that --help shows is in them, and a shell that has read them completes."""

import os
import re
import shutil
import subprocess
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PVTUNE = os.environ.get("PVTUNE", str(ROOT / "build" / "pvtune"))


def pvtune(*arguments: str) -> str:
    """Standard output of a command that succeeds."""
    return subprocess.run([PVTUNE, *arguments], capture_output=True, text=True, check=True, timeout=60).stdout


def commands() -> list[str]:
    """The names under `Subcommands:` in pvtune --help."""
    listed = pvtune("--help").split("Subcommands:\n")[1].split("\n\n")[0]
    return [line.split()[0] for line in listed.splitlines() if re.match(r"  [a-z]", line)]


def flags(command: str) -> set[str]:
    """Every flag at the start of a line of its --help."""
    found: set[str] = set()
    for line in pvtune(command, "--help").splitlines():
        if line.startswith("  -"):
            found.update(re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", line.split("  ")[1].split(" ")[0].replace(",", " ")))
    return found


class Help(unittest.TestCase):
    def test_every_command_teaches_by_an_example(self) -> None:
        self.assertGreaterEqual(len(commands()), 11)
        for command in commands():
            with self.subTest(command):
                self.assertIn("Example: pvtune " + command, pvtune(command, "--help"))

    def test_what_cannot_be_completed_is_refused(self) -> None:
        for arguments in (["completion"], ["completion", "fish"]):
            done = subprocess.run([PVTUNE, *arguments], capture_output=True, text=True, check=False, timeout=60)
            self.assertEqual(done.returncode, 2)
            self.assertRegex(done.stderr, r"\Apvtune: shell[^\n]+\n\Z")


class Bash(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.script = pvtune("completion", "bash")

    def complete(self, *words: str, folder: Path = ROOT) -> list[str]:
        """What bash offers for the last of the words behind `pvtune`."""
        program = self.script + ('COMP_WORDS=(pvtune "$@"); COMP_CWORD=$#; _pvtune; printf "%s\\n" "${COMPREPLY[@]}"')
        done = subprocess.run(["bash", "-c", program, "bash", *words], capture_output=True, text=True, check=True,
                              cwd=folder, timeout=60)
        self.assertEqual(done.stderr, "")
        return done.stdout.split("\n")[:-1] if done.stdout.strip() else []

    def test_every_command(self) -> None:
        self.assertLessEqual({*commands(), "--help", "--version"}, set(self.complete("")))
        self.assertEqual(self.complete("qu"), ["quantize"])

    def test_every_flag_of_every_command(self) -> None:
        for command in commands():
            with self.subTest(command):
                self.assertTrue(flags(command))
                self.assertEqual(set(self.complete(command, "-")), flags(command))

    def test_values(self) -> None:
        self.assertEqual(self.complete("tune", "--strategy", "pv"), ["pv", "pv-ste"])
        self.assertEqual(self.complete("eval", "--device", ""), ["cpu", "cuda"])
        self.assertEqual(self.complete("completion", "z"), ["zsh"])
        self.assertEqual(self.complete("tune", "--steps", ""), [])

    def test_files(self) -> None:
        self.assertEqual(self.complete("eval", "--model", "READ"), ["README.md"])
        self.assertEqual(self.complete("inspect", "READ"), ["README.md"])


class Zsh(unittest.TestCase):
    def test_every_command_and_flag_is_there(self) -> None:
        script = pvtune("completion", "zsh")
        for command in commands():
            body = script.split(f"\n        {command}) _arguments", 1)[1].split(";;\n", 1)[0]
            self.assertIn(f"'{command}:", script)
            for flag in flags(command):
                self.assertRegex(body, rf"'{re.escape(flag)}\[")
        self.assertIn("(topk sample random block layer-budget eager)", script)

    @unittest.skipUnless(shutil.which("zsh"), "no zsh here")
    def test_zsh_reads_it(self) -> None:
        program = "autoload -U compinit && compinit -D\n" + pvtune("completion", "zsh") + "\nprint $_comps[pvtune]"
        done = subprocess.run(["zsh", "-f", "-c", program], capture_output=True, text=True, check=False, timeout=60)
        self.assertEqual((done.stdout, done.stderr), ("_pvtune\n", ""))


class Manual(unittest.TestCase):
    def test_every_command_flag_and_example_is_there(self) -> None:
        page = pvtune("manual").replace("\\-", "-").replace("\\fB", "").replace("\\fR", "")
        for command in commands():
            with self.subTest(command):
                section = page.split(f'.SS "pvtune {command}"\n', 1)[1].split("\n.SS ")[0]
                for flag in flags(command):
                    self.assertRegex(section, rf"(?m)^(-h, )?{re.escape(flag)}(,| |$)")
                self.assertIn("Example: pvtune " + command, section)

    @unittest.skipUnless(shutil.which("groff"), "no groff here")
    def test_roff_without_warnings(self) -> None:
        done = subprocess.run(["groff", "-ww", "-man", "-z"], input=pvtune("manual"), capture_output=True, text=True,
                              check=False, timeout=60)
        self.assertEqual((done.returncode, done.stderr), (0, ""))


if __name__ == "__main__":
    unittest.main()
