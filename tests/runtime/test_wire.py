from __future__ import annotations

import pytest

from runtime.errors import ModelError
from runtime.wire import MAX_DEPTH, MAX_FIELDS, Message, fields, parse, varint
from tests.runtime import onnx_bytes as onnx

LEAF = Message(name="Leaf", varints=frozenset({1}), fixed32=frozenset({2}), bytes=frozenset({3}))
NESTED = Message(name="Nested", many=frozenset({1}), messages={2: LEAF}, lists={3: LEAF})


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 2**32, 2**63, 2**64 - 1])
def test_varint_reads_what_the_writer_wrote(number: int) -> None:
    data = onnx.varint(number)
    assert varint(memoryview(data), 0, len(data)) == (number, len(data))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x80", id="cut off"),
        pytest.param(b"\x80\x00", id="longer than needed"),
        pytest.param(b"\xff" * 9 + b"\x02", id="65 bits"),
        pytest.param(b"\xff" * 10 + b"\x01", id="11 bytes"),
    ],
)
def test_varint_refuses(data: bytes) -> None:
    with pytest.raises(ModelError, match="expected a whole number that ends"):
        varint(memoryview(data), 0, len(data))


def test_fields_come_in_file_order_with_their_spans() -> None:
    data = onnx.field(1, 300) + onnx.field(3, b"abc") + onnx.field(2, 1.5)
    found = list(fields(memoryview(data), slice(0, len(data))))
    assert [(number, wire) for number, wire, _, _ in found] == [(1, 0), (3, 2), (2, 5)]
    assert b"".join(data[span] for *_, span in found) == data
    assert data[found[1][2]] == b"abc"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"\x00\x01", "expected a field number, got 0", id="field 0"),
        pytest.param(onnx.varint(2**33) + b"\x01", "expected a field number", id="tag beyond 32 bits"),
        pytest.param(b"\x0b", "expected wire types 0, 1, 2, 5, got 3", id="group start"),
        pytest.param(b"\x0c", "expected wire types 0, 1, 2, 5, got 4", id="group end"),
        pytest.param(b"\x0f", "expected wire types 0, 1, 2, 5, got 7", id="no wire type"),
        pytest.param(b"\x0a\x05abc", "expected 5 bytes after byte 2, got 3", id="payload cut off"),
        pytest.param(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "bytes after byte", id="length of 2^63"),
        pytest.param(b"\x0d\x00", "expected 4 bytes", id="fixed32 cut off"),
        pytest.param(b"\x09\x00", "expected 8 bytes", id="fixed64 cut off"),
    ],
)
def test_fields_refuse(data: bytes, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        list(fields(memoryview(data), slice(0, len(data))))


def test_parse_builds_the_tree() -> None:
    leaf = onnx.field(1, 7)
    data = (
        onnx.field(1, 5) + onnx.field(1, b"\x05\x06") + onnx.field(2, leaf) + onnx.field(3, leaf) + onnx.field(3, b"")
    )
    tree = parse(memoryview(data), NESTED)
    assert tree[1][0] == 5
    assert data[tree[1][1]] == b"\x05\x06"
    assert tree[2] == {1: 7}
    assert tree[3] == [{1: 7}, {}]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(onnx.field(9, 1), "Nested: expected fields of ONNX", id="unknown field"),
        pytest.param(onnx.field(2, 1), "Nested: expected fields of ONNX", id="number where a message belongs"),
        pytest.param(onnx.field(2, onnx.field(1, b"")), "Leaf: expected fields of ONNX", id="bytes for a number"),
        pytest.param(onnx.field(2, onnx.field(3, 1)), "Leaf: expected fields of ONNX", id="number for bytes"),
        pytest.param(onnx.field(2, b"") * 2, "Nested: expected field 2 once", id="singular message twice"),
        pytest.param(onnx.field(3, onnx.field(1, 1) * 2), "Leaf: expected field 1 once", id="singular number twice"),
    ],
)
def test_parse_refuses(data: bytes, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        parse(memoryview(data), NESTED)


def test_parse_limits_the_depth() -> None:
    inner: dict[int, Message] = {}
    endless = inner[1] = Message(name="Endless", lists=inner)
    data = b""
    for _ in range(MAX_DEPTH):
        data = onnx.field(1, data)
    assert parse(memoryview(data), endless)
    with pytest.raises(ModelError, match=f"expected at most {MAX_DEPTH} nested messages"):
        parse(memoryview(onnx.field(1, data)), endless)


def test_parse_limits_the_fields_of_all_messages_together() -> None:
    inside = onnx.field(3, onnx.fields(1, [7] * 9)) * (MAX_FIELDS // 10)
    nested = Message(name="Nested", lists={3: NESTED})
    assert parse(memoryview(inside), nested)
    with pytest.raises(ModelError, match=f"expected at most {MAX_FIELDS} fields"):
        parse(memoryview(inside + onnx.field(3, b"")), nested)
