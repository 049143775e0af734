"""`pvtune bench` as a user runs it, at sizes that take no time, on the CPU and on the emulated device."""

import json
import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BINARIES = {"cpu": os.environ.get("PVTUNE", str(ROOT / "build" / "pvtune")),
            "cuda": os.environ.get("PVTUNE_EMULATED", str(ROOT / "build" / "release" / "emulated" / "pvtune"))}
SIZES = {"sequences": 1, "length": 24, "width": 32, "intermediate": 48, "heads": 4, "kv_heads": 2, "head_dim": 8,
         "vocabulary": 96}
TINY = ",".join(f"{name}={value}" for name, value in SIZES.items())


class Bench(unittest.TestCase):
    """Each test has a folder of its own."""

    def setUp(self) -> None:
        scratch = tempfile.TemporaryDirectory(prefix="pvtune-bench-")
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)

    def start(self, device: str, *arguments: Any, **environment: str) -> subprocess.CompletedProcess:
        threads = [] if "--threads" in arguments else ["--threads", "1"]
        command = [BINARIES[device], "bench", "--device", device, *threads, "--seconds", "0", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=900, check=False,
                              env={**os.environ, **environment})

    def succeed(self, device: str, *arguments: Any, **environment: str) -> tuple[str, dict[str, Any]]:
        """The table and the JSON object."""
        done = self.start(device, *arguments, "--json", **environment)
        self.assertEqual(done.returncode, 0, done.stderr)
        table, _, last = done.stdout.rstrip("\n").rpartition("\n")
        return table, json.loads(last)

    def refused(self, *arguments: Any, says: str, device: str = "cpu", **environment: str) -> None:
        """One line, exit status 2, nothing half-written."""
        done = self.start(device, *arguments, **environment)
        self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
        self.assertRegex(done.stderr, r"\Apvtune: [^\n]+\n\Z")
        self.assertIn(says, done.stderr)
        self.assertEqual(list(self.folder.rglob("*.partial")), [])


class Results(Bench):
    def check_every_entry(self, device: str, precision: str) -> dict[str, Any]:
        table, result = self.succeed(device, "--shape", TINY, "--precision", precision, "--quiet")
        self.assertEqual(result["precision"], precision)
        self.assertEqual(result["shapes"], {TINY: SIZES})
        for limit in ("copy_bytes_per_second", "gemm_flops_per_second", "f32_gemm_flops_per_second"):
            self.assertGreater(result["limits"][limit], 0)
        for entry in result["entries"]:
            with self.subTest(op=entry["op"], version=entry["version"]):
                self.assertGreater(entry["seconds"], 0)
                self.assertLessEqual(entry["fastest_seconds"], entry["seconds"])
                self.assertGreaterEqual(entry["runs"], 3)
                self.assertGreater(entry["share"], 0)
                self.assertIn(entry["limit"], ("copy", "GEMM", "f32 GEMM"))
                self.assertAlmostEqual(entry["bytes_per_second"] * entry["seconds"], entry["bytes"], delta=1)
                self.assertEqual("reason" in entry, entry["version"] != "")
                name = entry["op"] + ("@" + entry["version"] if entry["version"] else "")
                self.assertIn(f"  {name} ", table)
        return result

    def test_cpu(self) -> None:
        result = self.check_every_entry("cpu", "bf16")
        names = {(entry["op"], entry["version"]) for entry in result["entries"]}
        self.assertLessEqual({("linear_forward_one_token", "onednn"), ("attention_backward", "")}, names)

    def test_emulated_device(self) -> None:
        result = self.check_every_entry("cuda", "bf16")
        names = {(entry["op"], entry["version"]) for entry in result["entries"]}
        self.assertLessEqual({("attention_forward", ""), ("attention_forward", "plain"), ("search_codes_1x8", ""),
                              ("hessian_accumulate", ""), ("linear_from_codes_2x8", "")}, names)
        self.assertIn("emulated", result["device"])

    def test_several_shapes_one_operation(self) -> None:
        shapes = (TINY, TINY + ",width=64")
        table, result = self.succeed("cpu", "--op", "rmsnorm", "--shape", *shapes)
        self.assertEqual([(entry["op"], entry["shape"]) for entry in result["entries"]],
                         [(f"rmsnorm_{way}", shape) for shape in shapes for way in ("forward", "backward")])
        self.assertEqual(table.count("median ms"), 2)

    def test_dry_run(self) -> None:
        for device in BINARIES:
            plan = self.succeed(device, "--shape", "70b", "--dry-run")[1]
            self.assertGreater(plan["memory_bytes"], 0)
            done = self.start(device, "--shape", TINY, "--dry-run", "--op", "rope")
            self.assertIn("rope_forward", done.stdout)
            self.assertIn("operands of the largest entry", done.stdout)

    def test_what_does_not_fit_is_skipped(self) -> None:
        large = TINY + ",tokens=8000000"
        table, result = self.succeed("cuda", "--op", "add", "--shape", TINY, large,
                                     PVTUNE_EMULATED_MEMORY=str(2 << 30))
        entries = {entry["shape"]: entry for entry in result["entries"] if entry["op"] == "add"}
        self.assertNotIn("skipped", entries[TINY])
        self.assertIn("needs", entries[large].get("skipped", ""))
        self.assertIn("skipped: needs", table)


