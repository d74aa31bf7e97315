"""Reverse rules of operators that pick elements by index: the cotangent goes, or is added, to where they came from."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from calibration.gradients.rules.layout import placed
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


RULES = {
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "TopK": _top_k,
}
