from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec

import pytest

from runtime.errors import ImageError, UsageError
from runtime.remote import fetch, is_uri, local_path

OBJECTS = {"/images/sub/a.png": b"content", "/images/large.png": bytes(2000)}


class Store(BaseHTTPRequestHandler):
    """As much of S3 as reading an object takes."""

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        content = OBJECTS.get(self.path.partition("?")[0])
        self.send_response(404 if content is None else 206 if "Range" in self.headers else 200)
        if content is not None and "Range" in self.headers:
            start, _, end = self.headers["Range"].removeprefix("bytes=").partition("-")
            total, content = len(content), content[int(start) : int(end or -2) + 1]
            self.send_header("Content-Range", f"bytes {start}-{int(start) + len(content) - 1}/{total}")
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if body and content:
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The query that leads pyarrow to an object store of our own."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Store)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    yield f"?endpoint_override=127.0.0.1:{server.server_port}&scheme=http&region=here"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket/key", True),
        ("file:///a/b", True),
        ("GS://bucket/key", True),
        ("a/b", False),
        ("/a//b", False),
        ("c://a", False),
        ("=cmd://a", False),
    ],
)
def test_is_uri(text: str, expected: bool) -> None:
    assert is_uri(text) is expected


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///a/b%20c.png", "/a/b c.png"),
        ("file://localhost/a", "/a"),
        ("file:///%FF", os.fsdecode(b"/\xff")),
        ("file://elsewhere/a", None),
        ("s3://bucket/a", None),
    ],
)
def test_local_path(uri: str, path: str | None) -> None:
    assert local_path(uri) == path


def test_objects(options: str) -> None:
    if find_spec("pyarrow") is None:
        with pytest.raises(UsageError, match=r"expected pyarrow to read it, got none; install cmt\[parquet\]"):
            fetch("s3://images/sub/a.png" + options, max_bytes=1000)
        return
    assert fetch("s3://images/sub/a.png" + options, max_bytes=1000) == b"content"
    with pytest.raises(ImageError, match="expected at most 1000 bytes, got more") as caught:
        fetch("s3://images/large.png" + options, max_bytes=1000)
    assert caught.value.reason == "too-large"
    with pytest.raises(ImageError, match="expected a readable object, got") as caught:
        fetch("s3://images/missing.png" + options, max_bytes=1000)
    assert caught.value.reason == "unreadable"


def test_an_unknown_scheme() -> None:
    error, message = (
        (UsageError, "expected pyarrow") if find_spec("pyarrow") is None else (ImageError, "expected a readable object")
    )
    with pytest.raises(error, match=message):
        fetch("gopher://host/a.png", max_bytes=1000)


@pytest.mark.parametrize("uri", ["http://[bad", "file://[x"])
def test_a_bracket_that_opens_no_address_names_no_local_file(uri: str) -> None:
    assert local_path(uri) is None
