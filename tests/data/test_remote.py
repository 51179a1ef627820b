"""Files behind URLs, from a real HTTP server on loopback; what is said where a kind of URL needs another package."""

import gzip
import hashlib
import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alter_core.errors import DataError
from tests.data.conftest import MadeDomain, good_rows, jsonl


class Site:
    """Files by path, and what was asked for. `ranges` and `tags` say what the server can do."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.ranges = True
        self.tags = True
        self.status = 200
        self.url = ""


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(False)

        def do_GET(self) -> None:
            self._answer(True)

        def _answer(self, whole: bool) -> None:
            site.asked.append(f"{self.command} {self.path}")
            content = site.files.get(self.path.partition("?")[0], b"")
            status = site.status if self.path.partition("?")[0] in site.files else 404
            part = self.headers.get("Range")
            if status == 200 and part and site.ranges:
                first, _, last = part.removeprefix("bytes=").partition("-")
                end = min(int(last or len(content) - 1), len(content) - 1)
                length, status = len(content), 206
                content = content[int(first) : end + 1]
            self.send_response(status)
            if status == 206:
                self.send_header("Content-Range", f"bytes {first}-{end}/{length}")
            if site.ranges:
                self.send_header("Accept-Ranges", "bytes")
            if site.tags and status < 300:
                self.send_header("ETag", hashlib.sha256(site.files[self.path.partition("?")[0]]).hexdigest())
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if whole:
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Nothing: tests look at what was asked."""

    return Handler


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(made))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _csv() -> bytes:
    return "".join(f"{a},{b}\n" for a, b in [("input", "target"), *(row.values() for row in good_rows())]).encode()


def _parquet() -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(good_rows()), stream)
    return stream.getvalue()


FILES = {
    "/rows.jsonl": jsonl(good_rows()),
    "/rows.jsonl.gz": gzip.compress(jsonl(good_rows())),
    "/rows.csv": _csv(),
    "/rows.parquet": _parquet(),
}


@pytest.mark.parametrize("ranges", [True, False], ids=["with ranges", "without ranges"])
@pytest.mark.parametrize("name", FILES)
def test_every_format_is_read_over_http(site: Site, made: MadeDomain, name: str, ranges: bool) -> None:
    site.files, site.ranges = dict(FILES), ranges
    dataset = made.ingest({"source": {"path": site.url + name}})
    assert sum(dataset.manifest["tasks"]["task"]["rows"].values()) == 200
    made.write("rows.jsonl", good_rows())
    assert made.ingest().digest == dataset.digest  # as from a file


def test_a_file_with_the_same_entity_tag_is_not_read_again(site: Site, made: MadeDomain) -> None:
    site.files["/rows.jsonl"] = jsonl(good_rows())
    source = {"source": {"path": f"{site.url}/rows.jsonl"}}
    first = made.ingest(source)
    site.asked.clear()
    assert made.ingest(source).path == first.path
    assert not [each for each in site.asked if each.startswith("GET")]
    site.files["/rows.jsonl"] = jsonl(good_rows(300))
    assert made.ingest(source).digest != first.digest


def test_without_an_entity_tag_rows_are_read_anew_and_their_content_tells(site: Site, made: MadeDomain) -> None:
    site.files["/rows.jsonl"], site.tags = jsonl(good_rows()), False
    source = {"source": {"path": f"{site.url}/rows.jsonl"}}
    first = made.ingest(source)
    assert first.manifest["fingerprint"] is None
    site.asked.clear()
    assert made.ingest(source).path == first.path
    assert [each for each in site.asked if each.startswith("GET")]


def test_a_signed_url_is_read_and_its_signature_kept_nowhere(site: Site, made: MadeDomain) -> None:
    site.files = dict(FILES)
    dataset = made.ingest({"source": {"path": f"{site.url}/rows.jsonl.gz?signature=hunter2"}})
    assert sum(dataset.manifest["tasks"]["task"]["rows"].values()) == 200
    assert any("hunter2" in each for each in site.asked)
    assert "hunter2" not in "".join(file.read_text() for file in dataset.path.rglob("*.json"))


def test_urls_that_differ_in_their_query_are_both_read(site: Site, made: MadeDomain) -> None:
    site.files["/rows.jsonl"] = jsonl(good_rows())
    dataset = made.ingest({"source": {"path": [f"{site.url}/rows.jsonl?page={page}" for page in (1, 2)]}})
    assert dataset.manifest["tasks"]["task"]["read"] == 400
    assert dataset.manifest["tasks"]["task"]["duplicates"] == 200


def test_a_bad_line_is_named_with_its_url_and_number(site: Site, made: MadeDomain) -> None:
    site.files["/rows.jsonl"] = jsonl(good_rows()) + b"{nope}\n"
    with pytest.raises(DataError, match=r"http://127.0.0.1:\d+/rows.jsonl:201: not valid JSON"):
        made.ingest({"source": {"path": f"{site.url}/rows.jsonl?signature=hunter2"}})


@pytest.mark.parametrize(
    ("status", "says", "transient"),
    [
        (404, "there is no such file", False),
        (403, "access was refused", False),
        (418, "answers with status 418", False),
        (503, "cannot be reached", True),
    ],
)
def test_what_a_server_refuses_is_told_and_retried_only_where_that_may_help(
    site: Site, made: MadeDomain, status: int, says: str, transient: bool
) -> None:
    site.files["/rows.jsonl"], site.status = b"", status
    with pytest.raises(DataError, match=says) as caught:
        made.ingest({"source": {"path": f"{site.url}/rows.jsonl"}})
    assert caught.value.transient == transient


@pytest.mark.parametrize(("url", "package", "extra"), [("s3", "s3fs", "s3"), ("gs", "gcsfs", "gcs")])
def test_a_kind_of_url_that_needs_a_package_names_the_extra(
    made: MadeDomain, url: str, package: str, extra: str
) -> None:
    if find_spec(package):
        pytest.skip(f"{package} is installed")
    for path in (f"{url}://bucket/rows.jsonl", f"{url}://bucket/*.jsonl"):
        with pytest.raises(DataError, match=rf"needs {package}: pip install 'alter-factory\[{extra}\]'") as caught:
            made.ingest({"source": {"path": path}})
        assert not caught.value.transient
