"""Damage to a guard file: blind, or by someone who computes the digest again so that the graph reaches ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tests.runtime import onnx_bytes as onnx
from tests.runtime.guard_files import read_document, stamp

INTERESTING = (0, 1, 0x7F, 0x80, 0xFF)


def mutate(model: bytes, rng: np.random.Generator) -> tuple[bytes, bool]:
    """Return a damaged copy, and whether its digest was made right again."""
    at = model.rindex(onnx.field(1, "cmt.guard"))
    bare = model[: at - 1 - len(onnx.varint(len(model) - at))]
    if rng.random() < 0.5:
        return damage(model, rng), False
    for _ in range(20):
        damaged = damage(bare, rng)
        try:
            return stamp(damaged, read_document(model)), True
        except Exception:
            continue  # so badly damaged that not even its threshold can be found
    return damage(model, rng), False


def damage(data: bytes, rng: np.random.Generator) -> bytes:
    """Change bytes at a random level of the protobuf tree, one to three times."""
    for _ in range(int(rng.integers(1, 4))):
        spans = [(0, len(data)), *messages(data, 0, len(data))]
        start, stop = spans[int(rng.integers(len(spans)))]
        data = DAMAGES[int(rng.integers(len(DAMAGES)))](bytearray(data), start, stop, rng)
    return data


def messages(data: bytes, start: int, stop: int, depth: int = 0) -> Iterator[tuple[int, int]]:
    """Yield the span of every length-delimited field, taking for a message whatever parses as one."""
    found = []
    position = start
    while position < stop:
        begin = position
        tag, position = _varint(data, position, stop)
        wire = tag & 7
        if tag < 8 or wire not in (0, 1, 2, 5):
            return
        if wire == 0:
            _, position = _varint(data, position, stop)
        elif wire == 2:
            length, position = _varint(data, position, stop)
            if length > stop - position:
                return
            found.append((begin, position, position + length))
            position += length
        else:
            position += 4 if wire == 5 else 8
    if position != stop:
        return
    yield start, stop
    for begin, inner, end in found:
        yield begin, end
        if depth < 8 and end - inner < 4000:
            yield from messages(data, inner, end, depth + 1)


def _varint(data: bytes, position: int, stop: int) -> tuple[int, int]:
    value = shift = 0
    while position < stop and shift < 70:
        value |= (data[position] & 0x7F) << shift
        position += 1
        if data[position - 1] < 0x80:
            return value, position
        shift += 7
    return 0, stop + 1


def flip_bit(data: bytearray, start: int, stop: int, rng: np.random.Generator) -> bytes:
    if stop > start:
        data[int(rng.integers(start, stop))] ^= 1 << int(rng.integers(8))
    return bytes(data)


def set_byte(data: bytearray, start: int, stop: int, rng: np.random.Generator) -> bytes:
    if stop > start:
        data[int(rng.integers(start, stop))] = INTERESTING[int(rng.integers(len(INTERESTING)))]
    return bytes(data)


def cut(data: bytearray, start: int, stop: int, rng: np.random.Generator) -> bytes:
    del data[int(rng.integers(start, stop + 1)) : stop]
    return bytes(data)


def remove(data: bytearray, start: int, stop: int, rng: np.random.Generator) -> bytes:
    del data[start:stop]
    return bytes(data)


def repeat(data: bytearray, start: int, stop: int, rng: np.random.Generator) -> bytes:
    data[stop:stop] = data[start:stop]
    return bytes(data)


def insert(data: bytearray, start: int, stop: int, rng: np.random.Generator) -> bytes:
    at = int(rng.integers(start, stop + 1))
    data[at:at] = rng.bytes(int(rng.integers(1, 9)))
    return bytes(data)


def move(data: bytearray, start: int, stop: int, rng: np.random.Generator) -> bytes:
    piece = data[start:stop]
    del data[start:stop]
    at = int(rng.integers(len(data) + 1))
    data[at:at] = piece
    return bytes(data)


DAMAGES = (flip_bit, flip_bit, flip_bit, set_byte, set_byte, cut, remove, repeat, insert, move)
