"""What is known of the tensors of a graph before it runs: element types and axes, the batch axis by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, shape_inference

from runtime.errors import ModelError

BATCH = "N"
"""The symbol of the batch axis."""

_SMALL_BYTES = 1024
_PROBES = (1009, 1013)
_UNKNOWN_TO_INFERENCE = frozenset(["GroupNormalization"])
"""Operators whose output is like their input, of which ONNX's shape inference knows nothing."""


@dataclass(frozen=True, kw_only=True)
class TensorType:
    """What is known of one tensor before anything runs.

    Attributes:
        element: Its ``TensorProto.DataType``.
        dims: One entry per axis: a number, a symbol such as ``N``, or None where nothing is known; None as a whole when
            even the rank is unknown.
    """

    element: int
    dims: tuple[int | str | None, ...] | None


def infer_types(
    nodes: Iterable[NodeProto],
    constants: Mapping[str, TensorProto],
    inputs: Mapping[str, TensorType],
    *,
    opset: int,
) -> dict[str, TensorType]:
    """Infer element types and axes of every tensor that `nodes` compute.

    ONNX loses the batch symbol where a Reshape says -1, so the batch size is set to two primes in turn: an axis
    that comes out as both of them is the batch axis, one that stays the same is fixed. Large constants are passed by
    type alone.
    """
    small = [tensor for tensor in constants.values() if len(tensor.raw_data) <= _SMALL_BYTES]
    large = {
        name: TensorType(element=tensor.data_type, dims=tuple(tensor.dims))
        for name, tensor in constants.items()
        if len(tensor.raw_data) > _SMALL_BYTES
    }
    nodes, probes = list(nodes), []
    for batch in _PROBES:
        values = [value_info(name, _at(known, batch)) for name, known in {**inputs, **large}.items()]
        graph = helper.make_graph([_inferable(node) for node in nodes], "forward", values, [], initializer=small)
        probes.append(declared_types(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])))
    inferred = {name: _merged(known, probes[1][name]) for name, known in probes[0].items()}
    return {name: TensorType(element=c.data_type, dims=tuple(c.dims)) for name, c in constants.items()} | inferred


def declared_types(model: ModelProto) -> dict[str, TensorType]:
    """Return the types of a model's tensors as it declares them and ONNX infers them.

    Raises:
        ModelError: They contradict each other.
    """
    try:
        graph = shape_inference.infer_shapes(model, data_prop=True).graph
    except shape_inference.InferenceError as error:
        raise ModelError(f"expected a model whose shapes agree, got {first_line(error)}; export it again") from error
    types = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        dims = tuple(_dim(d) for d in tensor.shape.dim) if tensor.HasField("shape") else None
        types[value.name] = TensorType(element=tensor.elem_type, dims=dims)
    return types


def value_info(name: str, known: TensorType) -> ValueInfoProto:
    """Write a tensor type down as ONNX does."""
    return helper.make_tensor_value_info(name, known.element, known.dims)


def first_line(error: Exception) -> str:
    """Return the first line of the message of a foreign error, or its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


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


def _dim(dim: Any) -> int | str | None:
    return int(dim.dim_value) if dim.HasField("dim_value") else (dim.dim_param or None)
