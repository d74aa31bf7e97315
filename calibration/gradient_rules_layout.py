"""Reverse rules of operators that move numbers without changing them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from calibration.gradient_tape import Tape, attributes_of, described
from runtime.errors import ModelError

_END = np.iinfo(np.int64).max


def _reshape(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    return [tape.reshape_like(grad, node.input[0])]


def _transpose(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    rank = len(tape.dims(node.input[0]))
    order = attributes_of(node).get("perm") or list(reversed(range(rank)))
    return [tape.op("Transpose", grad, perm=np.argsort(order).tolist())]


def _expand(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    return [tape.unbroadcast(grad, output=node.output[0], operand=node.input[0])]


def _concat(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    axis = attributes_of(node)["axis"]
    sizes = [tape.static_dims(name, [axis])[0] for name in node.input]
    return list(tape.ops("Split", grad, tape.ints(*sizes), outputs=len(sizes), axis=axis))


def split(tape: Tape, node: NodeProto, grads: Sequence[str]) -> list[str | None]:
    """Concatenate the cotangents of all outputs of a Split."""
    return [tape.op("Concat", *grads, axis=attributes_of(node).get("axis", 0))]


def _slice(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    """Pad the cotangent with zeros to where the slice was taken from."""
    x = node.input[0]
    starts, ends = _constants(tape, node, 1), _constants(tape, node, 2)
    axes = _constants(tape, node, 3) or range(len(starts))
    if any(stride != 1 for stride in _constants(tape, node, 4)):
        raise ModelError(f"expected {described(node)} in steps of 1, got {_constants(tape, node, 4)}")
    rank = len(tape.dims(x))
    before, after = [0] * rank, [0] * rank
    for start, end, axis in zip(starts, ends, axes, strict=True):
        if start != 0 or end < np.iinfo(np.int32).max:
            size = tape.static_dims(x, [axis])[0]
            taken = range(size)[start:end]
            before[axis], after[axis] = taken.start, size - taken.stop
    return [tape.op("Pad", grad, tape.ints(*before, *after))]


def _pad(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    """Cut the padding off."""
    mode, pads = attributes_of(node).get("mode", "constant"), _constants(tape, node, 1)
    if mode != "constant" or min(pads) < 0:
        raise ModelError(f"expected {described(node)} to add constants, got mode {mode!r} and pads {pads}")
    axes = _constants(tape, node, 3) or range(len(tape.dims(node.input[0])))
    before, after = pads[: len(pads) // 2], pads[len(pads) // 2 :]
    ends = [-width or _END for width in after]
    return [tape.op("Slice", grad, tape.ints(*before), tape.ints(*ends), tape.ints(*axes))]


def _gather(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    """Add the cotangent up at the places that were gathered."""
    x, indices = node.input[0], tape.constant_input(node, 1)
    if indices.ndim > 1:
        raise ModelError(
            f"expected {described(node)} to have a number or a vector of indices, got a matrix; flatten it"
        )
    rank = len(tape.dims(x))
    axis = attributes_of(node).get("axis", 0) % rank
    if indices.ndim == 0:
        grad = tape.op("Unsqueeze", grad, tape.ints(axis))
    places = tape.constant(indices.reshape(-1, *[1] * (rank - 1 - axis)), np.int64)
    everywhere = tape.op("Expand", places, tape.op("Shape", grad))
    return [tape.op("ScatterElements", tape.zeros_like(x), everywhere, grad, axis=axis, reduction="add")]


def _constants(tape: Tape, node: NodeProto, index: int) -> list[int]:
    """Return an optional integer input; empty when the node leaves it out."""
    value = tape.optional_input(node, index)
    return [] if value is None else [int(number) for number in value.ravel()]


RULES = {
    "Concat": _concat,
    "Expand": _expand,
    "Flatten": _reshape,
    "Gather": _gather,
    "Pad": _pad,
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _reshape,
    "Transpose": _transpose,
    "Unsqueeze": _reshape,
}
