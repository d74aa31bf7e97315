"""Reverse rules of matrix products."""

from __future__ import annotations

from onnx import NodeProto

from calibration.gradient_tape import Tape, attributes_of, described
from runtime.errors import ModelError


def _mat_mul(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    a, b = node.input
    if min(len(tape.dims(a)), len(tape.dims(b))) < 2:
        raise ModelError(f"expected {described(node)} to multiply matrices, got a vector; add an axis with Unsqueeze")
    left = right = None
    if a in tape.active:
        left = tape.unbroadcast(tape.op("MatMul", grad, _transposed(tape, b)), output=node.output[0], operand=a)
    if b in tape.active:
        right = tape.unbroadcast(tape.op("MatMul", _transposed(tape, a), grad), output=node.output[0], operand=b)
    return [left, right]


def _gemm(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    attributes = attributes_of(node)
    a, b = node.input[:2]
    flip_a, flip_b = attributes.get("transA", 0), attributes.get("transB", 0)
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    left = right = bias = None
    if a in tape.active and flip_a:
        left = tape.op("Gemm", b, grad, alpha=alpha, transA=flip_b, transB=1)
    elif a in tape.active:
        left = tape.op("Gemm", grad, b, alpha=alpha, transB=1 - flip_b)
    if b in tape.active and flip_b:
        right = tape.op("Gemm", grad, a, alpha=alpha, transA=1, transB=flip_a)
    elif b in tape.active:
        right = tape.op("Gemm", a, grad, alpha=alpha, transA=1 - flip_a)
    if len(node.input) > 2 and node.input[2] in tape.active:
        scaled = tape.op("Mul", grad, tape.constant(beta))
        bias = tape.unbroadcast(scaled, output=node.output[0], operand=node.input[2])
    return [left, right, bias]


def _transposed(tape: Tape, name: str) -> str:
    value = tape.value(name)
    if value is not None:
        return tape.constant(value.swapaxes(-1, -2), value.dtype)
    rank = len(tape.dims(name))
    return tape.op("Transpose", name, perm=[*range(rank - 2), rank - 1, rank - 2])


RULES = {"Gemm": _gemm, "MatMul": _mat_mul}
