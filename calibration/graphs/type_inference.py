"""What follows from the shapes of a graph's inputs: the types of its tensors, and the numbers it makes of sizes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from calibration.graphs.operators import RANDOM
from calibration.graphs.reading import computed, has_subgraph
from calibration.graphs.tape import Array, attributes_of
from calibration.graphs.types import BATCH, TensorType, declared_types, type_of, value_info
from runtime.errors import ModelError

_SMALL_BYTES = 1024
_PROBES = (1009, 1013)
_MANY = 4096
_FILLING = frozenset(["ConstantOfShape", "Expand", "Tile"])
"""Operators whose last input says how much to write."""

_UNKNOWN_TO_INFERENCE = frozenset(["GroupNormalization"])
"""Operators whose output is like their input, of which ONNX's shape inference knows nothing."""


def infer_types(
    nodes: Iterable[NodeProto],
    constants: Mapping[str, TensorProto],
    inputs: Mapping[str, TensorType],
    *,
    opset: int,
) -> dict[str, TensorType]:
    """Infer element types and axes of every tensor that `nodes` compute.

    ONNX loses the batch symbol where a Reshape says -1, so the batch size is set to two primes in turn: an axis
    that comes out as both of them is the batch axis, one that stays the same is fixed.

    Raises:
        ModelError: The shapes contradict each other.
    """
    nodes = [_inferable(node) for node in nodes]
    first, second = (_types_at(batch, nodes, constants, inputs, opset) for batch in _PROBES)
    return {name: _merged(known, second[name]) for name, known in first.items() if name in second}


def _types_at(
    batch: int,
    nodes: Sequence[NodeProto],
    constants: Mapping[str, TensorProto],
    inputs: Mapping[str, TensorType],
    opset: int,
) -> dict[str, TensorType]:
    """Infer at one batch size, with every number that follows from the shapes found so far, until no new one does."""
    sources = {name: _at(known, batch) for name, known in inputs.items()}
    numbers: dict[str, TensorProto] = {}
    while True:
        known = {**constants, **numbers}
        rest = [node for node in nodes if not numbers.keys() >= {*filter(None, node.output)}]
        types = _inferred(rest, known, sources, opset)
        found = numbers_from_shapes(nodes, constants, types, batch)
        if found.keys() <= numbers.keys():
            return {name: type_of(tensor) for name, tensor in known.items()} | types
        numbers = {name: numpy_helper.from_array(value, name) for name, value in found.items()}


def _inferred(
    nodes: Sequence[NodeProto],
    constants: Mapping[str, TensorProto],
    inputs: Mapping[str, TensorType],
    opset: int,
) -> dict[str, TensorType]:
    """Infer once; large constants are passed by type alone."""
    small = [tensor for tensor in constants.values() if len(tensor.raw_data) <= _SMALL_BYTES]
    large = {name: type_of(tensor) for name, tensor in constants.items() if len(tensor.raw_data) > _SMALL_BYTES}
    values = [value_info(name, known) for name, known in {**inputs, **large}.items()]
    graph = helper.make_graph(nodes, "forward", values, [], initializer=small)
    return declared_types(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]))


def numbers_from_shapes(
    nodes: Sequence[NodeProto], constants: Mapping[str, TensorProto], types: Mapping[str, TensorType], batch: int
) -> dict[str, Array]:
    """Return the value of every tensor that depends on shapes and constants alone, at one batch size."""
    found: dict[str, Array] = {}
    for node in nodes:
        read = [name for name in node.input if name]
        if node.op_type == "Shape":
            dims = types[read[0]].dims if read[0] in types else None
            if dims is not None and all(size == BATCH or isinstance(size, int) for size in dims):
                attributes = attributes_of(node)
                sizes = [batch if size == BATCH else size for size in dims]
                found[node.output[0]] = np.array(sizes[attributes.get("start", 0) : attributes.get("end")], np.int64)
        elif not found.keys().isdisjoint(read) and all(name in found or name in constants for name in read):
            values = {name: found[name] if name in found else numpy_helper.to_array(constants[name]) for name in read}
            if _is_arithmetic(node, list(values.values())):
                with suppress(ModelError):  # what cannot be computed ahead stays in the graph
                    found.update(computed(node, values))
    return found


def _is_arithmetic(node: NodeProto, values: Sequence[Array]) -> bool:
    """Return whether a node computes a few numbers, rather than draw or fill a tensor as large as a batch."""
    if node.op_type in RANDOM or has_subgraph(node) or max(value.size for value in values) > _MANY:
        return False
    if node.op_type == "Range":
        start, limit, step = (float(value) for value in values)
        return abs(limit - start) <= _MANY * abs(step)
    if node.op_type in _FILLING:
        return bool(np.prod(values[-1], dtype=float) <= _MANY)
    return True


def _inferable(node: NodeProto) -> NodeProto:
    if node.op_type not in _UNKNOWN_TO_INFERENCE:
        return node
    return helper.make_node("Identity", node.input[:1], node.output[:1])


def _at(known: TensorType, batch: int) -> TensorType:
    if known.dims is None:
        return known
    return TensorType(element=known.element, dims=tuple(batch if size == BATCH else size for size in known.dims))


def _merged(first: TensorType, second: TensorType) -> TensorType:
    if first.dims is None or second.dims is None:
        return TensorType(element=first.element, dims=None)
    pairs = zip(first.dims, second.dims, strict=True)
    return TensorType(
        element=first.element, dims=tuple(BATCH if (a, b) == _PROBES else a if a == b else None for a, b in pairs)
    )
