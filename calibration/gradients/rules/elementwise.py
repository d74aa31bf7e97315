"""Reverse rules of element-wise operators of several operands, broadcast or not, and of those that change nothing."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, TensorProto

from calibration.gradients.rules.activation import above, below, between
from calibration.graphs.tape import Tape, described
from runtime.errors import ModelError


def _negate(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    del node
    return [tape.op("Neg", grad)]


def _pass(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    del tape, node
    return [grad]


def _dropout(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    training = tape.optional_input(node, 2)
    if training is not None and training.item():
        raise ModelError(f"expected {described(node)} at inference, got training mode; export it with model.eval()")
    return [grad]


def _add(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    return [_to_operand(tape, node, name, grad) for name in node.input]


def difference(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    """Return the cotangents of both operands of a - b, whose cotangent is `grad`."""
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


def _mean(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    return _add(tape, node, tape.op("Mul", grad, tape.constant(1.0 / len(node.input))))


def _mod(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    return [_to_operand(tape, node, node.input[0], grad), None]


def _pow(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    """Return y · log(base) for the exponent, and 0 where the base is 0, as torch does."""
    base, power = node.input
    left = right = None
    if base in tape.active:
        left = _to_operand(tape, node, base, grad, "Mul", _pow_slope(tape, base, power))
    if power in tape.active:
        zero = tape.constant(0.0)
        log = tape.op("Where", tape.op("Equal", base, zero), zero, tape.op("Log", base))
        right = _to_operand(tape, node, power, grad, "Mul", tape.op("Mul", node.output[0], log))
    return [left, right]


def _pow_slope(tape: Tape, base: str, power: str) -> str:
    value = tape.value(power)
    if value is None:
        lower = tape.op("Pow", base, tape.op("Sub", power, tape.constant(1.0)))
        return tape.op("Mul", lower, power)
    # x^0 is constant: written as 0 · x^0, not as 0 · x^-1, which is not a number at x = 0.
    lower = tape.op("Pow", base, tape.constant(np.where(value == 0, 0.0, value - 1.0)))
    return tape.op("Mul", lower, tape.constant(value))


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
    """Pass the cotangent inside the bounds and on them, as torch does; beyond a bound it is that bound's."""
    x, bounds = node.input[0], list(node.input[1:])
    known = [tape.value(bound) for bound in bounds if bound]
    if all(value is not None for value in known):
        low, high = (
            tape.constant_input(node, index).item() if bound else default
            for index, bound, default in zip((1, 2), [*bounds, "", ""], (-np.inf, np.inf), strict=False)
        )
        for mask in between(tape, x, low, high):
            grad = tape.op("Mul", grad, mask)
        return [grad]
    inside, cotangents = grad, list[str | None]()
    for bound, beyond in zip(bounds, (below, above), strict=False):
        outside = beyond(tape, tape.op("Sub", x, bound))
        inside = tape.op("Mul", inside, tape.op("Sub", tape.constant(1.0), outside))
        cotangents.append(_to_operand(tape, node, bound, grad, "Mul", outside))
    return [inside, *cotangents]


def _where(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    """Choose for the operands; a condition that a gradient passes is a number from 0 to 1 between them."""
    condition, a, b = node.input
    chosen = _to_operand(tape, node, condition, grad, "Mul", tape.op("Sub", a, b)) if condition in tape.active else None
    yes = tape.op("Cast", condition, to=TensorProto.FLOAT)
    no = tape.op("Cast", tape.op("Not", condition), to=TensorProto.FLOAT)
    return [chosen, _to_operand(tape, node, a, grad, "Mul", yes), _to_operand(tape, node, b, grad, "Mul", no)]


def _to_operand(tape: Tape, node: NodeProto, name: str, grad: str, op_type: str = "", factor: str = "") -> str | None:
    """Return the cotangent of operand `name`: `grad`, times or over `factor`, summed where `name` was broadcast."""
    if name not in tape.active:
        return None
    flow = tape.op(op_type, grad, factor) if op_type else grad
    return tape.unbroadcast(flow, output=node.output[0], operand=name)


RULES = {
    "Add": _add,
    "Cast": _pass,
    "CastLike": _pass,
    "Clip": _clip,
    "Div": _div,
    "Dropout": _dropout,
    "Identity": _pass,
    "Max": _extremum,
    "Mean": _mean,
    "Min": _extremum,
    "Mod": _mod,
    "Mul": _mul,
    "Neg": _negate,
    "Pow": _pow,
    "Sub": difference,
    "Sum": _add,
    "Where": _where,
}
