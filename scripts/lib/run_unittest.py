"""Run one file of Python tests and write its cases as JSON: `run_unittest.py FILE RESULT`."""

import json
import os
import sys
import unittest


class _Result(unittest.TextTestResult):
    """Counts sub-tests with their test and remembers what happened to each."""

    def __init__(self, *arguments: object, **named: object) -> None:
        super().__init__(*arguments, **named)
        self.started: list[str] = []

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.started.append(test.id())


def main() -> None:
    path, out = sys.argv[1:]
    folder, name = os.path.split(os.path.abspath(path))
    sys.path.insert(0, folder)
    suite = unittest.defaultTestLoader.loadTestsFromName(os.path.splitext(name)[0])
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2, resultclass=_Result).run(suite)
    bad = {getattr(test, "test_case", test).id() for test, _ in result.errors + result.failures}
    bad |= {test.id() for test in result.unexpectedSuccesses}
    skipped = {test.id(): reason for test, reason in result.skipped}
    report = {
        "passed": sorted(set(result.started) - bad - skipped.keys()),
        "failed": sorted(bad),  # a class or module that could not be set up is among these
        "skipped": skipped,
    }
    with open(out, "w", encoding="utf-8") as file:
        json.dump(report, file, indent=2)
    sys.exit(0 if result.wasSuccessful() else 1)


if __name__ == "__main__":
    main()
