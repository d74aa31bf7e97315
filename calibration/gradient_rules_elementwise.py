"""Reverse rules of element-wise operators of several operands, broadcast or not, and of those that change nothing."""

from __future__ import annotations

from onnx import NodeProto, TensorProto

from calibration.gradient_rules_activation import step
from calibration.gradient_tape import Tape


def _negate(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    del node
    return [tape.op("Neg", grad)]


def _pass(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    del tape, node
    return [grad]


def _cast(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    return [tape.op("Cast", grad, to=tape.types[node.input[0]].element)]


def _add(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    return [_to_operand(tape, node, name, grad) for name in node.input]


def _sub(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    a, b = node.input
    right = _to_operand(tape, node, b, tape.op("Neg", grad)) if b in tape.active else None
    return [_to_operand(tape, node, a, grad), right]


def _mul(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    a, b = node.input
    return [_to_operand(tape, node, name, grad, "Mul", other) for name, other in ((a, b), (b, a))]


def _div(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    a, b = node.input
    left = _to_operand(tape, node, a, grad, "Div", b)
    if b not in tape.active:
        return [left, None]
    slope = tape.op("Neg", tape.op("Div", node.output[0], b))
    return [left, _to_operand(tape, node, b, grad, "Mul", slope)]


def _pow(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    base, power = node.input[0], tape.constant_input(node, 1)
    lower = tape.op("Pow", base, tape.constant(power - 1.0))
    slope = tape.op("Mul", lower, tape.constant(power))
    return [_to_operand(tape, node, base, grad, "Mul", slope), None]


def _extremum(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    """Give the cotangent to the first operand that equals the result, as a maximum over ties must give it only once."""
    taken, cotangents = None, list[str | None]()
    for name in node.input:
        hit = tape.op("Equal", name, node.output[0])
        first = hit if taken is None else tape.op("And", hit, tape.op("Not", taken))
        taken = hit if taken is None else tape.op("Or", taken, hit)
        mask = tape.op("Cast", first, to=TensorProto.FLOAT)
        cotangents.append(_to_operand(tape, node, name, grad, "Mul", mask))
    return cotangents


def _clip(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    """Pass the cotangent where the input is strictly inside its bounds."""
    x = node.input[0]
    for index, bound in enumerate(node.input[1:]):
        if bound:
            distance = tape.op("Sub", x, bound) if index == 0 else tape.op("Sub", bound, x)
            grad = tape.op("Mul", grad, step(tape, distance))
    return [grad]


def _where(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    condition, a, b = node.input
    yes = tape.op("Cast", condition, to=TensorProto.FLOAT)
    no = tape.op("Cast", tape.op("Not", condition), to=TensorProto.FLOAT)
    return [None, _to_operand(tape, node, a, grad, "Mul", yes), _to_operand(tape, node, b, grad, "Mul", no)]


def _to_operand(tape: Tape, node: NodeProto, name: str, grad: str, op_type: str = "", factor: str = "") -> str | None:
    """Return the cotangent of operand `name`: `grad`, times or over `factor`, summed where `name` was broadcast."""
    if name not in tape.active:
        return None
    flow = tape.op(op_type, grad, factor) if op_type else grad
    return tape.unbroadcast(flow, output=node.output[0], operand=name)


RULES = {
    "Add": _add,
    "Cast": _cast,
    "Clip": _clip,
    "Div": _div,
    "Dropout": _pass,
    "Identity": _pass,
    "Max": _extremum,
    "Min": _extremum,
    "Mul": _mul,
    "Neg": _negate,
    "Pow": _pow,
    "Sub": _sub,
    "Sum": _add,
    "Where": _where,
}
