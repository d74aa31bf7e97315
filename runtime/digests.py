"""The digests of a guard file, in one pass over the bytes they share.

Source: ``docs/file-format.md``, "Digests".
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from runtime.graph import locate_threshold
from runtime.records import Record
from runtime.spec import canonical_json
from runtime.wire import fields

if TYPE_CHECKING:
    import hashlib

    from runtime.openssl import Hash, OpenSSL

METADATA_FIELD = 14


class Digests(Record):
    """Three SHA-256 of one file, as lower-case hexadecimal.

    Attributes:
        file: Of its bytes; what ``Guard(path, sha256=...)`` pins.
        graph: Of its fields without metadata, the threshold zeroed; what a threshold is measured on.
        content: Of its fields without metadata, followed by the document without `digest`.
    """

    file: str
    graph: str
    content: str


def sha256(data: bytes | memoryview) -> Hash | hashlib._Hash:
    """Start a SHA-256 with `data`, straight from OpenSSL, or by Python where there is none."""
    try:
        return _openssl().sha256(data)
    except (ImportError, OSError):
        import hashlib

        return hashlib.sha256(data)


@cache
def _openssl() -> OpenSSL:
    from runtime.openssl import OpenSSL  # here, as importing the package need not pay for it

    return OpenSSL()


def take_digests(data: memoryview, threshold: slice, document: Mapping[str, Any]) -> Digests:
    """Return all digests of a file.

    Args:
        data: The whole file.
        threshold: Where the bytes of its threshold lie.
        document: Its metadata document; the key `digest` is left out of account.

    Raises:
        ModelError: The bytes are no protobuf, or the document is no JSON.
    """
    spans = [(number, span) for number, _, _, span in fields(data, slice(0, len(data)))]
    shared = min([threshold.start] + [span.start for number, span in spans if number == METADATA_FIELD])
    common = sha256(data[:shared])
    file, graph, content = common.copy(), common.copy(), common.copy()
    file.update(data[shared:])
    for number, span in spans:
        if number == METADATA_FIELD or span.stop <= shared:
            continue
        start = max(span.start, shared)
        content.update(data[start : span.stop])
        if start <= threshold.start < span.stop:
            graph.update(data[start : threshold.start])
            graph.update(bytes(threshold.stop - threshold.start))
            start = threshold.stop
        graph.update(data[start : span.stop])
    unsigned = {key: value for key, value in document.items() if key != "digest"}
    content.update(canonical_json(unsigned).encode("ascii"))
    return Digests(file=file.hexdigest(), graph=graph.hexdigest(), content=content.hexdigest())


def graph_digest(model: bytes) -> str:
    """Return the digest that a calibration record names: the file without metadata, its threshold zeroed.

    Args:
        model: An ONNX file with the initializer `threshold`; it need not be stamped yet.

    Raises:
        ModelError: The bytes are no ONNX file, or it has no threshold.
    """
    data = memoryview(model)
    return take_digests(data, locate_threshold(data), {}).graph


def digest(model: bytes, document: Mapping[str, Any]) -> str:
    """Return the digest that belongs into a document: the file without metadata, then the document.

    Args:
        model: An ONNX file with the initializer `threshold`; it need not be stamped yet.
        document: The metadata document; the key `digest` is left out of account.

    Raises:
        ModelError: The bytes are no ONNX file, it has no threshold, or the document is no JSON.
    """
    data = memoryview(model)
    return take_digests(data, locate_threshold(data), document).content
