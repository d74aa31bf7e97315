"""Reverse rules of normalisation layers at inference."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from calibration.gradient_tape import Tape, attributes_of, described
from runtime.errors import ModelError


def _batch_normalization(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    """Multiply by scale / sqrt(variance + epsilon), one number per channel."""
    scale, variance = tape.constant_input(node, 1), tape.constant_input(node, 4)
    if attributes_of(node).get("training_mode", 0):
        raise ModelError(
            f"expected {described(node)} with constant statistics, got one in training mode; "
            "export the model with model.eval()"
        )
    slope = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + attributes_of(node).get("epsilon", 1e-5))
    factor = slope.reshape(-1, *[1] * (len(tape.dims(node.input[0])) - 2))
    return [tape.op("Mul", grad, tape.constant(factor))]


def _layer_normalization(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    """Project out the mean and the direction of the normalised input, which its own further outputs give.

    Source: Ba et al. 2016 (Layer Normalization), section 3; with h = cotangent · scale and n = (x - mean) / std,
    the cotangent of x is (h - mean(h) - n · mean(h · n)) / std.
    """
    x, scale = node.input[0], node.input[1]
    outputs = [node.output[0], f"grad/mean of {node.output[0]}", f"grad/inverse std of {node.output[0]}"]
    del node.output[:]
    node.output.extend(outputs)
    rank = len(tape.dims(x))
    axes = tape.ints(*range(attributes_of(node).get("axis", -1) % rank, rank))
    normal = tape.op("Mul", tape.op("Sub", x, outputs[1]), outputs[2])
    flow = tape.op("Mul", grad, scale)
    flat = tape.op("ReduceMean", flow, axes, keepdims=1)
    along = tape.op("ReduceMean", tape.op("Mul", flow, normal), axes, keepdims=1)
    rest = tape.op("Sub", tape.op("Sub", flow, flat), tape.op("Mul", normal, along))
    return [tape.op("Mul", rest, outputs[2])]


RULES = {"BatchNormalization": _batch_normalization, "LayerNormalization": _layer_normalization}
