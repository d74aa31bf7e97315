"""Reverse rules of normalisation layers at inference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from calibration.gradients.rules.functions import square
from calibration.gradients.rules.resampling import along
from calibration.graphs.tape import Array, Tape, attributes_of, described
from runtime.errors import ModelError

_TINY = float(np.finfo(np.float32).tiny)


def _batch_normalization(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    """Multiply by scale / sqrt(variance + epsilon), one number per channel."""
    if attributes_of(node).get("training_mode", 0):
        raise ModelError(
            f"expected {described(node)} with constant statistics, got one in training mode; "
            "export the model with model.eval()"
        )
    scale, variance = tape.constant_input(node, 1), tape.constant_input(node, 4)
    slope = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + attributes_of(node).get("epsilon", 1e-5))
    return [tape.op("Mul", grad, tape.constant(_per_channel(slope, tape, node)))]


def _layer_normalization(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    """Take mean and inverse deviation from the node's own further outputs."""
    x, scale = node.input[:2]
    outputs = [node.output[0], f"grad/mean of {node.output[0]}", f"grad/inverse std of {node.output[0]}"]
    del node.output[:]
    node.output.extend(outputs)
    rank = len(tape.dims(x))
    axes = range(attributes_of(node).get("axis", -1) % rank, rank)
    normal = tape.op("Mul", tape.op("Sub", x, outputs[1]), outputs[2])
    cotangents: list[str | None] = [None] * len(node.input)
    if x in tape.active:
        cotangents[0] = _projected(tape, tape.op("Mul", grad, scale), normal, outputs[2], axes)
    for index, flow in ((1, tape.op("Mul", grad, normal) if scale in tape.active else ""), (2, grad)):
        if len(node.input) > index and node.input[index] in tape.active:
            cotangents[index] = tape.unbroadcast(flow, output=node.output[0], operand=node.input[index])
    return cotangents


def _instance_normalization(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    x = node.input[0]
    scale = tape.constant(_per_channel(tape.constant_input(node, 1), tape, node))
    axes = range(2, len(tape.dims(x)))
    normal, inverse = _standardised(tape, x, axes, attributes_of(node).get("epsilon", 1e-5))
    return [_projected(tape, tape.op("Mul", grad, scale), normal, inverse, axes)]


def _group_normalization(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    """Standardise each group as one axis."""
    x, scale = node.input[0], tape.constant(_per_channel(tape.constant_input(node, 1), tape, node))
    shape, axes = tape.ints(0, attributes_of(node)["num_groups"], -1), [2]
    flow = tape.op("Reshape", tape.op("Mul", grad, scale), shape)
    normal, inverse = _standardised(tape, tape.op("Reshape", x, shape), axes, attributes_of(node).get("epsilon", 1e-5))
    return [tape.reshape_like(_projected(tape, flow, normal, inverse, axes), x)]


def _standardised(tape: Tape, x: str, axes: Sequence[int], epsilon: float) -> tuple[str, str]:
    """Return (x - mean) / std and 1 / std over `axes`."""
    over = tape.ints(*axes)
    centred = tape.op("Sub", x, tape.op("ReduceMean", x, over, keepdims=1))
    variance = tape.op("ReduceMean", square(tape, centred), over, keepdims=1)
    inverse = tape.op("Reciprocal", tape.op("Sqrt", tape.op("Add", variance, tape.constant(epsilon))))
    return tape.op("Mul", centred, inverse), inverse


def _projected(tape: Tape, flow: str, normal: str, inverse: str, axes: Sequence[int]) -> str:
    """Project out the mean and the direction of the normalised input.

    Source: Ba et al. 2016 (Layer Normalization), section 3; with h = cotangent · scale and n = (x - mean) / std,
    the cotangent of x is (h - mean(h) - n · mean(h · n)) / std.
    """
    over = tape.ints(*axes)
    flat = tape.op("ReduceMean", flow, over, keepdims=1)
    tilt = tape.op("ReduceMean", tape.op("Mul", flow, normal), over, keepdims=1)
    rest = tape.op("Sub", tape.op("Sub", flow, flat), tape.op("Mul", normal, tilt))
    return tape.op("Mul", rest, inverse)


def _lp_normalization(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    """Return (h - s · sum(h · y)) / norm, with s = y in the L2 norm and the sign of x in the L1 norm."""
    x, y, attributes = node.input[0], node.output[0], attributes_of(node)
    power, axis = attributes.get("p", 2), tape.ints(attributes.get("axis", -1))
    norm = tape.op("ReduceL1" if power == 1 else "ReduceL2", x, axis, keepdims=1)
    total = tape.op("ReduceSum", tape.op("Mul", grad, y), axis, keepdims=1)
    direction = tape.op("Sign", x) if power == 1 else y
    rest = tape.op("Sub", grad, tape.op("Mul", direction, total))
    return [tape.op("Div", rest, tape.op("Max", norm, tape.constant(_TINY)))]


def _local_response(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    """Differentiate x · d^-beta, where d = bias + alpha / size · (sum of squares over `size` neighbouring channels).

    Source: Krizhevsky et al. 2012 (AlexNet), section 3.3.
    """
    x, attributes = node.input[0], attributes_of(node)
    size, beta = attributes["size"], attributes.get("beta", 0.75)
    share = attributes.get("alpha", 1e-4) / size
    channels, rank = tape.static_dims(x, [1])[0], len(tape.dims(x))
    distance = np.arange(channels) - np.arange(channels)[:, None]
    window = ((distance >= -((size - 1) // 2)) & (distance <= size // 2)).astype(np.float32)
    energy = along(tape, square(tape, x), 1, window.T, rank=rank)
    base = tape.op("Add", tape.op("Mul", energy, tape.constant(share)), tape.constant(attributes.get("bias", 1.0)))
    own = tape.op("Mul", grad, tape.op("Pow", base, tape.constant(-beta)))
    felt = tape.op("Mul", tape.op("Mul", grad, x), tape.op("Pow", base, tape.constant(-beta - 1.0)))
    others = tape.op("Mul", along(tape, felt, 1, window, rank=rank), tape.constant(2.0 * share * beta))
    return [tape.op("Sub", own, tape.op("Mul", x, others))]


def _per_channel(values: Array, tape: Tape, node: NodeProto) -> Array:
    """Give one number per channel the axes that broadcast it against the node's input."""
    return values.reshape(-1, *[1] * (len(tape.dims(node.input[0])) - 2))


RULES = {
    "BatchNormalization": _batch_normalization,
    "GroupNormalization": _group_normalization,
    "InstanceNormalization": _instance_normalization,
    "LRN": _local_response,
    "LayerNormalization": _layer_normalization,
    "LpNormalization": _lp_normalization,
}
