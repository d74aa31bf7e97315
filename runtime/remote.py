"""Images that a manifest names by URI: ``file://`` by itself, object storage through pyarrow's file systems."""

from __future__ import annotations

import functools
import re
from importlib import import_module
from typing import Any
from urllib.parse import unquote, urlsplit

from runtime.errors import ImageError, UsageError, one_line

_PATIENT, _RETRY = ("gs", "gcs"), "retry_limit_seconds=20"
"""Google's client asks again for a quarter of an hour unless told otherwise, and nothing interrupts it."""
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def is_uri(text: str) -> bool:
    """Whether a text starts with ``scheme://``."""
    return _URI.match(text) is not None


def local_path(uri: str) -> str | None:
    """Return the path that a ``file://`` URI names on this machine; None for any other URI."""
    try:
        parts = urlsplit(uri)
    except ValueError:  # a bracket that opens no address
        return None
    if parts.scheme.lower() != "file" or parts.netloc not in ("", "localhost"):
        return None
    return unquote(parts.path, errors="surrogateescape")


def fetch(uri: str, *, max_bytes: int) -> bytes:
    """Read an object.

    Args:
        uri: ``s3://bucket/key``, ``gs://bucket/key`` or what else pyarrow's file systems know, with their options as
            a query; credentials come from the environment, as those file systems find them.
        max_bytes: Largest object that is read.

    Raises:
        ImageError: It cannot be read (``unreadable``), or is larger (``too-large``).
        UsageError: pyarrow is missing.
    """
    place, _, query = uri.partition("?")
    scheme, _, rest = place.partition("://")
    bucket, _, name = rest.partition("/")
    if scheme in _PATIENT and "retry_limit_seconds" not in query:
        query = f"{query}&{_RETRY}".lstrip("&")
    root = f"{scheme}://{bucket}" + ("?" + query if query else "")
    try:
        files, base = _file_system(root)
        with files.open_input_stream(f"{base}/{name}".lstrip("/")) as stream:
            content: bytes = stream.read(max_bytes + 1)
    except UsageError:
        raise
    except Exception as error:  # pyarrow has no common base class for what can go wrong
        raise ImageError(f"expected a readable object, got: {one_line(error)}", reason="unreadable") from None
    if len(content) > max_bytes:
        raise ImageError(f"expected at most {max_bytes} bytes, got more", reason="too-large")
    return content


@functools.lru_cache(maxsize=64)
def _file_system(root: str) -> tuple[Any, str]:
    try:
        fs = import_module("pyarrow.fs")
    except ImportError:
        raise UsageError(f"{root!a}: expected pyarrow to read it, got none; install cmt[parquet]") from None
    files, base = fs.FileSystem.from_uri(root)
    return files, str(base)