class Coverage(Bench):
    """Entries are named after the operation, with what is special about them behind it: `linear_forward_bias`."""

    # Launchers that an operation of another name calls, always or with some operands.
    WITHIN = {"add_bias": "linear_forward_bias", "additive_group": "additive_sweep", "gptq_block": "gptq",
              "ldlq_block": "ldlq", "dequantize_gemv": "linear_from_codes", "kmeans_assign": "search_codes", "lattice_gemv": "linear_from_lattice",
              "scalar_gemv": "linear_from_scalar"}

    def declared(self, header: str, pattern: str) -> set[str]:
        names = set(re.findall(pattern, (ROOT / header).read_text(), re.MULTILINE))
        self.assertGreater(len(names), 70)
        return names

    def without_entry(self, device: str, names: set[str]) -> set[str]:
        """An entry is that of the longest name that it starts with: `sum_of_squares` is none of `sum`."""
        table = self.start(device, "--shape", TINY, "--dry-run").stdout
        entries = re.findall(r"^  (\w+) +sequences=", table, re.MULTILINE)
        self.assertGreater(len(entries), 100)
        owners = [[name for name in names if f"{entry}_".startswith(f"{name}_")] for entry in entries]
        return names - {max(found, key=len) for found in owners if found}

    def test_every_operation(self) -> None:
        operations = self.declared("host/backend/ops.h", r"^    virtual void (\w+)\(")
        for device in BINARIES:
            self.assertEqual(self.without_entry(device, operations), set(), device)

    def test_every_launcher(self) -> None:
        launchers = {self.WITHIN.get(name, name) for name in self.declared("cuda/kernels.h", r"^void (\w+)\(")}
        self.assertEqual(self.without_entry("cuda", launchers), set())


class Fingerprints(Bench):
    def hashes(self, device: str, *arguments: Any) -> dict[str, str]:
        table, result = self.succeed(device, "--fingerprint", "--shape", TINY, *arguments)
        found = result["fingerprints"]
        self.assertEqual(sorted(line.split()[0] for line in table.splitlines()), sorted(found.values()))
        return found

    def test_the_same_in_every_run(self) -> None:
        for device in BINARIES:
            for precision in ("f32", "bf16"):
                with self.subTest(device=device, precision=precision):
                    first = self.hashes(device, "--precision", precision)
                    self.assertEqual(first, self.hashes(device, "--precision", precision))
                    self.assertGreater(len(set(first.values())), 50)

    def test_the_same_for_any_number_of_threads(self) -> None:
        def ours(hashes: dict[str, str]) -> dict[str, str]:
            return {name: value for name, value in hashes.items() if "onednn" not in name}

        self.assertEqual(ours(self.hashes("cpu")), ours(self.hashes("cpu", "--threads", "3")))

    def test_other_operands_other_hashes(self) -> None:
        one, other = (self.succeed("cpu", "--fingerprint", "--op", "rmsnorm", "--shape", shape)[1]["fingerprints"]
                      for shape in (TINY, TINY + ",width=40"))
        self.assertFalse(set(one.values()) & set(other.values()))

    def test_times_and_fingerprints_do_not_mix(self) -> None:
        done = self.start("cpu", "--fingerprint", "--out", self.folder / "a.json")
        self.assertEqual(done.returncode, 2)
        self.assertIn("--fingerprint", done.stderr)


class Compare(Bench):
    def test_compare(self) -> None:
        before = self.folder / "before.json"
        _, first = self.succeed("cpu", "--op", "rope", "--shape", TINY, "--out", before)
        kept = json.loads(before.read_text())
        self.assertEqual(kept, first)
        for entry in kept["entries"]:
            entry["seconds"] = 1e-9 if entry["op"] == "rope_forward" else 1e9
        before.write_text(json.dumps(kept))
        table, _ = self.succeed("cpu", "--op", "rope", "--shape", TINY, "--compare", before)
        self.assertRegex(table, r"rope_forward .*slower\n")
        self.assertRegex(table, r"rope_backward .* 0\.00\n")
        self.assertIn("1 more than 5 % slower", table)

    def test_bad_files(self) -> None:
        bad = self.folder / "bad.json"
        self.refused("--compare", bad, says="no such file")
        for content in ("", "{", "[]", "{\"operations\": []}", "{\"pvtune_bench\": 1}", "\x89HDF\r\n\x1a\n"):
            bad.write_text(content)
            self.refused("--compare", bad, says="bad.json: ")
        bad.write_text("{\"pvtune_bench\": 99}")
        self.refused("--compare", bad, says="newer")

    def test_out_of_another_kind(self) -> None:
        model = self.folder / "model.h5"
        model.write_bytes(b"\x89HDF\r\n\x1a\n")
        self.refused("--op", "rmsnorm", "--shape", TINY, "--out", model, says="did not write")
        self.assertEqual(model.read_bytes(), b"\x89HDF\r\n\x1a\n")

    def test_bad_flags(self) -> None:
        self.refused("--shape", "8b", says="8b")
        self.refused("--shape", "7b,depth=3", says="depth")
        self.refused("--op", "nothing", says="nothing")
        self.refused("--shape", TINY, "--out", self.folder / "none" / "b.json", says="no folder")
        self.refused("--shape", TINY, says="memory", device="cuda", PVTUNE_EMULATED_MEMORY=str(600 << 20))


if __name__ == "__main__":
    unittest.main()
