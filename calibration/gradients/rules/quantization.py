"""Reverse rules of rounding and of thresholds, straight through: as if numbers had only been scaled, or compared.

Rounding is constant almost everywhere, so its true derivative is zero and an attack that follows it goes nowhere. The
straight-through estimator takes the derivative of the function that rounding approximates: 1 inside the range that the
integers can represent, 0 outside it.

Source: Bengio et al. 2013 (Estimating or Propagating Gradients Through Stochastic Neurons), section 4; Athalye et al.
2018 (Obfuscated Gradients), section 4.1, as an attack.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from calibration.gradients.rules.activation import above
from calibration.gradients.rules.elementwise import difference
from calibration.graphs.operators import QUANTIZED_RANGE, ROUNDING
from calibration.graphs.tape import Array, Tape, attributes_of, described
from runtime.errors import ModelError


def _quantize(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    """Divide by the scale where x / scale + zero point rounds to a number that the integers have."""
    scale, low, high = representable(tape, node)
    over, under = (
        tape.op("Sub", node.input[0], tape.constant(low)),
        tape.op("Sub", tape.constant(high), node.input[0]),
    )
    inside = tape.op("Mul", above(tape, over), above(tape, under))
    return [tape.op("Mul", grad, tape.op("Div", inside, tape.constant(scale)))]


def _dequantize(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    return [tape.op("Mul", grad, tape.constant(scale_of(tape, node)))]


def representable(tape: Tape, node: NodeProto) -> tuple[Array, Array, Array]:
    """Return the scale of a QuantizeLinear, and between which values of its input the integers do not saturate.

    Raises:
        ModelError: It does not write integers, or its parameters are computed at run time or one for each block.
    """
    element = tape.types[node.output[0]].element
    if element not in QUANTIZED_RANGE:
        raise ModelError(f"expected {described(node)} to write integers, got floats; attack its float twin instead")
    scale = scale_of(tape, node)
    zero_point = _parameter(tape, node, 2) if len(node.input) > 2 and node.input[2] else np.zeros(())
    low, high = QUANTIZED_RANGE[element]
    return scale, scale * (low - zero_point - 0.5), scale * (high - zero_point + 0.5)


def scale_of(tape: Tape, node: NodeProto) -> Array:
    """Return the scale of a QuantizeLinear or DequantizeLinear, one number or one for each position along its axis."""
    return _parameter(tape, node, 1)


def _parameter(tape: Tape, node: NodeProto, index: int) -> Array:
    """Return a scale or zero point, one number or one for each position along the node's axis.

    Raises:
        ModelError: It is computed at run time, or there is one for each block.
    """
    value = tape.constant_input(node, index).astype(np.float64)
    if value.size == 1:
        return value.reshape(())
    if value.ndim > 1:
        raise ModelError(
            f"expected {described(node)} to scale per tensor or per axis, got per block; attack its float twin instead"
        )
    rank = len(tape.dims(node.input[0]))
    axis = attributes_of(node).get("axis", 1) % rank
    return value.reshape(-1, *[1] * (rank - 1 - axis))


def _pass(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    """Take the identity for Round, Floor, Ceil and Sign."""
    del tape, node
    return [grad]


def _below(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    """Take b - a for a < b."""
    return difference(tape, node, tape.op("Neg", grad))


RULES = {
    **dict.fromkeys([*ROUNDING, "Sign"], _pass),
    **dict.fromkeys(["Greater", "GreaterOrEqual"], difference),
    **dict.fromkeys(["Less", "LessOrEqual"], _below),
    "DequantizeLinear": _dequantize,
    "QuantizeLinear": _quantize,
}
