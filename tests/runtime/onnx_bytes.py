"""A writer of ONNX files in a hundred lines, so that these tests need no onnx."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

FLOAT, UINT8, INT32, INT64, BOOL = 1, 2, 6, 7, 9
ELEMENT_TYPES = {"float32": FLOAT, "uint8": UINT8, "int32": INT32, "int64": INT64, "bool": BOOL}


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number: int, value: int | float | bytes | str) -> bytes:
    """One field: ints as varints, floats as fixed32, bytes and text with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    payload = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def fields(number: int, values: Iterable[int | bytes | str]) -> bytes:
    return b"".join(field(number, value) for value in values)


def tensor(name: str, array: np.ndarray, extra: bytes = b"") -> bytes:
    """TensorProto with raw_data; `extra` is appended as it is."""
    kind = ELEMENT_TYPES[array.dtype.name]
    return fields(1, array.shape) + field(2, kind) + field(8, name) + field(9, array.tobytes()) + extra


def attribute(name: str, value: int | Sequence[int] | bytes) -> bytes:
    """AttributeProto; bytes are taken as a TensorProto."""
    if isinstance(value, int):
        return field(1, name) + field(3, value) + field(20, 2)
    if isinstance(value, bytes):
        return field(1, name) + field(5, value) + field(20, 4)
    return field(1, name) + fields(8, value) + field(20, 7)


def node(
    operator: str, inputs: str, outputs: str, domain: str | None = None, extra: bytes = b"", **attributes
) -> bytes:
    """NodeProto; names of inputs and outputs separated by spaces."""
    body = fields(1, inputs.split()) + fields(2, outputs.split()) + field(4, operator)
    body += b"".join(field(5, attribute(name, value)) for name, value in attributes.items())
    return body + (field(7, domain) if domain is not None else b"") + extra


def value_info(name: str, kind: int, shape: Sequence[int | str]) -> bytes:
    dimensions = b"".join(field(1, field(1, size) if isinstance(size, int) else field(2, size)) for size in shape)
    return field(1, name) + field(2, field(1, field(1, kind) + field(2, dimensions)))


def graph(
    nodes: Iterable[bytes],
    initializers: Mapping[str, np.ndarray | bytes],
    inputs: Iterable[bytes],
    outputs: Iterable[bytes],
    extra: bytes = b"",
) -> bytes:
    """GraphProto; an initializer given as bytes is a whole TensorProto."""
    tensors = [each if isinstance(each, bytes) else tensor(name, each) for name, each in initializers.items()]
    return fields(1, nodes) + field(2, "g") + fields(5, tensors) + fields(11, inputs) + fields(12, outputs) + extra


def opset(version: int = 18, domain: str = "") -> bytes:
    return field(1, domain) + field(2, version)


def entry(key: str, value: str) -> bytes:
    return field(1, key) + field(2, value)


def model(graph_: bytes, *, ir_version: int = 10, opsets: Iterable[bytes] = (opset(),), extra: bytes = b"") -> bytes:
    return field(1, ir_version) + field(7, graph_) + fields(8, opsets) + extra
