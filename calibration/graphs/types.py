"""What is known of the tensors of a graph before it runs: element types and axes, the batch axis by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from onnx import ModelProto, TensorProto, ValueInfoProto, helper, shape_inference

from runtime.errors import ModelError

BATCH = "N"
"""The symbol of the batch axis."""


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


def type_of(tensor: TensorProto) -> TensorType:
    """Return the type of a constant."""
    return TensorType(element=tensor.data_type, dims=tuple(tensor.dims))


def value_info(name: str, known: TensorType) -> ValueInfoProto:
    """Write a tensor type down as ONNX does."""
    return helper.make_tensor_value_info(name, known.element, known.dims)


def first_line(error: Exception) -> str:
    """Return the first line of the message of a foreign error, or its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _dim(dim: Any) -> int | str | None:
    return int(dim.dim_value) if dim.HasField("dim_value") else (dim.dim_param or None)
