"""Which tensors of a graph vary with its input, and which steps a gradient has to pass for any to do so."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from onnx import NodeProto, TensorProto

from calibration.graphs.operators import FLAT, QUANTIZED_RANGE, ROUNDING, STEPS
from calibration.graphs.tape import FLOATS
from calibration.graphs.types import TensorType

_WHOLE = frozenset(
    [*QUANTIZED_RANGE, TensorProto.INT32, TensorProto.INT64, TensorProto.UINT32, TensorProto.UINT64, TensorProto.BOOL]
)


def active_tensors(
    nodes: Iterable[NodeProto], wrt: str, types: Mapping[str, TensorType], *, straight: Collection[str] = ()
) -> set[str]:
    """Return the tensors that vary smoothly with `wrt`: floats, and integers that QuantizeLinear made of floats.

    A tensor of unknown type counts too, so that what made it is refused rather than passed over.

    Args:
        nodes: In topological order.
        wrt: The input.
        types: What is known of each tensor.
        straight: Outputs of steps that are taken for smooth; what is moved of their integers counts too.
    """
    reached, integers = {wrt}, set[str]()
    carrying = _WHOLE if straight else QUANTIZED_RANGE.keys()
    for node in nodes:
        passed = node.output[0] in straight
        read = set(read_by(node))
        if (node.op_type in FLAT and not passed) or reached.isdisjoint(read):
            continue
        for name in node.output:
            element = types[name].element if name in types else TensorProto.UNDEFINED
            if passed or node.op_type == "QuantizeLinear" or (element in carrying and not integers.isdisjoint(read)):
                integers.add(name)
                reached.add(name)
            elif element in FLOATS or element == TensorProto.UNDEFINED:
                reached.add(name)
    return reached


def straight_through(
    nodes: Sequence[NodeProto], wrt: str, types: Mapping[str, TensorType], of: Collection[str]
) -> frozenset[str]:
    """Return the steps of staircases that a gradient has to pass for every tensor of `of` to have one.

    Where all of `of` vary smoothly with `wrt` there are none, and derivatives are true ones. Else pixels are rounded,
    or compared with a threshold, on every way to one of them: a gradient of zero, which hides a network from whoever
    follows it. Roundings are tried first, then comparisons too; empty where neither helps.

    Source: Athalye et al. 2018 (Obfuscated Gradients), section 4.1: the backward pass takes the identity for them.
    """
    if active_tensors(nodes, wrt, types).issuperset(of):
        return frozenset()
    for steps in (ROUNDING, ROUNDING | STEPS):
        straight = {node.output[0] for node in nodes if node.op_type in steps or _is_truncating(node, types)}
        active = active_tensors(nodes, wrt, types, straight=straight)
        if active.issuperset(of):
            return frozenset(straight & active)
    return frozenset()


def _is_truncating(node: NodeProto, types: Mapping[str, TensorType]) -> bool:
    """Whether a node makes whole numbers of floats by leaving out what is behind the point."""
    made, read = (
        (types.get(name) for name in (node.output[0], node.input[0])) if node.op_type == "Cast" else (None,) * 2
    )
    return made is not None and read is not None and made.element in _WHOLE and read.element in FLOATS


def read_by(node: NodeProto) -> Iterator[str]:
    """Return the tensors a node reads, those its branches and loop bodies read included."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from read_by(inner)
