"""Reverse rules of activation functions."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from onnx import NodeProto

from calibration.gradients.rules.functions import chain, square
from calibration.graphs.tape import Tape, attributes_of

_STEEP, _STEEPEST = 2.0**100, 2.0**127


def above(tape: Tape, x: str, edge: float = 0.0) -> str:
    """Append the step function 1[x > edge] as float32: HardSigmoid clips a steep line to [0, 1] in one pass.

    The steepness is a power of two, so that its products are not rounded. Less than 1 gets only what is less than 1e-30
    above the edge, or 1e-38 above 0. ONNX Runtime runs HardSigmoid in the layout of convolutions; comparisons it does
    not.
    """
    steepness = _STEEP if edge else _STEEPEST
    return tape.op("HardSigmoid", x, alpha=steepness, beta=-steepness * edge)


def below(tape: Tape, x: str, edge: float = 0.0) -> str:
    """Append the step function 1[x < edge] as float32."""
    steepness = _STEEP if edge else _STEEPEST
    return tape.op("HardSigmoid", x, alpha=-steepness, beta=steepness * edge)


def between(tape: Tape, x: str, low: float, high: float) -> list[str]:
    """Append 1[x >= low] and 1[x <= high], as far as these are finite."""
    steps = []
    for edge, sign in ((np.float32(low), 1.0), (np.float32(high), -1.0)):
        if edge == 0:
            steps.append(tape.op("HardSigmoid", x, alpha=sign * _STEEPEST, beta=1.0))
        elif np.isfinite(edge):
            next_out = float(np.nextafter(edge, np.float32(-sign * np.inf)))
            steps.append(above(tape, x, next_out) if sign > 0 else below(tape, x, next_out))
    return steps


def _relu(tape: Tape, node: NodeProto) -> str:
    return above(tape, node.output[0])


def _leaky(default: float) -> Callable[[Tape, NodeProto], str]:
    def derivative(tape: Tape, node: NodeProto) -> str:
        alpha = attributes_of(node).get("alpha", default)
        slope = tape.op("Mul", above(tape, node.input[0]), tape.constant(1.0 - alpha))
        return tape.op("Add", slope, tape.constant(alpha))

    return derivative


def _elu(tape: Tape, node: NodeProto) -> str:
    alpha = attributes_of(node).get("alpha", 1.0)
    negative = tape.op("Min", node.input[0], tape.constant(0.0))
    below = tape.op("Mul", tape.op("Exp", negative), tape.constant(alpha))
    return tape.op("Where", _positive(tape, node.input[0]), tape.constant(1.0), below)


def _celu(tape: Tape, node: NodeProto) -> str:
    alpha = attributes_of(node).get("alpha", 1.0)
    negative = tape.op("Min", node.input[0], tape.constant(0.0))
    return tape.op("Exp", tape.op("Div", negative, tape.constant(alpha)))


def _selu(tape: Tape, node: NodeProto) -> str:
    attributes = attributes_of(node)
    alpha, gamma = (
        attributes.get("alpha", 1.67326319217681884765625),
        attributes.get("gamma", 1.05070102214813232421875),
    )
    negative = tape.op("Min", node.input[0], tape.constant(0.0))
    below = tape.op("Mul", tape.op("Exp", negative), tape.constant(alpha * gamma))
    return tape.op("Where", _positive(tape, node.input[0]), tape.constant(gamma), below)


def _sigmoid_slope(tape: Tape, y: str) -> str:
    return tape.op("Mul", y, tape.op("Sub", tape.constant(1.0), y))


def _sigmoid(tape: Tape, node: NodeProto) -> str:
    return _sigmoid_slope(tape, node.output[0])


def _softplus(tape: Tape, node: NodeProto) -> str:
    """Return exp(x - y), the sigmoid of x without its loss of relative precision far below zero."""
    return tape.op("Exp", tape.op("Sub", node.input[0], node.output[0]))


def _softsign(tape: Tape, node: NodeProto) -> str:
    denominator = tape.op("Add", tape.op("Abs", node.input[0]), tape.constant(1.0))
    return tape.op("Reciprocal", square(tape, denominator))


def _hard_sigmoid(tape: Tape, node: NodeProto) -> str:
    alpha = attributes_of(node).get("alpha", 0.2)
    inside = tape.op("Mul", above(tape, node.output[0]), below(tape, node.output[0], 1.0))
    return tape.op("Mul", inside, tape.constant(alpha))


def _hard_swish(tape: Tape, node: NodeProto) -> str:
    """Return the gate of x plus x times the gate's slope, 1/6 where the gate is strictly between 0 and 1."""
    gate = tape.op("HardSigmoid", node.input[0], alpha=1.0 / 6.0, beta=0.5)
    inside = tape.op("Mul", above(tape, gate), below(tape, gate, 1.0))
    slope = tape.op("Mul", tape.op("Mul", node.input[0], tape.constant(1.0 / 6.0)), inside)
    return tape.op("Add", gate, slope)


