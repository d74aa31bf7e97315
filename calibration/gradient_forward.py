"""The forward half of a gradient graph: a classifier cut open at the tensor it is differentiated with respect to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any

import numpy as np
import onnx
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    helper,
    inliner,
    numpy_helper,
    version_converter,
)
from onnx.reference import ReferenceEvaluator

from calibration.gradient_tape import Tape, attributes_of, described
from calibration.gradient_types import BATCH, TensorType, declared_types, first_line, infer_types
from runtime.errors import ModelError, UsageError

HEADS = ("logits", "robust_logits")
"""The logits an exported file of ours can have."""

_OLDEST_OPSET = 18
_FULL_IR_VERSION = 4

Model = str | PathLike[str] | bytes | ModelProto


@dataclass(frozen=True, kw_only=True)
class ForwardGraph:
    """The nodes that lead from `wrt` to the tensors `of`, everything else cut off.

    Attributes:
        nodes: In topological order, with constants folded and ReLU moved behind the max-pooling that follows it.
        constants: Every initializer by name.
        types: What is known of each tensor.
        active: The tensors that depend on `wrt`.
        wrt: The input to differentiate with respect to.
        of: The tensors to differentiate.
        opset: The version of the ``ai.onnx`` operators.
        ir_version: The version of the file format.
    """

    nodes: tuple[NodeProto, ...]
    constants: Mapping[str, TensorProto]
    types: Mapping[str, TensorType]
    active: frozenset[str]
    wrt: str
    of: tuple[str, ...]
    opset: int
    ir_version: int

    @property
    def batch(self) -> int | str | None:
        """The batch axis of `wrt`: `BATCH`, or a number in a model that was exported for one batch size only."""
        return (self.types[self.wrt].dims or (None,))[0]

    def tape(self) -> Tape:
        """Start a tape with a copy of these nodes."""
        return Tape(self.nodes, constants=self.constants, types=self.types, active=self.active, batch=self.batch)


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
        if _opset(proto) < _OLDEST_OPSET:
            proto = version_converter.convert_version(proto, _OLDEST_OPSET)
    except Exception as error:  # onnx raises its own errors, protobuf's and the system's, without a common base
        raise ModelError(
            f"expected an ONNX model, got {_title(model)}: {first_line(error)}; export it again"
        ) from error
    return proto


def forward_graph(model: Model, *, wrt: str, of: Sequence[str] | None) -> ForwardGraph:
    """Cut `model` at `wrt` and keep what leads to the tensors `of`.

    Args:
        model: A path, the bytes of a file, or the model itself.
        wrt: The float32 tensor ``(N, ...)`` that becomes the input.
        of: The float32 tensors ``(N, K)`` to keep; None means those of `HEADS` that the model has.

    Raises:
        ModelError: The model is not valid, not float32, or `of` depends on more than `wrt`.
        UsageError: It has no tensor of that name.
    """
    proto = read_model(model)
    graph = proto.graph
    constants = _constants(graph)
    nodes = [node for node in graph.node if node.op_type != "Constant"]
    types = declared_types(proto)
    produced = {*types, *(name for node in nodes for name in node.output)}
    heads = _chosen(of, produced - constants.keys(), graph)
    if wrt not in produced:
        inputs = [value.name for value in graph.input if value.name not in constants]
        raise UsageError(
            f"expected `wrt` to name a tensor of the model, got {wrt!r}; its inputs are {', '.join(inputs)}"
        )
    nodes = _ancestors(nodes, heads, stop=wrt)
    nodes = list(_local_shapes(nodes, wrt, types, constants))
    nodes = _ancestors(nodes, heads, stop=wrt)
    nodes = _folded(nodes, constants)
    _check_nodes(nodes, wrt, constants)
    nodes = _pooled_before_relu(nodes, heads)
    source = TensorType(element=types[wrt].element, dims=_batched(types[wrt].dims))
    known = infer_types(nodes, constants, {wrt: source}, opset=_opset(proto))
    _check_float(known, (wrt, *heads))
    return ForwardGraph(
        nodes=tuple(nodes),
        constants=constants,
        types=known,
        active=frozenset(_descendants(nodes, wrt)),
        wrt=wrt,
        of=heads,
        opset=_opset(proto),
        ir_version=max(proto.ir_version, _FULL_IR_VERSION),
    )


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


def _opset(model: ModelProto) -> int:
    return next(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def _constants(graph: GraphProto) -> dict[str, TensorProto]:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            value = next(iter(attributes_of(node).values()))
            if not isinstance(value, TensorProto):
                value = numpy_helper.from_array(np.asarray(value, np.float32 if _holds_floats(value) else np.int64))
            named = TensorProto()
            named.CopyFrom(value)
            named.name = node.output[0]
            constants[named.name] = named
    return constants


def _holds_floats(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, Sequence) and any(isinstance(item, float) for item in value))


def _batched(dims: tuple[int | str | None, ...] | None) -> tuple[int | str | None, ...] | None:
    return (BATCH, *dims[1:]) if dims and not isinstance(dims[0], int) else dims


def _chosen(of: Sequence[str] | None, produced: set[str], graph: GraphProto) -> tuple[str, ...]:
    heads = tuple(name for name in HEADS if name in produced) if of is None else tuple(of)
    missing = [name for name in heads if name not in produced]
    if missing or not heads:
        outputs = ", ".join(value.name for value in graph.output)
        wanted = ", ".join(missing) if missing else "neither of " + ", ".join(HEADS)
        raise UsageError(f"expected `of` to name tensors of the model, got {wanted}; its outputs are {outputs}")
    return heads


def _ancestors(nodes: Sequence[NodeProto], of: Iterable[str], *, stop: str) -> list[NodeProto]:
    """Keep the nodes that `of` needs, looking no further back than `stop`."""
    wanted, kept = set(of), list[NodeProto]()
    for node in reversed(nodes):
        if stop not in node.output and not wanted.isdisjoint(node.output):
            kept.append(node)
            wanted.update(node.input)
    return kept[::-1]


def _descendants(nodes: Iterable[NodeProto], source: str) -> set[str]:
    reached = {source}
    for node in nodes:
        if not reached.isdisjoint(node.input):
            reached.update(node.output)
    return reached


def _local_shapes(
    nodes: Sequence[NodeProto], wrt: str, types: Mapping[str, TensorType], constants: dict[str, TensorProto]
) -> Iterator[NodeProto]:
    """Take the batch size from `wrt` where a node takes it from a tensor before the cut."""
    after = _descendants(nodes, wrt)
    batch = (types[wrt].dims or (None,))[0]
    for node in nodes:
        dims = types[node.input[0]].dims if node.op_type == "Shape" and node.input[0] in types else None
        movable = dims is not None and batch is not None and dims[:1] == (batch,) and None not in dims
        if node.op_type != "Shape" or node.input[0] in after or node.input[0] in constants or not movable:
            yield node
            continue
        attributes = attributes_of(node)
        sizes = (dims or ())[attributes.get("start", 0) : attributes.get("end")]
        parts = []
        for axis, size in enumerate(sizes):
            part = f"{node.output[0]}/axis_{axis}"
            parts.append(part)
            if size == batch:
                yield helper.make_node("Shape", [wrt], [part], name=part, start=0, end=1)
            else:
                constants[part] = numpy_helper.from_array(np.array([size], dtype=np.int64), part)
        yield helper.make_node("Concat", parts, [node.output[0]], name=node.output[0], axis=0)


def _folded(nodes: Sequence[NodeProto], constants: dict[str, TensorProto]) -> list[NodeProto]:
    """Compute the nodes that depend on constants alone, and add their results to `constants`."""
    kept = []
    for node in nodes:
        inputs = [name for name in node.input if name]
        if inputs and all(name in constants for name in inputs):
            values = {name: numpy_helper.to_array(constants[name]) for name in inputs}
            for name, value in zip(node.output, ReferenceEvaluator(node).run(None, values), strict=False):
                constants[name] = numpy_helper.from_array(np.asarray(value), name)
        else:
            kept.append(node)
    return kept


def _check_nodes(nodes: Sequence[NodeProto], wrt: str, constants: Mapping[str, TensorProto]) -> None:
    custom = [f"{node.domain}.{described(node)}" for node in nodes if node.domain not in ("", "ai.onnx")]
    if custom:
        raise ModelError(f"expected plain ai.onnx operators, got {', '.join(custom[:8])}; export the model unoptimised")
    made = {wrt, "", *constants, *(name for node in nodes for name in node.output)}
    foreign = sorted({name for node in nodes for name in node.input} - made)
    if foreign:
        raise ModelError(
            f"expected the logits to depend on {wrt!r} alone, got a graph that also reads {', '.join(foreign)}"
        )


def _check_float(types: Mapping[str, TensorType], names: Iterable[str]) -> None:
    for name in names:
        if name not in types:
            raise ModelError(f"expected the shape of {name!r} to follow from the input, got none; check the model")
        if types[name].element != TensorProto.FLOAT:
            found = TensorProto.DataType.Name(types[name].element).lower()
            raise ModelError(f"expected tensor {name!r} to be float32, got {found}; attack the model's float32 twin")


def _pooled_before_relu(nodes: Sequence[NodeProto], of: Sequence[str]) -> list[NodeProto]:
    """Move a ReLU behind the max-pooling that alone reads it: the values are the same, the reverse mask is smaller.

    The gradient is the same too: where a window's maximum is positive both take it, elsewhere both are zero.
    """
    readers: dict[str, list[NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    moved = {}
    for node in nodes:
        followers = readers.get(node.output[0], [])
        alone = len(followers) == 1 and followers[0].op_type == "MaxPool" and len(followers[0].output) == 1
        if node.op_type == "Relu" and node.output[0] not in of and alone:
            moved[node.output[0]] = node
    ordered = []
    for node in nodes:
        if node.op_type == "MaxPool" and node.input[0] in moved:
            relu, pool, pooled = moved[node.input[0]], NodeProto(), f"{node.output[0]}/before_relu"
            pool.CopyFrom(node)
            pool.input[0], pool.output[0] = relu.input[0], pooled
            ordered += [pool, helper.make_node("Relu", [pooled], list(node.output), name=relu.name)]
        elif node.output[0] not in moved:
            ordered.append(node)
    return ordered
