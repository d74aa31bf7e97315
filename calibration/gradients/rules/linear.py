"""Reverse rules of matrix products."""

from __future__ import annotations

from onnx import NodeProto

from calibration.graphs.tape import Tape, attributes_of, described
from runtime.errors import ModelError


def _mat_mul(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    a, b = node.input
    row, column = len(tape.dims(a)) == 1, len(tape.dims(b)) == 1
    if column:
        grad = tape.op("Unsqueeze", grad, tape.ints(-1))
    if row:
        grad = tape.op("Unsqueeze", grad, tape.ints(-2))
    left = right = None
    if a in tape.active:
        other = tape.op("Unsqueeze", b, tape.ints(0)) if column else _transposed(tape, b)
        left = _summed(tape, node, tape.op("MatMul", grad, other), a)
    if b in tape.active:
        other = tape.op("Unsqueeze", a, tape.ints(1)) if row else _transposed(tape, a)
        right = _summed(tape, node, tape.op("MatMul", other, grad), b)
    return [left, right]


def _summed(tape: Tape, node: NodeProto, cotangent: str, operand: str) -> str:
    """Sum over the stacks of matrices along which `operand` was broadcast."""
    a, b = (len(tape.dims(name)) for name in node.input)
    if a > 1 and b > 1:
        return tape.unbroadcast(cotangent, output=node.output[0], operand=operand)
    if len(tape.dims(operand)) > 1:
        return cotangent
    stacked = max(a, b, 2) - 2
    summed = tape.op("ReduceSum", cotangent, tape.ints(*range(stacked)), keepdims=0) if stacked else cotangent
    return tape.reshape_like(summed, operand)


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


def _einsum(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    """Contract the cotangent with the other operands; an axis that only this operand has is repeated.

    Source: Giles 2008 (Collected matrix derivative results), section 2, by index notation.
    """
    terms, result = _einsum_terms(tape, node)
    cotangents: list[str | None] = []
    for index, (name, term) in enumerate(zip(node.input, terms, strict=True)):
        if name not in tape.active:
            cotangents.append(None)
            continue
        others = [
            (other, letters) for k, (other, letters) in enumerate(zip(node.input, terms, strict=True)) if k != index
        ]
        known = set(result).union(*(letters for _, letters in others))
        kept = "".join(letter for letter in term if letter in known)
        equation = ",".join([result, *(letters for _, letters in others)]) + "->" + kept
        flow = tape.op("Einsum", grad, *(other for other, _ in others), equation=equation)
        alone = [axis for axis, letter in enumerate(term) if letter not in known]
        if alone:
            flow = tape.expand_like(tape.op("Unsqueeze", flow, tape.ints(*alone)), name)
        cotangents.append(flow)
    return cotangents


def _einsum_terms(tape: Tape, node: NodeProto) -> tuple[list[str], str]:
    """Return the letters of each operand and of the result, with every ellipsis and the implied result spelt out.

    Raises:
        ModelError: A letter occurs twice in one operand, or stands for a broadcast axis.
    """
    equation = attributes_of(node)["equation"].replace(" ", "")
    left, arrow, result = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        letters = left.replace(",", "").replace("...", "")
        result = ("..." if "..." in left else "") + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    free = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" if c not in equation]
    ranks = [len(tape.dims(name)) - len(term.replace("...", "")) for name, term in zip(node.input, terms, strict=True)]
    dots = free[: max(rank if "..." in term else 0 for rank, term in zip(ranks, terms, strict=True))]
    terms = [term.replace("...", "".join(dots[len(dots) - rank :])) for rank, term in zip(ranks, terms, strict=True)]
    sizes: dict[str, int | str | None] = {}
    for name, term in zip(node.input, terms, strict=True):
        clash = any(sizes.setdefault(letter, size) != size for letter, size in zip(term, tape.dims(name), strict=True))
        if clash or len(set(term)) < len(term):
            raise ModelError(
                f"expected {described(node)} to have each letter once an operand, with one size, got {equation!r}; "
                "write its diagonal or broadcast with other operators"
            )
    return terms, result.replace("...", "".join(dots))


RULES = {"Einsum": _einsum, "Gemm": _gemm, "MatMul": _mat_mul}
