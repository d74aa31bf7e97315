"""Trusted loading: one file, read once, believed only after every check that needs no ONNX Runtime.

Source: ``docs/file-format.md``.
"""

from __future__ import annotations

import os
import struct
from typing import TypeAlias

from runtime.digests import digest, graph_digest, sha256, take_digests
from runtime.errors import ModelError, StaleError, UsageError, one_line
from runtime.files import open_regular
from runtime.graph import BOOL, FLOAT, INT32, INT64, UINT8, Graph, Shape, read_graph
from runtime.records import Record
from runtime.spec import Calibration, Golden, GuardSpec, InputSpec, Producer, canonical_json, is_sha256

__all__ = [
    "Artifact",
    "Calibration",
    "Golden",
    "GuardSpec",
    "InputSpec",
    "Producer",
    "canonical_json",
    "digest",
    "graph_digest",
    "read_artifact",
]

ELEMENT_NAMES = {FLOAT: "float32", UINT8: "uint8", INT32: "int32", INT64: "int64", BOOL: "bool"}
MAX_BYTES = 512 * 1024 * 1024
PathOrBytes: TypeAlias = "str | os.PathLike[str] | bytes"


class Artifact(Record):
    """A guard file that passed every check.

    Attributes:
        model: The bytes that were checked; load these, never the path again.
        sha256: SHA-256 of those bytes.
        graph: Digest of the graph alone; what its threshold was measured on.
        spec: What the file says about itself.
    """

    model: bytes
    sha256: str
    graph: str
    spec: GuardSpec


def read_artifact(source: PathOrBytes, *, sha256: str | None = None, stale: bool = False) -> Artifact:
    """Read a guard file once and check all that can be checked without running it.

    Args:
        source: Path of the file, or its bytes.
        sha256: The SHA-256 its bytes must have, 64 hexadecimal digits; None pins nothing.
        stale: Whether a stale threshold is let through, by whoever is about to measure a new one.

    Raises:
        ModelError: It is no regular file, too large, not the pinned one, no guard file, or contradicts itself.
        StaleError: Its threshold was measured on another graph or precision, and `stale` is False.
    """
    name = "model bytes" if isinstance(source, bytes) else str(os.fspath(source))
    try:
        return _check(_read(source), sha256, stale)
    except ModelError as error:
        raise type(error)(f"{name!a}: {error}") from None


def _read(source: PathOrBytes) -> bytes:
    if isinstance(source, bytes):
        _check_size(len(source))
        return source
    try:
        with open_regular(source) as file:
            size = os.fstat(file.fileno()).st_size
            _check_size(size)
            model = file.read(size + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise ModelError(f"expected a readable model file, got: {reason}; check the path") from None
    if len(model) != size:
        raise ModelError(f"expected {size} bytes, got {len(model)}; it changes while it is read, try again")
    return model


def _check_size(size: int) -> None:
    if not 0 < size <= MAX_BYTES:
        raise ModelError(f"expected 1 to {MAX_BYTES} bytes, got {size}; is this the .onnx file?")


def _check(model: bytes, pin: str | None, stale: bool) -> Artifact:
    if pin is not None:
        _check_pin(model, pin)
    data = memoryview(model)
    graph = read_graph(data)
    spec = GuardSpec.from_json(graph.document)
    digests = take_digests(data, graph.threshold, spec.to_document())
    if digests.content != spec.digest:
        raise ModelError(
            f"expected the digest {spec.digest}, got {digests.content}; its graph and its metadata do not belong "
            "together, export or calibrate it again"
        )
    _check_tensors(graph, spec)
    _check_rule(data, graph, spec)
    if not stale:
        _check_fresh(spec, digests.graph)
    return Artifact(model=model, sha256=digests.file, graph=digests.graph, spec=spec)


def _check_pin(model: bytes, pin: str) -> None:
    """Refuse another file before anything looks into it."""
    if not is_sha256(pin.lower() if isinstance(pin, str) else pin):
        raise UsageError(f"sha256: expected 64 hexadecimal digits, got {str(pin)!a:.80}; `sha256sum` prints them")
    got = sha256(model).hexdigest()
    if got != pin.lower():
        raise ModelError(f"expected the pinned SHA-256 {pin.lower()}, got {got}; this is another file")


def _check_tensors(graph: Graph, spec: GuardSpec) -> None:
    """Compare the declared inputs and outputs with the contract."""
    k = len(spec.classes)
    outputs: dict[str, tuple[int, Shape]] = {
        "labels": (INT32, (None,)),
        "accepted": (BOOL, (None,)),
        "confidence": (FLOAT, (None,)),
        "logits": (FLOAT, (None, k)),
    }
    if spec.rule == "pair":
        outputs["robust_logits"] = (FLOAT, (None, k))
    for kind, expected, got in (
        ("input", {"images": (UINT8, (None, *spec.input_shape))}, graph.inputs),
        ("output", outputs, graph.outputs),
    ):
        if got.keys() != expected.keys():
            raise ModelError(f"expected the {kind}s {sorted(expected)}, got {sorted(got)!a:.200}; export it again")
        for name, tensor in expected.items():
            if got[name] != tensor:
                raise ModelError(
                    f"{kind} {name}: expected {_describe(*tensor)}, got {_describe(*got[name])}; export it again"
                )


def _describe(kind: int, shape: Shape) -> str:
    shown = ", ".join("N" if size is None else str(size) for size in shape)
    return f"{ELEMENT_NAMES.get(kind, f'element type {kind}')} ({shown})"


def _check_rule(data: memoryview, graph: Graph, spec: GuardSpec) -> None:
    """Compare threshold and Classmap of the document with those of the graph."""
    expected, got = struct.pack("<f", spec.threshold), bytes(data[graph.threshold])
    if expected != got:
        shown = struct.unpack("<f", got)[0]
        raise ModelError(
            f"threshold: expected {spec.threshold} as in the metadata, got {shown} in the graph; calibrate it again"
        )
    if graph.classmap != spec.classmap:
        raise ModelError(
            f"classmap: expected {spec.classmap!a:.80} as in the metadata, got {graph.classmap!a:.80} in the graph"
            "; export it again"
        )


def _check_fresh(spec: GuardSpec, graph: str) -> None:
    """Compare what the threshold was measured on with what this file is."""
    if spec.calibration is None:
        return
    for name, expected, got in (
        ("precision", spec.precision, spec.calibration.precision),
        ("graph", graph, spec.calibration.graph),
    ):
        if expected != got:
            raise StaleError(
                f"stale threshold: expected one measured on the {name} {expected}, got one measured on {got}"
                "; run `cmt calibrate` on this file"
            )
