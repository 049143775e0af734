"""Count single test cases from the reports that scripts/test.sh gathers; end with `N passed, N failed`.

Usage: test_summary.py RESULTS FAILED PROGRAM...
RESULTS is the folder of <program>.xml (GoogleTest) and <program>.json (Python); FAILED a file that names the programs
which did not end with success; PROGRAM are those that ran. A program without a report crashed (or timed out): it counts
as one failed case, and so does one in which no test ran.
"""

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

Counts = tuple[int, list[str], list[str]]


def gtest_cases(path: Path) -> Counts:
    """Passed, failed and skipped cases of a GoogleTest XML report (its JSON leaves out why a case was skipped)."""
    passed, failed, skipped = 0, [], []
    for case in ElementTree.parse(path).iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        if case.find("failure") is not None:
            failed.append(name)
        elif case.get("result") == "skipped":
            # The message is "file:line\nreason\n".
            messages = [entry.get("message", "").split("\n", 1)[-1] for entry in case.findall("skipped")]
            reason = " ".join(" ".join(messages).split())
            skipped.append(f"{name}: {reason or 'no reason given'}")
        elif case.get("status") == "notrun":
            skipped.append(f"{name}: disabled")
        else:
            passed += 1
    return passed, failed, skipped


def unittest_cases(path: Path) -> Counts:
    """The same of a report of run_unittest.py."""
    report = json.loads(path.read_text(encoding="utf-8"))
    return len(report["passed"]), report["failed"], [f"{name}: {why}" for name, why in report["skipped"].items()]


def main() -> None:
    results, failed_file, programs = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    unsuccessful = set(failed_file.read_text(encoding="utf-8").split()) if failed_file.is_file() else set()
    passed = 0
    failed: list[str] = []
    skipped: list[str] = []
    for program in programs:
        try:
            xml = results / f"{program}.xml"
            good, bad, left_out = gtest_cases(xml) if xml.exists() else unittest_cases(results / f"{program}.json")
        except (OSError, ValueError, KeyError, ElementTree.ParseError):
            failed.append(f"{program}: ended without a report (it crashed, ran out of time or was not built)")
            continue
        passed += good
        failed += [f"{program}: {name}" for name in bad]
        skipped += [f"{program}: {reason}" for reason in left_out]
        if not good and not bad and not left_out:
            failed.append(f"{program}: no test ran in it")
        elif program in unsuccessful and not bad:
            failed.append(f"{program}: every case passed, but the program ended with an error")
    for line in skipped:
        print(f"skipped  {line}")
    for line in failed:
        print(f"FAILED   {line}")
    if passed + len(failed) == 0:
        print("no test ran")
    print(f"{passed} passed, {len(failed)} failed" + (f", {len(skipped)} skipped" if skipped else ""))
    sys.exit(1 if failed or passed == 0 else 0)


if __name__ == "__main__":
    main()
