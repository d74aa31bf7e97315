"""Reverse rules of operators that move numbers without changing them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from calibration.graphs.tape import Array, Tape, attributes_of

_FAR = np.iinfo(np.int32).max


def _reshape(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    return [tape.reshape_like(grad, node.input[0])]


def _transpose(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    rank = len(tape.dims(node.input[0]))
    order = attributes_of(node).get("perm") or list(reversed(range(rank)))
    return [tape.op("Transpose", grad, perm=np.argsort(order).tolist())]


def _expand(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    return [tape.unbroadcast(grad, output=node.output[0], operand=node.input[0])]


def _tile(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    """Sum over the copies."""
    x, repeats = node.input[0], [int(times) for times in tape.constant_input(node, 1)]
    shape, copies = list[int](), list[int]()
    for times, size in zip(repeats, tape.free_dims(x), strict=True):
        if times != 1:
            copies.append(len(shape))
            shape.append(times)
        shape.append(size)
    if not copies:
        return [grad]
    return [tape.op("ReduceSum", tape.op("Reshape", grad, tape.ints(*shape)), tape.ints(*copies), keepdims=0)]


def _concat(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    axis = attributes_of(node)["axis"]
    sizes = [tape.static_dims(name, [axis])[0] for name in node.input]
    return list(tape.ops("Split", grad, tape.ints(*sizes), outputs=len(sizes), axis=axis))


def split(tape: Tape, node: NodeProto, grads: Sequence[str]) -> list[str | None]:
    """Concatenate the cotangents of all outputs of a Split."""
    return [tape.op("Concat", *grads, axis=attributes_of(node).get("axis", 0))]


def _slice(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    """Put the cotangent back where the slice was taken from."""
    x = node.input[0]
    starts, ends = constants(tape, node, 1), constants(tape, node, 2)
    axes, steps = constants(tape, node, 3) or range(len(starts)), constants(tape, node, 4) or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if (start, step) == (0, 1) and end >= _FAR:
            continue
        size = tape.static_dims(x, [axis])[0]
        # ONNX reaches index 0 from behind with any end below -size, Python only with None.
        stop = None if step < 0 and end < -size else end
        grad = placed(tape, grad, axis, np.arange(size)[start:stop:step], size, rank=len(tape.dims(x)))
    return [grad]


def placed(tape: Tape, grad: str, axis: int, places: Array, size: int, *, rank: int) -> str:
    """Append zeros of length `size` along `axis`, with `grad` at `places`, none of which occurs twice."""
    begin = int(places[0]) if len(places) else 0
    if np.array_equal(places, np.arange(begin, begin + len(places))):
        return tape.pad(grad, {axis: (begin, size - begin - len(places))}, rank=rank)
    source = np.full(size, len(places))
    source[places] = np.arange(len(places))
    with_zero = tape.pad(grad, {axis: (0, 1)}, rank=rank)
    return tape.op("Gather", with_zero, tape.constant(source, np.int64), axis=axis)


def _depth_to_space(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    attributes = attributes_of(node)
    block = attributes["blocksize"]
    if attributes.get("mode", "DCR") == "DCR":
        return [tape.op("SpaceToDepth", grad, blocksize=block)]
    channels, height, width = tape.static_dims(node.output[0], [1, 2, 3])
    cells = tape.op("Reshape", grad, tape.ints(-1, channels, height // block, block, width // block, block))
    return [tape.reshape_like(tape.op("Transpose", cells, perm=[0, 1, 3, 5, 2, 4]), node.input[0])]


def _space_to_depth(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    return [tape.op("DepthToSpace", grad, blocksize=attributes_of(node)["blocksize"])]


def _trilu(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    return [tape.op("Trilu", grad, *node.input[1:], upper=attributes_of(node).get("upper", 1))]


def constants(tape: Tape, node: NodeProto, index: int) -> list[int]:
    """Return an optional integer input; empty when the node leaves it out."""
    value = tape.optional_input(node, index)
    return [] if value is None else [int(number) for number in value.ravel()]


RULES = {
    "Concat": _concat,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _reshape,
    "Reshape": _reshape,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Squeeze": _reshape,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _reshape,
}
