"""Reverse mode over ONNX nodes: one rule per operator, and the walk that applies them.

A rule is given the tape, a node and the cotangent of the node's first output. It appends what it needs and returns one
cotangent per input of the node, None where the input has none (weights, axes, shapes).

Source: Griewank & Walther, Evaluating Derivatives (2008), chapter 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from onnx import NodeProto, TensorProto

from calibration.gradients.rules import (
    activation,
    convolution,
    elementwise,
    functions,
    indexing,
    layout,
    linear,
    normalization,
    pooling,
    quantization,
    reduction,
    resampling,
)
from calibration.graphs.operators import FLAT
from calibration.graphs.tape import Tape, described, listed
from calibration.graphs.types import TensorType
from runtime.errors import ModelError

Rule = Callable[[Tape, NodeProto, str], list[str | None]]

RULES: dict[str, Rule] = {
    **activation.RULES,
    **convolution.RULES,
    **elementwise.RULES,
    **functions.RULES,
    **indexing.RULES,
    **layout.RULES,
    **linear.RULES,
    **normalization.RULES,
    **pooling.RULES,
    **quantization.RULES,
    **reduction.RULES,
    **resampling.RULES,
}


def supported_operators() -> list[str]:
    """Return the names of all operators a gradient can pass, sorted."""
    return sorted(RULES.keys() | FLAT | {"Split"})


def check_supported(tape: Tape, of: Iterable[str]) -> None:
    """Check that every node between the differentiated tensor and the tensors `of` has a rule.

    Raises:
        ModelError: Nodes have no rule; all of them are named, with what is supported.
    """
    reached, unsupported = set(of) & tape.active, list[str]()
    for node in reversed(tape.forward):
        if reached.isdisjoint(node.output) or tape.is_flat(node):
            continue
        reached.update(name for name in node.input if name in tape.active)
        if node.op_type not in RULES and node.op_type != "Split":
            unsupported.insert(0, described(node))
    if unsupported:
        raise ModelError(
            f"expected operators with a gradient rule, got {listed(unsupported)}; "
            f"supported are {', '.join(supported_operators())}"
        )


def differentiate(tape: Tape, seeds: Mapping[str, str], *, wrt: str) -> str:
    """Append the reverse nodes and return the name of the cotangent of `wrt`.

    Args:
        tape: The tape with all its forward nodes.
        seeds: The cotangent of each tensor that is differentiated.
        wrt: The tensor to differentiate with respect to.

    Raises:
        ModelError: A node has no rule, or none for one of its inputs, or no seed depends on `wrt`.
    """
    pending = {name: [seed] for name, seed in seeds.items()}
    for node in reversed(list(tape.forward)):
        outputs = [name for name in node.output if name in pending and name in tape.active]
        if not outputs or tape.is_flat(node):
            continue
        cotangents = _apply(tape, node, pending)
        for index, name in enumerate(node.input):
            if name not in tape.active:
                continue
            cotangent = cotangents[index] if index < len(cotangents) else None
            if cotangent is None:
                raise ModelError(
                    f"expected input {index} of {described(node)} not to depend on {wrt!r}, got {name!r}, which does; "
                    "there is no gradient rule for it"
                )
            pending.setdefault(name, []).append(cotangent)
            if name in tape.types:
                tape.types[cotangent] = TensorType(element=TensorProto.FLOAT, dims=tape.types[name].dims)
    if wrt not in pending:
        raise ModelError(
            f"expected something of the graph to vary smoothly with {wrt!r}, got nothing that does: hidden from "
            "attacks along gradients; ask it instead: -a square,hopskipjump --threat decision-only"
        )
    return _total(tape, pending[wrt])


def _apply(tape: Tape, node: NodeProto, pending: Mapping[str, list[str]]) -> list[str | None]:
    if node.op_type == "Split":
        parts = [_total(tape, pending[name]) if name in pending else tape.zeros_like(name) for name in node.output]
        return layout.split(tape, node, parts)
    if node.output[0] not in pending or any(name in pending for name in node.output[1:]):
        raise ModelError(
            f"expected only the first output of {described(node)} to carry a gradient, got another; rewrite the graph"
        )
    return RULES[node.op_type](tape, node, _total(tape, pending[node.output[0]]))


def _total(tape: Tape, cotangents: list[str]) -> str:
    return cotangents[0] if len(cotangents) == 1 else tape.op("Sum", *cotangents)
