"""Reverse rules of analytic functions of one variable."""

from __future__ import annotations

import math
from collections.abc import Callable

from onnx import NodeProto

from calibration.graphs.tape import Tape

Derivative = Callable[[Tape, NodeProto], str]
Rule = Callable[[Tape, NodeProto, str], list[str | None]]


def chain(derivative: Derivative) -> Rule:
    """Make a rule of a derivative: the cotangent of a unary function is the output's times dy/dx."""

    def rule(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
        return [tape.op("Mul", grad, derivative(tape, node))]

    return rule


def square(tape: Tape, x: str) -> str:
    """Append x times x."""
    return tape.op("Mul", x, x)


def _exp(tape: Tape, node: NodeProto) -> str:
    del tape
    return str(node.output[0])


def _log(tape: Tape, node: NodeProto) -> str:
    return tape.op("Reciprocal", node.input[0])


def _sqrt(tape: Tape, node: NodeProto) -> str:
    return tape.op("Div", tape.constant(0.5), node.output[0])


def _reciprocal(tape: Tape, node: NodeProto) -> str:
    return tape.op("Neg", square(tape, node.output[0]))


def _erf(tape: Tape, node: NodeProto) -> str:
    bell = tape.op("Exp", tape.op("Neg", square(tape, node.input[0])))
    return tape.op("Mul", bell, tape.constant(2.0 / math.sqrt(math.pi)))


def _of_input(op_type: str) -> Derivative:
    """Return the derivative that is itself a function of the input."""
    return lambda tape, node: tape.op(op_type, node.input[0])


def _cos(tape: Tape, node: NodeProto) -> str:
    return tape.op("Neg", tape.op("Sin", node.input[0]))


def _tan(tape: Tape, node: NodeProto) -> str:
    return tape.op("Add", square(tape, node.output[0]), tape.constant(1.0))


def _tanh(tape: Tape, node: NodeProto) -> str:
    return tape.op("Sub", tape.constant(1.0), square(tape, node.output[0]))


def _inverse(*, sign: float, shift: float, root: bool) -> Derivative:
    """Return 1 / (sign · x² + shift), or 1 over its square root, as the inverse functions have it."""

    def derivative(tape: Tape, node: NodeProto) -> str:
        scaled = tape.op("Mul", square(tape, node.input[0]), tape.constant(sign))
        shifted = tape.op("Add", scaled, tape.constant(shift))
        return tape.op("Reciprocal", tape.op("Sqrt", shifted) if root else shifted)

    return derivative


def _acos(tape: Tape, node: NodeProto) -> str:
    return tape.op("Neg", _inverse(sign=-1.0, shift=1.0, root=True)(tape, node))


RULES = {
    "Acos": chain(_acos),
    "Acosh": chain(_inverse(sign=1.0, shift=-1.0, root=True)),
    "Asin": chain(_inverse(sign=-1.0, shift=1.0, root=True)),
    "Asinh": chain(_inverse(sign=1.0, shift=1.0, root=True)),
    "Atan": chain(_inverse(sign=1.0, shift=1.0, root=False)),
    "Atanh": chain(_inverse(sign=-1.0, shift=1.0, root=False)),
    "Cos": chain(_cos),
    "Cosh": chain(_of_input("Sinh")),
    "Erf": chain(_erf),
    "Exp": chain(_exp),
    "Log": chain(_log),
    "Reciprocal": chain(_reciprocal),
    "Sin": chain(_of_input("Cos")),
    "Sinh": chain(_of_input("Cosh")),
    "Sqrt": chain(_sqrt),
    "Tan": chain(_tan),
    "Tanh": chain(_tanh),
}
