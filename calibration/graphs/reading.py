"""Reading a model for differentiation: one flat list of nodes, with everything constant computed beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, inliner, numpy_helper, version_converter
from onnx.reference import ReferenceEvaluator

from calibration.graphs.operators import RANDOM
from calibration.graphs.tape import Array, attributes_of, described
from calibration.graphs.types import first_line
from runtime.errors import ModelError

_OLDEST_OPSET = 18

Model = str | PathLike[str] | bytes | ModelProto


def read_model(model: Model) -> ModelProto:
    """Read, check and inline a model, and bring its operators to a version the rules know.

    Raises:
        ModelError: It is not a valid ONNX model, or keeps its weights in other files.
    """
    try:
        proto = _decode(model)
        if any(tensor.data_location == TensorProto.EXTERNAL for tensor in proto.graph.initializer):
            raise ValueError("its weights are in other files, which only a path can lead to")
        onnx.checker.check_model(proto)
        if proto.functions:
            proto = inliner.inline_local_functions(proto)
        if opset_of(proto) < _OLDEST_OPSET:
            proto = version_converter.convert_version(proto, _OLDEST_OPSET)
    except Exception as error:  # onnx raises its own errors, protobuf's and the system's, without a common base
        advice = "check the path" if isinstance(error, OSError) else "export it again"
        raise ModelError(f"expected an ONNX model, got {_title(model)}: {first_line(error)}; {advice}") from error
    return proto


def opset_of(model: ModelProto) -> int:
    """Return the version of the ``ai.onnx`` operators of a model."""
    return next(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def constants_of(graph: GraphProto) -> dict[str, TensorProto]:
    """Return the initializers of a graph and the values of its Constant nodes, by name.

    Raises:
        ModelError: A constant is sparse or of text.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = _constant(node)
    return constants


def folded(nodes: Sequence[NodeProto], constants: dict[str, TensorProto]) -> list[NodeProto]:
    """Compute the nodes that depend on constants alone, and add their results to `constants`.

    An If on a constant condition becomes the nodes of the branch it takes.

    Raises:
        ModelError: Such a node cannot be computed.
    """
    kept, ahead = list[NodeProto](), list(reversed(nodes))
    while ahead:
        node = ahead.pop()
        inputs = [name for name in node.input if name]
        fixed = bool(inputs) and all(name in constants for name in inputs)
        if node.op_type == "If" and fixed:
            ahead += reversed(_branch(node, constants))
        elif fixed and node.op_type not in RANDOM and not has_subgraph(node):
            results = computed(node, {name: numpy_helper.to_array(constants[name]) for name in inputs})
            constants.update({name: numpy_helper.from_array(value, name) for name, value in results.items()})
        else:
            kept.append(node)
    return kept


def _decode(model: Model) -> ModelProto:
    if isinstance(model, ModelProto):
        return model
    if isinstance(model, bytes):
        return onnx.load_model_from_string(model)
    return onnx.load(fspath(model))


def _title(model: Model) -> str:
    if isinstance(model, ModelProto):
        return f"graph {model.graph.name!r}"
    return f"{len(model)} bytes" if isinstance(model, bytes) else fspath(model)


def _constant(node: NodeProto) -> TensorProto:
    kind, value = next(iter(attributes_of(node).items()))
    if kind == "sparse_value" or kind.startswith("value_string"):
        raise ModelError(f"expected {described(node)} to hold plain numbers, got {kind}; export the model again")
    if not isinstance(value, TensorProto):
        numbers = np.asarray(value, np.float32 if _holds_floats(value) else np.int64)
        value = numpy_helper.from_array(numbers)
    named = TensorProto()
    named.CopyFrom(value)
    named.name = node.output[0]
    return named


def _holds_floats(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, Sequence) and any(isinstance(item, float) for item in value))


def _branch(node: NodeProto, constants: dict[str, TensorProto]) -> list[NodeProto]:
    """Return the nodes of the branch a constant condition takes; its outputs get the names of the If's."""
    attributes = attributes_of(node)
    taken = numpy_helper.to_array(constants[node.input[0]]).item()
    graph: GraphProto = attributes["then_branch" if taken else "else_branch"]
    constants.update(constants_of(graph))
    nodes = [inner for inner in graph.node if inner.op_type != "Constant"]
    renamed = zip(graph.output, node.output, strict=True)
    return nodes + [helper.make_node("Identity", [inner.name], [outer], name=outer) for inner, outer in renamed]


def has_subgraph(node: NodeProto) -> bool:
    """Return whether a node has branches or a loop body."""
    return any(attribute.type == onnx.AttributeProto.GRAPH for attribute in node.attribute)


def computed(node: NodeProto, values: dict[str, Array]) -> dict[str, Array]:
    """Return the outputs of a node.

    Args:
        node: Without branches or a loop body.
        values: Its inputs by name.

    Raises:
        ModelError: It cannot be computed.
    """
    try:
        results = ReferenceEvaluator(node).run(None, values)
    except Exception as error:  # the evaluator raises whatever numpy does
        raise ModelError(
            f"expected {described(node)} of constants to be computable, got {first_line(error)}; "
            "export the model with constants folded"
        ) from error
    return {name: np.asarray(value) for name, value in zip(node.output, results, strict=False) if name}
