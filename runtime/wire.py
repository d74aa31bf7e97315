"""A strict reader for the part of protobuf that ONNX files use.

It never copies a payload, never trusts a length and knows only the fields of ONNX up to IR version 10: an unknown
field, another wire type or a repeated singular field is refused, because two readers may understand it differently.

Source: protocol buffers, "Encoding"; field numbers from ``onnx.proto`` (ONNX 1.17, IR version 10).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from runtime.errors import ModelError
from runtime.records import Record

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_DEPTH = 16
MAX_FIELDS = 500_000
"""In one file: ten times what the largest image classifiers have, read in less than a second."""


class Message(Record):
    """Which fields a message may have.

    Attributes:
        name: What messages of this kind are called in errors.
        varints: Singular integer fields.
        fixed32: Singular four-byte fields.
        bytes: Singular length-delimited fields left as they are.
        many: Repeated fields left as they are, of any wire type (packed or not).
        messages: Singular fields that hold another message.
        lists: Repeated fields that hold other messages.
    """

    name: str
    varints: frozenset[int] = frozenset()
    fixed32: frozenset[int] = frozenset()
    bytes: frozenset[int] = frozenset()
    many: frozenset[int] = frozenset()
    messages: Mapping[int, Message] = MappingProxyType({})
    lists: Mapping[int, Message] = MappingProxyType({})


Tree = dict[int, Any]
"""One parsed message: field number -> int, slice of the file, Tree, or a list of them for repeated fields."""


def parse(data: memoryview, message: Message) -> Tree:
    """Parse a file, and every message in it that its kind describes.

    Args:
        data: The whole file.
        message: The kind of the outermost message.

    Returns:
        Every field that is present; length-delimited ones without a kind as slices of `data`.

    Raises:
        ModelError: The bytes are truncated, overlong, nested too deeply, too many fields, or hold what `message` does
            not know.
    """
    return _parse(data, message, slice(0, len(data)), 0, iter(range(MAX_FIELDS)))


def _parse(data: memoryview, message: Message, where: slice, depth: int, budget: Iterator[int]) -> Tree:
    if depth > MAX_DEPTH:
        raise ModelError(f"model file: expected at most {MAX_DEPTH} nested messages, got more; export it again")
    tree: Tree = {}
    for number, wire, value, _ in fields(data, where):
        if next(budget, None) is None:
            raise ModelError(f"model file: expected at most {MAX_FIELDS} fields, got more; export a smaller network")
        if wire == BYTES and number in message.lists:
            tree.setdefault(number, []).append(_parse(data, message.lists[number], value, depth + 1, budget))
        elif number in message.many:
            tree.setdefault(number, []).append(value)
        elif number in tree:
            raise ModelError(f"{message.name}: expected field {number} once, got it twice; export the file again")
        elif wire == BYTES and number in message.messages:
            tree[number] = _parse(data, message.messages[number], value, depth + 1, budget)
        elif _is_plain(message, number, wire):
            tree[number] = value
        else:
            raise ModelError(
                f"{message.name}: expected fields of ONNX IR version 10, got field {number} of wire type {wire}"
                "; export the file again"
            )
    return tree


def _is_plain(message: Message, number: int, wire: int) -> bool:
    return (
        (wire == BYTES and number in message.bytes)
        or (wire == VARINT and number in message.varints)
        or (wire == FIXED32 and number in message.fixed32)
    )


def fields(data: memoryview, where: slice) -> Iterator[tuple[int, int, Any, slice]]:
    """Yield the fields of one message in file order.

    Args:
        data: The whole file.
        where: The bytes the message takes up.

    Yields:
        Field number, wire type, value (an int, or the slice of `data` that holds the payload) and the slice of
        `data` that the field takes up, tag included.

    Raises:
        ModelError: A tag, number or payload is cut off, overlong or of a wire type ONNX does not use.
    """
    position, stop = where.start, where.stop
    while position < stop:
        start = position
        tag, position = varint(data, position, stop)
        number, wire = tag >> 3, tag & 7
        if number == 0 or tag >> 32:
            raise ModelError(
                f"model file: expected a field number, got {number} at byte {start}; is this an ONNX file?"
            )
        value: int | slice
        if wire == VARINT:
            value, position = varint(data, position, stop)
        else:
            if wire == BYTES:
                length, position = varint(data, position, stop)
            elif wire in (FIXED32, FIXED64):
                length = 4 if wire == FIXED32 else 8
            else:
                raise ModelError(
                    f"model file: expected wire types 0, 1, 2, 5, got {wire} at byte {start}; export it again"
                )
            if length > stop - position:
                raise ModelError(
                    f"model file: expected {length} bytes after byte {position}, got {stop - position}"
                    "; it is cut off or damaged, copy it again"
                )
            value, position = slice(position, position + length), position + length
        yield number, wire, value, slice(start, position)


def varint(data: memoryview, position: int, stop: int) -> tuple[int, int]:
    """Read one variable-length integer.

    Args:
        data: The whole file.
        position: Where it starts.
        stop: Where it must have ended.

    Returns:
        Its value in [0, 2^64), and the position after it.

    Raises:
        ModelError: It is cut off, longer than it needs to be or does not fit in 64 bits.
    """
    if position < stop and data[position] < 0x80:  # nearly all of them
        return data[position], position + 1
    value = shift = 0
    while position < stop:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if (byte == 0 and shift) or value >> 64:
                break
            return value, position
        shift += 7
        if shift > 63:
            break
    raise ModelError(f"model file: expected a whole number that ends before byte {position}; copy or export it again")
