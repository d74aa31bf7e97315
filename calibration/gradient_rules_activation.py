"""Reverse rules of functions of one variable: the cotangent of the input is that of the output times the derivative."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from onnx import NodeProto

from calibration.gradient_tape import Tape, attributes_of

_STEEP = float(np.finfo(np.float32).max)
_BLOCK = 16


def step(tape: Tape, x: str) -> str:
    """Append the step function 1[x > 0] as float32: HardSigmoid clips ``steepness * x`` to [0, 1] in one pass.

    Positive values below the smallest normal float32 give less than 1. ONNX Runtime keeps convolutions of 16 channels
    and more in a blocked layout, and would put every other operator between two reorderings; there a depthwise 1x1
    convolution by 1, into which it fuses the HardSigmoid, stays inside.
    """
    dims = tape.types[x].dims if x in tape.types else None
    if dims is not None and len(dims) == 4 and isinstance(dims[1], int) and dims[1] % _BLOCK == 0:
        x = tape.op("Conv", x, tape.constant(np.ones((dims[1], 1, 1, 1))), group=dims[1])
    return tape.op("HardSigmoid", x, alpha=_STEEP, beta=0.0)


def _chain(derivative: Callable[[Tape, NodeProto], str]) -> Callable[[Tape, NodeProto, str], list[str | None]]:
    """Make a rule of a derivative: the cotangent of a unary function is the output's times dy/dx."""

    def rule(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
        return [tape.op("Mul", grad, derivative(tape, node))]

    return rule


def _relu(tape: Tape, node: NodeProto) -> str:
    return step(tape, node.output[0])


def _leaky(default: float) -> Callable[[Tape, NodeProto], str]:
    def derivative(tape: Tape, node: NodeProto) -> str:
        alpha = attributes_of(node).get("alpha", default)
        slope = tape.op("Mul", step(tape, node.input[0]), tape.constant(1.0 - alpha))
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


def _tanh(tape: Tape, node: NodeProto) -> str:
    return tape.op("Sub", tape.constant(1.0), _square(tape, node.output[0]))


def _softplus(tape: Tape, node: NodeProto) -> str:
    """Return exp(x - y), the sigmoid of x without its loss of relative precision far below zero."""
    return tape.op("Exp", tape.op("Sub", node.input[0], node.output[0]))


def _softsign(tape: Tape, node: NodeProto) -> str:
    denominator = tape.op("Add", tape.op("Abs", node.input[0]), tape.constant(1.0))
    return tape.op("Reciprocal", _square(tape, denominator))


def _hard_sigmoid(tape: Tape, node: NodeProto) -> str:
    alpha = attributes_of(node).get("alpha", 0.2)
    inside = tape.op("Mul", step(tape, node.output[0]), step(tape, tape.op("Sub", tape.constant(1.0), node.output[0])))
    return tape.op("Mul", inside, tape.constant(alpha))


def _hard_swish(tape: Tape, node: NodeProto) -> str:
    """Return the gate of x plus x times the gate's slope, 1/6 where the gate is strictly between 0 and 1."""
    gate = tape.op("HardSigmoid", node.input[0], alpha=1.0 / 6.0, beta=0.5)
    inside = tape.op("Mul", step(tape, gate), step(tape, tape.op("Sub", tape.constant(1.0), gate)))
    slope = tape.op("Mul", tape.op("Mul", node.input[0], tape.constant(1.0 / 6.0)), inside)
    return tape.op("Add", gate, slope)


def _mish(tape: Tape, node: NodeProto) -> str:
    gate = tape.op("Tanh", tape.op("Softplus", node.input[0]))
    slope = tape.op("Mul", tape.op("Sub", tape.constant(1.0), _square(tape, gate)), tape.op("Sigmoid", node.input[0]))
    return tape.op("Add", gate, tape.op("Mul", node.input[0], slope))


def _erf(tape: Tape, node: NodeProto) -> str:
    bell = tape.op("Exp", tape.op("Neg", _square(tape, node.input[0])))
    return tape.op("Mul", bell, tape.constant(2.0 / math.sqrt(math.pi)))


def _gelu(tape: Tape, node: NodeProto) -> str:
    x = node.input[0]
    if attributes_of(node).get("approximate", "none") == "tanh":
        inner = tape.op(
            "Mul", x, tape.op("Add", tape.constant(1.0), tape.op("Mul", _square(tape, x), tape.constant(0.044715)))
        )
        gate = tape.op("Tanh", tape.op("Mul", inner, tape.constant(math.sqrt(2.0 / math.pi))))
        rise = tape.op("Add", tape.constant(1.0), tape.op("Mul", _square(tape, x), tape.constant(3 * 0.044715)))
        slope = tape.op("Mul", tape.op("Sub", tape.constant(1.0), _square(tape, gate)), rise)
        slope = tape.op("Mul", tape.op("Mul", x, slope), tape.constant(0.5 * math.sqrt(2.0 / math.pi)))
    else:
        gate = tape.op("Erf", tape.op("Mul", x, tape.constant(math.sqrt(0.5))))
        bell = tape.op("Exp", tape.op("Mul", _square(tape, x), tape.constant(-0.5)))
        slope = tape.op("Mul", tape.op("Mul", x, bell), tape.constant(1.0 / math.sqrt(2.0 * math.pi)))
    half = tape.op("Mul", tape.op("Add", gate, tape.constant(1.0)), tape.constant(0.5))
    return tape.op("Add", half, slope)


def _abs(tape: Tape, node: NodeProto) -> str:
    return tape.op("Sign", node.input[0])


def _exp(tape: Tape, node: NodeProto) -> str:
    del tape
    return str(node.output[0])


def _log(tape: Tape, node: NodeProto) -> str:
    return tape.op("Reciprocal", node.input[0])


def _sqrt(tape: Tape, node: NodeProto) -> str:
    return tape.op("Div", tape.constant(0.5), node.output[0])


def _reciprocal(tape: Tape, node: NodeProto) -> str:
    return tape.op("Neg", _square(tape, node.output[0]))


def _sin(tape: Tape, node: NodeProto) -> str:
    return tape.op("Cos", node.input[0])


def _cos(tape: Tape, node: NodeProto) -> str:
    return tape.op("Neg", tape.op("Sin", node.input[0]))


def _prelu(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    x, slope = node.input
    derivative = tape.op("Where", _positive(tape, x), tape.constant(1.0), slope)
    return [tape.op("Mul", grad, derivative), None]


def _square(tape: Tape, x: str) -> str:
    return tape.op("Mul", x, x)


def _positive(tape: Tape, x: str) -> str:
    return tape.op("Greater", x, tape.constant(0.0))


RULES = {
    "Abs": _chain(_abs),
    "Celu": _chain(_celu),
    "Cos": _chain(_cos),
    "Elu": _chain(_elu),
    "Erf": _chain(_erf),
    "Exp": _chain(_exp),
    "Gelu": _chain(_gelu),
    "HardSigmoid": _chain(_hard_sigmoid),
    "HardSwish": _chain(_hard_swish),
    "LeakyRelu": _chain(_leaky(0.01)),
    "Log": _chain(_log),
    "Mish": _chain(_mish),
    "PRelu": _prelu,
    "Reciprocal": _chain(_reciprocal),
    "Relu": _chain(_relu),
    "Selu": _chain(_selu),
    "Sigmoid": _chain(_sigmoid),
    "Sin": _chain(_sin),
    "Softplus": _chain(_softplus),
    "Softsign": _chain(_softsign),
    "Sqrt": _chain(_sqrt),
    "Tanh": _chain(_tanh),
    "ThresholdedRelu": _chain(_relu),
}
