"""Reverse rules of reductions, running sums and the soft maximum."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from onnx import NodeProto, TensorProto

from calibration.graphs.tape import Tape, attributes_of

_TINY = float(np.finfo(np.float32).tiny)


def _reduced_axes(tape: Tape, node: NodeProto) -> list[int]:
    """Return the axes a reduction runs over, counted from the front."""
    rank = len(tape.dims(node.input[0]))
    axes = tape.optional_input(node, 1)
    if axes is None or not axes.size:
        return [] if attributes_of(node).get("noop_with_empty_axes", 0) else list(range(rank))
    return sorted(int(axis) % rank for axis in axes)


def _spread(tape: Tape, node: NodeProto, tensor: str) -> str:
    """Give a reduced tensor its axes of length 1 back, so that it broadcasts against the input."""
    if attributes_of(node).get("keepdims", 1):
        return tensor
    axes = _reduced_axes(tape, node)
    return tape.op("Unsqueeze", tensor, tape.ints(*axes)) if axes else tensor


def _sum(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    return [tape.expand_like(_spread(tape, node, grad), node.input[0])]


def _mean(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    share = mean_share(tape, node, _reduced_axes(tape, node))
    return [tape.expand_like(tape.op("Mul", _spread(tape, node, grad), share), node.input[0])]


def mean_share(tape: Tape, node: NodeProto, axes: Iterable[int]) -> str:
    """Append one over the number of elements that a mean over `axes` takes together, known beforehand or not."""
    sizes = [tape.dims(node.input[0])[axis] for axis in axes]
    counts = [size for size in sizes if isinstance(size, int)]
    if len(counts) == len(sizes):
        return tape.constant(1.0 / math.prod(counts))
    after, before = (
        tape.op("Cast", tape.op("Size", name), to=TensorProto.FLOAT) for name in (node.output[0], node.input[0])
    )
    return tape.op("Div", after, before)


def _extremum(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    """Share the cotangent equally among the elements that equal the result, as torch's amax does."""
    x = node.input[0]
    hit = tape.op("Cast", tape.op("Equal", x, _spread(tape, node, node.output[0])), to=TensorProto.FLOAT)
    axes = _reduced_axes(tape, node)
    ties = tape.op("ReduceSum", hit, tape.ints(*axes), keepdims=1)
    return [tape.op("Mul", _spread(tape, node, grad), tape.op("Div", hit, ties))]


def _sum_square(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    return [tape.op("Mul", _spread(tape, node, grad), tape.op("Mul", node.input[0], tape.constant(2.0)))]


def _l1(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    return [tape.op("Mul", _spread(tape, node, grad), tape.op("Sign", node.input[0]))]


def _l2(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    """Return the direction of the input, and 0 where the input is 0, as torch does."""
    length = tape.op("Max", _spread(tape, node, node.output[0]), tape.constant(_TINY))
    return [tape.op("Mul", _spread(tape, node, grad), tape.op("Div", node.input[0], length))]


def _log_sum(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    share = tape.op("Div", grad, tape.op("Exp", node.output[0]))
    return [tape.expand_like(_spread(tape, node, share), node.input[0])]


def _product(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    """Return the product of all other factors: zeros are taken out, and counted."""
    x, axes = node.input[0], tape.ints(*_reduced_axes(tape, node))
    zero = tape.op("Equal", x, tape.constant(0.0))
    factors = tape.op("Where", zero, tape.constant(1.0), x)
    others = tape.op("Div", tape.op("ReduceProd", factors, axes, keepdims=1), factors)
    own = tape.op("Cast", zero, to=TensorProto.FLOAT)
    other_zeros = tape.op("Sub", tape.op("ReduceSum", own, axes, keepdims=1), own)
    none = tape.op("Cast", tape.op("Less", other_zeros, tape.constant(0.5)), to=TensorProto.FLOAT)
    return [tape.op("Mul", _spread(tape, node, grad), tape.op("Mul", others, none))]


def _cumulative_sum(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    attributes = attributes_of(node)
    exclusive, reverse = attributes.get("exclusive", 0), attributes.get("reverse", 0)
    return [tape.op("CumSum", grad, node.input[1], exclusive=exclusive, reverse=1 - reverse)]


def _log_sum_exp(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    shares = tape.op("Exp", tape.op("Sub", node.input[0], _spread(tape, node, node.output[0])))
    return [tape.op("Mul", _spread(tape, node, grad), shares)]


def _softmax(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    y, axis = node.output[0], attributes_of(node).get("axis", -1)
    flow = tape.op("Mul", grad, y)
    return [tape.op("Sub", flow, tape.op("Mul", y, tape.op("ReduceSum", flow, tape.ints(axis), keepdims=1)))]


def _log_softmax(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    axis = attributes_of(node).get("axis", -1)
    total = tape.op("ReduceSum", grad, tape.ints(axis), keepdims=1)
    return [tape.op("Sub", grad, tape.op("Mul", tape.op("Exp", node.output[0]), total))]


RULES = {
    "CumSum": _cumulative_sum,
    "LogSoftmax": _log_softmax,
    "ReduceL1": _l1,
    "ReduceL2": _l2,
    "ReduceLogSum": _log_sum,
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceMax": _extremum,
    "ReduceMean": _mean,
    "ReduceMin": _extremum,
    "ReduceProd": _product,
    "ReduceSum": _sum,
    "ReduceSumSquare": _sum_square,
    "Softmax": _softmax,
}
