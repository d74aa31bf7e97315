"""Reverse rules of operators that are a linear map along each axis: padding and resizing.

Such a map is a matrix of constants for each axis whose size is known; the cotangent goes through its transpose.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper

from calibration.gradients.rules.layout import constants
from calibration.graphs.tape import Array, Tape, attributes_of, described
from runtime.errors import ModelError
from runtime.session import create_session

_OPSET = 19
_PROBE_IR_VERSION = 9


def along(tape: Tape, tensor: str, axis: int, matrix: Array, *, rank: int) -> str:
    """Append the product of `matrix` ``(out, in)``, transposed, with `tensor` along one axis: out becomes in."""
    if axis == rank - 1:
        return tape.op("MatMul", tensor, tape.constant(matrix))
    if axis == rank - 2:
        return tape.op("MatMul", tape.constant(matrix.T), tensor)
    order = [*range(rank)]
    order[axis], order[-1] = rank - 1, axis
    product = tape.op("MatMul", tape.op("Transpose", tensor, perm=order), tape.constant(matrix))
    return tape.op("Transpose", product, perm=order)


def _pad(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    """Cut constant padding off; add what other padding repeats to the pixels it repeats."""
    x, mode, pads = node.input[0], attributes_of(node).get("mode", "constant"), constants(tape, node, 1)
    rank = len(tape.dims(x))
    if mode == "constant":
        return [tape.op("Pad", grad, tape.ints(*(-width for width in pads)))]
    for axis, (before, after) in enumerate(zip(pads[:rank], pads[rank:], strict=True)):
        if before or after:
            size = tape.static_dims(x, [axis])[0]
            grad = along(tape, grad, axis, _repeated(node, size, (before, after), mode), rank=rank)
    return [grad]


def _repeated(node: NodeProto, size: int, widths: tuple[int, int], mode: str) -> Array:
    if min(widths) < 0:
        raise ModelError(f"expected {described(node)} to add pixels in mode {mode!r}, got pads {list(widths)}")
    source = np.pad(np.arange(size), widths, mode=mode)  # type: ignore[call-overload]
    return np.asarray(np.eye(size)[source])


def _resize(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    """Give each pixel the share that interpolation took of it; whole-number enlargement by copies is a sum."""
    x = node.input[0]
    rank = len(tape.dims(x))
    matrices = {
        axis: matrix
        for axis in range(rank)
        if (matrix := _interpolation(tape, node, axis)) is not None and not _is_identity(matrix)
    }
    copies = {axis: _copies(matrix) for axis, matrix in matrices.items()}
    if copies and all(copies.values()) and min(copies) > 1:
        kernel = [copies.get(axis, 1) for axis in range(2, rank)]
        mean = tape.op("AveragePool", grad, kernel_shape=kernel, strides=kernel)
        return [tape.op("Mul", mean, tape.constant(float(np.prod(kernel))))]
    for axis, matrix in matrices.items():
        grad = along(tape, grad, axis, matrix, rank=rank)
    return [grad]


def _is_identity(matrix: Array) -> bool:
    return matrix.shape[0] == matrix.shape[1] and np.array_equal(matrix, np.eye(len(matrix)))


def _copies(matrix: Array) -> int:
    """Return how often every pixel is repeated, or 0 where that is not all that happens."""
    times, rest = divmod(matrix.shape[0], matrix.shape[1])
    return times if not rest and np.array_equal(matrix, np.eye(matrix.shape[1]).repeat(times, axis=0)) else 0


def _interpolation(tape: Tape, node: NodeProto, axis: int) -> Array | None:
    """Return the weights of Resize along one axis, ``(out, in)``, as ONNX Runtime itself applies them to unit vectors.

    None where the axis keeps its size because nothing is said of it, or because it is the batch.

    Raises:
        ModelError: The size of a resized axis, or how it is resized, is not known beforehand.
    """
    attributes = attributes_of(node)
    rank = len(tape.dims(node.input[0]))
    axes = [one % rank for one in attributes.pop("axes", None) or range(rank)]
    before, after = tape.dims(node.input[0])[axis], tape.dims(node.output[0])[axis]
    if axis not in axes or (before == after and not isinstance(before, int)):
        return None
    if attributes.pop("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise ModelError(f"expected {described(node)} to stretch, got another aspect ratio policy; export fixed scales")
    size, place = tape.static_dims(node.input[0], [axis])[0], axes.index(axis)
    by_size = len(node.input) > 3 and bool(node.input[3])
    values: dict[str, Array] = {"roi": np.repeat(np.array([0, 1], dtype=np.float32), 4)}
    if len(node.input) > 1 and node.input[1]:
        roi = tape.constant_input(node, 1)
        if roi.size:
            values["roi"][[3, 7]] = roi[[place, place + len(axes)]]
    if by_size:
        values["sizes"] = np.array([size, 1, 1, tape.static_dims(node.output[0], [axis])[0]])
    else:
        values["scales"] = np.array([1, 1, 1, tape.constant_input(node, 2)[place]], dtype=np.float32)
    return _measured(attributes | {"extrapolation_value": 0.0}, values, size)


def _measured(attributes: Mapping[str, Any], values: Mapping[str, Array], size: int) -> Array:
    names = ["roi", "" if "sizes" in values else "scales", "sizes" if "sizes" in values else ""]
    graph = helper.make_graph(
        [helper.make_node("Resize", ["units", *names], ["rows"], **attributes)],
        "probe",
        [helper.make_tensor_value_info("units", TensorProto.FLOAT, [size, 1, 1, size])],
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, None)],
        initializer=[
            helper.make_tensor(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape, value)
            for name, value in values.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_PROBE_IR_VERSION)
    session = create_session(model.SerializeToString(), device="cpu", threads=1)
    (rows,) = session.run(None, {"units": np.eye(size, dtype=np.float32)[:, None, None]})
    return np.asarray(rows[:, 0, 0].T, dtype=np.float64)


RULES = {"Pad": _pad, "Resize": _resize}
