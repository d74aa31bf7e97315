"""Reverse rules of operators that pick elements by index: the cotangent goes, or is added, to where they came from."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from calibration.gradients.rules.layout import constants, placed
from calibration.graphs.tape import Tape, attributes_of, described
from runtime.errors import ModelError


def _gather(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    x, indices = node.input
    rank = len(tape.dims(x))
    axis = attributes_of(node).get("axis", 0) % rank
    places, size = tape.value(indices), tape.dims(x)[axis]
    if places is not None and isinstance(size, int):
        distinct = np.unique(places % size).size == places.size
        if distinct and places.ndim <= 1:
            whole = tape.op("Unsqueeze", grad, tape.ints(axis)) if places.ndim == 0 else grad
            return [placed(tape, whole, axis, places.reshape(-1) % size, size, rank=rank)]
    flat = _with_one_axis(tape, grad, x, axis)
    column = tape.op("Reshape", indices, tape.ints(-1, *[1] * (rank - 1 - axis)))
    everywhere = tape.op("Expand", column, tape.op("Shape", flat))
    return [tape.op("ScatterElements", tape.zeros_like(x), everywhere, flat, axis=axis, reduction="add")]


def _with_one_axis(tape: Tape, grad: str, x: str, axis: int) -> str:
    """Reshape the cotangent of a Gather so that its indices, however many axes they have, lie along one."""
    parts = [tape.ints(-1)]
    if axis > 0:
        parts.insert(0, tape.op("Shape", x, start=0, end=axis))
    if axis + 1 < len(tape.dims(x)):
        parts.append(tape.op("Shape", x, start=axis + 1))
    shape = tape.op("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]
    return tape.op("Reshape", grad, shape)


def _gather_elements(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    x, indices = node.input
    axis = attributes_of(node).get("axis", 0)
    return [tape.op("ScatterElements", tape.zeros_like(x), indices, grad, axis=axis, reduction="add")]


def _gather_nd(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    x, indices = node.input
    places = _with_batch(tape, x, indices, attributes_of(node).get("batch_dims", 0))
    return [tape.op("ScatterND", tape.zeros_like(x), places, grad, reduction="add")]


def _with_batch(tape: Tape, x: str, indices: str, batch_dims: int) -> str:
    """Write the positions along the first `batch_dims` axes down, which GatherND implies and ScatterND does not."""
    if not batch_dims:
        return indices
    rank = len(tape.dims(indices))
    column = tape.op("Concat", tape.op("Shape", indices, start=0, end=rank - 1), tape.ints(1), axis=0)
    coordinates = []
    for axis in range(batch_dims):
        length = tape.op("Squeeze", tape.op("Shape", x, start=axis, end=axis + 1))
        count = tape.op("Range", tape.constant(0, np.int64), length, tape.constant(1, np.int64))
        upright = tape.op("Reshape", count, tape.ints(*[1] * axis, -1, *[1] * (rank - axis - 1)))
        coordinates.append(tape.op("Expand", upright, column))
    return tape.op("Concat", *coordinates, indices, axis=-1)


def _scatter_elements(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    """Take the cotangent of what was written from where it was written."""
    indices, axis = node.input[1], attributes_of(node).get("axis", 0)
    left, right = grad, None
    if not _adds(node):
        updates = tape.op("ConstantOfShape", tape.op("Shape", indices))
        left = tape.op("ScatterElements", grad, indices, updates, axis=axis)
    if node.input[2] in tape.active:
        right = tape.op("GatherElements", grad, indices, axis=axis)
    return [left, None, right]


def _scatter_nd(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    indices, updates = node.input[1:]
    left, right = grad, None
    if not _adds(node):
        left = tape.op("ScatterND", grad, indices, tape.zeros_like(updates))
    if updates in tape.active:
        right = tape.op("GatherND", grad, indices)
    return [left, None, right]


def _adds(node: NodeProto) -> bool:
    """Return whether a Scatter adds to its data instead of writing over it.

    Raises:
        ModelError: It does something else.
    """
    reduction = attributes_of(node).get("reduction", "none")
    if reduction not in ("none", "add"):
        raise ModelError(
            f"expected {described(node)} to write or to add, got reduction {reduction!r}; rewrite the graph"
        )
    return bool(reduction == "add")


def _top_k(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    x, axis = node.input[0], attributes_of(node).get("axis", -1)
    return [tape.op("ScatterElements", tape.zeros_like(x), node.output[1], grad, axis=axis)]


def _col2im(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    """Take every block of pixels from where it was added; what lay outside the image gets nothing."""
    attributes = attributes_of(node)
    image, block = constants(tape, node, 1), constants(tape, node, 2)
    rank, pixels = len(image), int(np.prod(image))
    strides, dilations = (attributes.get(name) or [1] * rank for name in ("strides", "dilations"))
    pads = attributes.get("pads") or [0] * 2 * rank
    place, inside = np.zeros((), np.int64), np.ones((), bool)
    for axis, (size, width) in enumerate(zip(image, block, strict=True)):
        extent, around = dilations[axis] * (width - 1) + 1, size + pads[axis] + pads[rank + axis]
        starts = np.arange(0, around - extent + 1, strides[axis]) - pads[axis]
        along = np.add.outer(dilations[axis] * np.arange(width), starts)
        along = along.reshape([1] * axis + [width] + [1] * (rank - 1) + [len(starts)] + [1] * (rank - 1 - axis))
        place, inside = place * size + along, inside & (along >= 0) & (along < size)
    table = np.where(inside, place, pixels)
    columns = int(np.prod(table.shape[rank:]))
    flat = tape.pad(tape.op("Reshape", grad, tape.ints(0, 0, pixels)), {2: (0, 1)}, rank=3)
    taken = tape.op("Gather", flat, tape.constant(table.reshape(-1), np.int64), axis=2)
    return [tape.op("Reshape", taken, tape.ints(0, -1, columns))]


RULES = {
    "Col2Im": _col2im,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "TopK": _top_k,
}