def _mish(tape: Tape, node: NodeProto) -> str:
    gate = tape.op("Tanh", tape.op("Softplus", node.input[0]))
    slope = tape.op("Mul", tape.op("Sub", tape.constant(1.0), square(tape, gate)), tape.op("Sigmoid", node.input[0]))
    return tape.op("Add", gate, tape.op("Mul", node.input[0], slope))


def _gelu(tape: Tape, node: NodeProto) -> str:
    x = node.input[0]
    if attributes_of(node).get("approximate", "none") == "tanh":
        inner = tape.op(
            "Mul", x, tape.op("Add", tape.constant(1.0), tape.op("Mul", square(tape, x), tape.constant(0.044715)))
        )
        gate = tape.op("Tanh", tape.op("Mul", inner, tape.constant(math.sqrt(2.0 / math.pi))))
        rise = tape.op("Add", tape.constant(1.0), tape.op("Mul", square(tape, x), tape.constant(3 * 0.044715)))
        slope = tape.op("Mul", tape.op("Sub", tape.constant(1.0), square(tape, gate)), rise)
        slope = tape.op("Mul", tape.op("Mul", x, slope), tape.constant(0.5 * math.sqrt(2.0 / math.pi)))
    else:
        gate = tape.op("Erf", tape.op("Mul", x, tape.constant(math.sqrt(0.5))))
        bell = tape.op("Exp", tape.op("Mul", square(tape, x), tape.constant(-0.5)))
        slope = tape.op("Mul", tape.op("Mul", x, bell), tape.constant(1.0 / math.sqrt(2.0 * math.pi)))
    half = tape.op("Mul", tape.op("Add", gate, tape.constant(1.0)), tape.constant(0.5))
    return tape.op("Add", half, slope)


def _abs(tape: Tape, node: NodeProto) -> str:
    return tape.op("Sign", node.input[0])


def _prelu(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    x, slope = node.input
    derivative = tape.op("Where", _positive(tape, x), tape.constant(1.0), slope)
    left, right = tape.op("Mul", grad, derivative), None
    if slope in tape.active:
        below = tape.op("Mul", grad, tape.op("Min", x, tape.constant(0.0)))
        right = tape.unbroadcast(below, output=node.output[0], operand=slope)
    return [left, right]


def _shrink(tape: Tape, node: NodeProto) -> str:
    """Return 1 where |x| exceeds the threshold."""
    edge = attributes_of(node).get("lambd", 0.5)
    return above(tape, tape.op("Abs", node.input[0]), edge)


def _positive(tape: Tape, x: str) -> str:
    return tape.op("Greater", x, tape.constant(0.0))


RULES = {
    "Abs": chain(_abs),
    "Celu": chain(_celu),
    "Elu": chain(_elu),
    "Gelu": chain(_gelu),
    "HardSigmoid": chain(_hard_sigmoid),
    "HardSwish": chain(_hard_swish),
    "LeakyRelu": chain(_leaky(0.01)),
    "Mish": chain(_mish),
    "PRelu": _prelu,
    "Relu": chain(_relu),
    "Selu": chain(_selu),
    "Shrink": chain(_shrink),
    "Sigmoid": chain(_sigmoid),
    "Softplus": chain(_softplus),
    "Softsign": chain(_softsign),
    "ThresholdedRelu": chain(_relu),
}
