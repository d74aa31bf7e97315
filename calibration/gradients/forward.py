"""The forward half of a gradient graph: a classifier cut open at the tensor it is differentiated with respect to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from onnx import GraphProto, NodeProto, TensorProto

from calibration.gradients.activity import active_tensors, read_by, straight_through
from calibration.gradients.recurrence import unrolled
from calibration.gradients.rewriting import padded_on_all_axes, pooled_before_relu
from calibration.gradients.sizes import fixed_numbers, local_shapes
from calibration.gradients.spatial_transformers import sampled
from calibration.graphs.operators import is_integer_arithmetic
from calibration.graphs.reading import Model, constants_of, folded, opset_of, read_model
from calibration.graphs.tape import FLOATS, Tape, described, listed
from calibration.graphs.type_inference import infer_types
from calibration.graphs.types import BATCH, TensorType, declared_types
from runtime.errors import ModelError, UsageError

HEADS = ("logits", "robust_logits")
"""The logits an exported file of ours can have."""

_FULL_IR_VERSION = 4


@dataclass(frozen=True, kw_only=True)
class ForwardGraph:
    """The nodes that lead from `wrt` to the tensors `of`, everything else cut off.

    Attributes:
        nodes: In topological order, with constants folded and ReLU moved behind the max-pooling that follows it.
        constants: Every initializer by name.
        types: What is known of each tensor.
        active: The tensors through which a gradient flows from `of` to `wrt`.
        straight: Those of them that are steps of a staircase, which the gradient passes as if they were none.
        wrt: The input to differentiate with respect to.
        of: The tensors to differentiate.
        opset: The version of the ``ai.onnx`` operators.
        ir_version: The version of the file format.
    """

    nodes: tuple[NodeProto, ...]
    constants: Mapping[str, TensorProto]
    types: Mapping[str, TensorType]
    active: frozenset[str]
    straight: frozenset[str]
    wrt: str
    of: tuple[str, ...]
    opset: int
    ir_version: int

    @property
    def batch(self) -> int | str | None:
        """The batch axis of `wrt`: `BATCH`, or a number in a model that was exported for one batch size only."""
        return (self.types[self.wrt].dims or (None,))[0]

    @property
    def straight_through(self) -> bool:
        """Whether a gradient passes rounded numbers, as if they had not been rounded."""
        quantised = any(node.op_type == "QuantizeLinear" and node.output[0] in self.active for node in self.nodes)
        return quantised or bool(self.straight)

    def tape(self) -> Tape:
        """Start a tape with a copy of these nodes."""
        return Tape(
            self.nodes,
            constants=self.constants,
            types=self.types,
            active=self.active,
            wrt=self.wrt,
            straight=self.straight,
        )


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
    constants = constants_of(graph)
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
    nodes = list(local_shapes(nodes, wrt, types, constants))
    nodes = _ancestors(folded(nodes, constants), heads, stop=wrt)
    _check_nodes(nodes, wrt, constants)
    source = TensorType(element=types[wrt].element, dims=_batched(types[wrt].dims))
    nodes, known = _with_fixed_sizes(nodes, constants, wrt, source, heads, opset=opset_of(proto))
    straight = straight_through(nodes, wrt, known, heads)
    nodes = list(unrolled(list(sampled(nodes, constants, known)), constants, known))
    nodes = _ancestors(nodes, heads, stop=wrt)
    nodes = list(padded_on_all_axes(pooled_before_relu(nodes, heads), constants, known))
    known = infer_types(nodes, constants, {wrt: source}, opset=opset_of(proto))
    active = active_tensors(nodes, wrt, known, straight=straight)
    _check_float(nodes, known, active, (wrt, *heads))
    return ForwardGraph(
        nodes=tuple(nodes),
        constants=constants,
        types=known,
        active=frozenset(active),
        straight=straight,
        wrt=wrt,
        of=heads,
        opset=opset_of(proto),
        ir_version=max(proto.ir_version, _FULL_IR_VERSION),
    )


def _with_fixed_sizes(
    nodes: list[NodeProto],
    constants: dict[str, TensorProto],
    wrt: str,
    source: TensorType,
    heads: Sequence[str],
    *,
    opset: int,
) -> tuple[list[NodeProto], dict[str, TensorType]]:
    """Fold numbers that follow from fixed sizes, whose shapes fix the next ones, until none is left."""
    while True:
        known = infer_types(nodes, constants, {wrt: source}, opset=opset)
        numbers = fixed_numbers(nodes, constants, known)
        if not numbers:
            return nodes, known
        constants.update(numbers)
        nodes = [node for node in nodes if not numbers.keys() >= {*filter(None, node.output)}]
        nodes = _ancestors(folded(nodes, constants), heads, stop=wrt)


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
            wanted.update(read_by(node))
    return kept[::-1]


def _check_nodes(nodes: Sequence[NodeProto], wrt: str, constants: Mapping[str, TensorProto]) -> None:
    integer = [described(node) for node in nodes if is_integer_arithmetic(node.domain, node.op_type)]
    if integer:
        raise ModelError(
            f"expected a float graph, or one of QuantizeLinear and DequantizeLinear, got quantised nodes "
            f"{listed(integer)}; attack its float twin instead"
        )
    custom = [f"{node.domain}.{described(node)}" for node in nodes if node.domain not in ("", "ai.onnx")]
    if custom:
        raise ModelError(f"expected plain ai.onnx operators, got {listed(custom)}; export the model unoptimised")
    made = {wrt, "", *constants, *(name for node in nodes for name in node.output)}
    foreign = sorted({name for node in nodes for name in node.input} - made)
    if foreign:
        raise ModelError(
            f"expected the logits to depend on {wrt!r} alone, got a graph that also reads {', '.join(foreign)}"
        )


def _check_float(
    nodes: Iterable[NodeProto], types: Mapping[str, TensorType], active: set[str], ends: Iterable[str]
) -> None:
    """Check that `ends` are float32, and every float between them."""
    for name in ends:
        if name not in types:
            raise ModelError(f"expected the shape of {name!r} to follow from the input, got none; check the model")
        if types[name].element != TensorProto.FLOAT:
            raise ModelError(
                f"expected tensor {name!r} to be float32, got {_element(types[name])}; attack the model's float32 twin"
            )
    other = [
        f"{_element(types[name])} of {described(node)}"
        for node in nodes
        for name in node.output
        if name in active and name in types and types[name].element in FLOATS - {TensorProto.FLOAT}
    ]
    if other:
        raise ModelError(f"expected float32 all the way, got {listed(other)}; attack the model's float32 twin")


def _element(known: TensorType) -> str:
    return str(TensorProto.DataType.Name(known.element)).lower()
