"""Data sets of the hub: scripts/prepare_data.py --dataset against a local server."""

import contextlib
import email.utils
import functools
import gzip
import http.client
import http.server
import importlib.util
import io
import json
import os
import threading
import unittest
import zlib
from pathlib import Path
from typing import Optional
from unittest import mock

import numpy
from prepare_data_test import PrepareTest, prepare_data

import download  # noqa: E402  (scripts/lib, on the path through support)
import errors  # noqa: E402


class Hub(PrepareTest):
    """A local server in place of the hub."""

    def serve(self, ranges: bool = True, longer: int = 0, first: Optional[int] = None, busy: str = "",
              tags: str = "") -> str:
        """Its address; what was asked for is in self.asked. Files are announced as longer than they are, what is
        behind their first bytes comes when self.let_go is set, and the busy one never. tags: `ETag` or `Last-Modified`,
        with a `!` in front for a server that knows no If-Range."""
        self.let_go = let_go = threading.Event()
        self.addCleanup(let_go.set)
        self.asked: list[tuple[str, Optional[str]]] = []
        asked = self.asked

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                asked.append((self.path, self.headers["Range"]))
                path = Path(self.translate_path(self.path))
                if not path.is_file():
                    return self.send_error(404)
                if path.name == busy:
                    return self.send_error(503)
                data = path.read_bytes()
                start = int(self.headers["Range"][6:-1]) if ranges and self.headers["Range"] else 0
                date = email.utils.formatdate(len(data), usegmt=True)
                tag = f'"{zlib.crc32(data)}"' if tags.endswith("ETag") else date
                if tags and tags[0] != "!" and self.headers["If-Range"] not in (None, tag):
                    start = 0
                if start and start >= len(data):
                    return self.send_error(416)
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(data) - start + longer))
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data) + longer}")
                if tags:
                    self.send_header(tags.lstrip("!"), tag)
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # nobody wants the rest
                    self.wfile.write(data[start:first])
                    if first is not None:
                        let_go.wait()
                        self.wfile.write(data[first:])

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=self.folder / "hub"))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        return f"http://127.0.0.1:{server.server_port}"

    def publish(self, name: str, data: bytes) -> None:
        path = self.folder / "hub" / "datasets" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def test_files_of_a_data_set_in_order(self) -> None:
        for i, text in enumerate(self.texts[:2]):
            self.publish(f"allenai/c4/resolve/main/en/c4-train.{i:05d}-of-01024.json.gz",
                         gzip.compress(json.dumps({"text": text}).encode()))
        cache = ("--cache", self.folder / "cache")
        with mock.patch.dict(os.environ, {"HF_ENDPOINT": self.serve()}):
            self.prepare("--dataset", "c4", "--files", 2, *cache)
            self.assertEqual(self.tokens().tolist(), [token for text in self.texts[:2] for token in self.ids(text)])
            self.prepare("--dataset", "c4", *cache)
            self.assertEqual(len(self.asked), 2)  # kept
            self.refuse(*self.common("--dataset", "c4", "--files", 3, *cache), says="404")
            self.refuse(*self.common("--dataset", "c4", "--split", "test", *cache), says="c4 has train, validation")
            self.refuse(*self.common("--dataset", "redpajama", "--files", 12, *cache), says="has 11")

    def test_a_download_goes_on_where_it_stopped(self) -> None:
        self.publish("togethercomputer/RedPajama-Data-1T-Sample/resolve/main/arxiv_sample.jsonl", self.lines.read_bytes())
        partial = self.folder / "cache/togethercomputer/RedPajama-Data-1T-Sample/arxiv_sample.jsonl.partial"
        for ranges in (True, False):
            partial.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(self.lines.read_bytes()[:1000])
            with mock.patch.dict(os.environ, {"HF_ENDPOINT": self.serve(ranges)}):
                self.prepare("--dataset", "redpajama", "--cache", self.folder / "cache")
            self.assertEqual(self.asked[0][1], "bytes=1000-")
            self.assertEqual(partial.with_suffix("").read_bytes(), self.lines.read_bytes())
            partial.with_suffix("").unlink()

    def test_a_server_that_is_busy_costs_nothing_and_a_mirror_goes_on(self) -> None:
        name = "togethercomputer/RedPajama-Data-1T-Sample"
        for file in ("arxiv", "book"):
            self.publish(f"{name}/resolve/main/{file}_sample.jsonl", self.lines.read_bytes())
        partial = self.folder / "cache" / name / "book_sample.jsonl.partial"
        partial.parent.mkdir(parents=True)
        partial.write_bytes(self.lines.read_bytes()[:1000])
        flags = ("--dataset", "redpajama", "--files", 2, "--cache", self.folder / "cache")
        with mock.patch.dict(os.environ, {"HF_ENDPOINT": self.serve(busy="book_sample.jsonl")}), \
                mock.patch.object(prepare_data, "_BATCH", 1):
            done = self.start(*self.common(*flags))
        self.assertEqual(done.returncode, 2)
        self.assertIn("503", done.stderr.splitlines()[-1])
        self.assertEqual(partial.stat().st_size, 1000)
        with mock.patch.dict(os.environ, {"HF_ENDPOINT": self.serve()}):
            result = self.prepare(*flags, "--resume")
        self.assertEqual(self.asked, [(f"/datasets/{name}/resolve/main/book_sample.jsonl", "bytes=1000-")])
        self.assertEqual(result["documents_read"], 2 * len(self.texts))

    def test_a_download_stopped_before_it_had_its_name_is_made_again(self) -> None:
        name = "togethercomputer/RedPajama-Data-1T-Sample"
        self.publish(f"{name}/resolve/main/arxiv_sample.jsonl", self.lines.read_bytes())
        partial = self.folder / "cache" / name / "arxiv_sample.jsonl.partial"
        partial.parent.mkdir(parents=True)
        partial.write_bytes(self.lines.read_bytes())
        with mock.patch.dict(os.environ, {"HF_ENDPOINT": self.serve()}):
            self.prepare("--dataset", "redpajama", "--cache", self.folder / "cache")
        self.assertEqual(len(self.asked), 2)
        self.assertEqual(partial.with_suffix("").read_bytes(), self.lines.read_bytes())
        self.assertEqual(self.tokens().tolist(), [token for text in self.texts for token in self.ids(text)])

    def test_no_more_comes_than_is_read(self) -> None:
        lines = self.lines.read_bytes() * 500  # half of them more than is tokenised together
        self.publish("togethercomputer/RedPajama-Data-1T-Sample/resolve/main/arxiv_sample.jsonl", lines)
        whole = self.folder / "cache/togethercomputer/RedPajama-Data-1T-Sample/arxiv_sample.jsonl"
        partial = whole.with_name(whole.name + ".partial")
        flags = ("--dataset", "redpajama", "--ctx", 16, "--cache", self.folder / "cache")
        with mock.patch.object(download, "_PATIENCE", 1):
            with mock.patch.dict(os.environ, {"HF_ENDPOINT": self.serve(first=len(lines) // 2)}):
                some = self.prepare(*flags, "--sequences", 20)
            self.assertEqual(some["sequences"], 20)
            first = self.tokens()
            self.assertFalse(whole.exists())
            self.assertTrue(lines.startswith(partial.read_bytes()))
            have = partial.stat().st_size
            self.assertGreater(have, 0)
            self.let_go.set()  # what comes now is not wanted any more
            with mock.patch.dict(os.environ, {"HF_ENDPOINT": self.serve()}):
                self.prepare(*flags)
        self.assertEqual(self.asked[0][1], f"bytes={have}-")
        self.assertEqual(whole.read_bytes(), lines)
        numpy.testing.assert_array_equal(self.tokens()[: len(first)], first)

    def test_a_connection_that_breaks_off_is_one_line_and_what_came_is_kept(self) -> None:
        self.publish("allenai/c4/resolve/main/en/c4-train.00000-of-01024.json.gz", gzip.compress(self.lines.read_bytes()))
        cache = ("--cache", self.folder / "cache")
        with mock.patch.dict(os.environ, {"HF_ENDPOINT": self.serve(longer=10)}):
            broken = self.start(*self.common("--dataset", "c4", *cache))
        self.assertEqual(broken.returncode, 2)
        self.assertIn("cannot be downloaded (IncompleteRead", broken.stderr.splitlines()[-1])
        (partial,) = (self.folder / "cache").rglob("*.partial")
        self.assertGreater(partial.stat().st_size, 0)

    def test_two_runs_download_a_file_once(self) -> None:
        data = bytes(range(256)) * 1000
        self.publish("d", data)
        address, path = self.serve(first=len(data) // 2), self.folder / "cache" / "d"
        begun, waits, lock = threading.Event(), threading.Event(), download.lock

        def watched(partial: Path) -> Optional[int]:
            held = lock(partial)
            (begun if held is not None else waits).set()
            return held

        said = io.StringIO()
        with mock.patch.object(download, "lock", watched), contextlib.redirect_stderr(said):
            one = threading.Thread(target=download.fetch, args=(f"{address}/datasets/d", path))
            one.start()
            self.assertTrue(begun.wait(60))
            with download.read_as_it_comes(f"{address}/datasets/d", path) as other:
                self.assertTrue(waits.wait(60))
                self.let_go.set()
                self.assertEqual(other.read(), data)
            one.join(60)
        self.assertEqual(path.read_bytes(), data)
        self.assertEqual(len(self.asked), 1)
        self.assertEqual(said.getvalue().count("another run is downloading it: waiting for it"), 1)
        self.assertEqual([left.name for left in path.parent.iterdir()], ["d"])

    def test_a_file_that_changed_on_the_server_is_begun_anew(self) -> None:
        path, old, new = self.folder / "cache" / "d", b"old" * 1000, b"newer" * 1000
        for tags in ("ETag", "Last-Modified", "!ETag"):
            with self.subTest(tags=tags), contextlib.redirect_stderr(io.StringIO()):
                self.publish("d", old)
                with self.assertRaisesRegex(errors.Error, "IncompleteRead"):
                    download.fetch(self.serve(longer=1, tags=tags) + "/datasets/d", path)
                self.publish("d", new)
                download.fetch(self.serve(tags=tags) + "/datasets/d", path)
                self.assertEqual([found for _, found in self.asked], ["bytes=3000-", None][: 1 + (tags == "!ETag")])
                self.assertEqual(path.read_bytes(), new)
                self.assertEqual([left.name for left in path.parent.iterdir()], ["d"])
                path.unlink()

    def test_a_download_of_the_same_version_goes_on(self) -> None:
        self.publish("d", b"old" * 1000)
        path = self.folder / "cache" / "d"
        with contextlib.redirect_stderr(io.StringIO()):
            with self.assertRaisesRegex(errors.Error, "IncompleteRead"):
                download.fetch(self.serve(longer=1, tags="ETag") + "/datasets/d", path)
            with open(path.with_name("d.partial"), "rb+") as file:
                file.truncate(1234)
            download.fetch(self.serve(tags="ETag") + "/datasets/d", path)
        self.assertEqual([range_ for _, range_ in self.asked], ["bytes=1234-"])
        self.assertEqual(path.read_bytes(), b"old" * 1000)

    def test_the_size_is_what_the_server_announces(self) -> None:
        def announced(have: int, **headers: str) -> Optional[int]:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return download._announced(mock.Mock(headers=named), have)

        self.assertIsNone(announced(0))
        self.assertEqual(announced(10, Content_Length="5"), 15)
        self.assertEqual(announced(10, Content_Length="5", Content_Range="bytes 10-14/*"), 15)
        self.assertEqual(announced(10, Content_Length="5", Content_Range="bytes 10-14/99"), 99)
        self.assertRaises(http.client.HTTPException, announced, 10, Content_Range="bytes 0-14/15")

    def test_a_file_that_the_disk_has_no_room_for_is_not_begun(self) -> None:
        name = "togethercomputer/RedPajama-Data-1T-Sample"
        self.publish(f"{name}/resolve/main/arxiv_sample.jsonl", self.lines.read_bytes())
        folder = self.folder / "cache" / name
        with mock.patch.dict(os.environ, {"HF_ENDPOINT": self.serve(longer=10**17)}):
            self.refuse(*self.common("--dataset", "redpajama", "--cache", self.folder / "cache"),
                        says=f" MB are to come and {folder} has room for ")
        self.assertEqual(list(folder.iterdir()), [])

    def test_room_is_counted_to_the_byte(self) -> None:
        partial = self.folder / "a.partial"
        with mock.patch("download.shutil.disk_usage", return_value=mock.Mock(free=1000)):
            download.check_room("url", partial, 0, 1000)
            self.assertRaises(errors.Error, download.check_room, "url", partial, 0, 1001)
            partial.write_bytes(b"1")
            self.assertRaises(errors.Error, download.check_room, "url", partial, 1, 1001)
            download.check_room("url", partial, 0, 1001)  # begun anew, in the place of what was there

    def test_an_unreachable_hub_is_one_line_with_the_remedy(self) -> None:
        with mock.patch.dict(os.environ, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
            for name in ("c4", "wikitext2", "redpajama"):
                self.refuse(*self.common("--dataset", name, "--cache", self.folder / "cache"), says="give it as --from")

    @unittest.skipUnless(importlib.util.find_spec("pyarrow"), "pyarrow is not installed (requirements-data.txt)")
    def test_wikitext_is_joined_as_in_the_papers(self) -> None:
        import pyarrow
        import pyarrow.parquet

        rows = ["", " = Title = \n", "", " Some text . \n", ""]
        pyarrow.parquet.write_table(pyarrow.table({"text": rows}), self.folder / "rows")
        self.publish("Salesforce/wikitext/resolve/main/wikitext-2-raw-v1/test-00000-of-00001.parquet",
                     (self.folder / "rows").read_bytes())
        with mock.patch.dict(os.environ, {"HF_ENDPOINT": self.serve()}):
            self.prepare("--dataset", "wikitext2", "--split", "test", "--cache", self.folder / "cache")
        self.assertEqual(self.tokens().tolist(), self.ids("\n\n".join(rows)))


if __name__ == "__main__":
    unittest.main()
