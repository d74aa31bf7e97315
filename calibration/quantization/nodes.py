"""Which nodes of a guard are its network, and which of them may stay in float when it is quantised."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import ModelProto, NodeProto
from onnx.utils import Extractor

from runtime.errors import ModelError, one_line

_WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_HEADS = ("unlocked_logits", "logits", "robust_logits")


def cut_network(model: ModelProto) -> ModelProto:
    """Return the part of a guard from ``pixels`` to its logits, every node named.

    Whatever else reads a tensor of it (the rule, a detector, an attack before the lock) finds it among its outputs.

    Args:
        model: A guard file.

    Raises:
        ModelError: Its logits do not follow from an inner tensor ``pixels`` alone.
    """
    bare = ModelProto()
    bare.CopyFrom(model)
    del bare.metadata_props[:]
    made = {name for node in bare.graph.node for name in node.output}
    heads = [name for name in _HEADS if name in made]
    try:
        extractor = Extractor(onnx.shape_inference.infer_shapes(bare))
        inner = {name for node in extractor.extract_model(["pixels"], heads).graph.node for name in node.output}
        outside = [node for node in bare.graph.node if not inner & set(node.output)]
        read = {name for node in outside for name in node.input} & inner
        network = extractor.extract_model(["pixels"], [*heads, *sorted(read - set(heads))])
        onnx.checker.check_model(network)
    except (ValueError, KeyError, onnx.checker.ValidationError) as error:
        raise ModelError(f"expected logits that follow from 'pixels' alone, got: {one_line(error)}") from None
    for place, node in enumerate(network.graph.node):
        node.name = f"{node.op_type}_{place}"
    return network


def put_network(model: ModelProto, network: ModelProto, *, instead_of: ModelProto) -> ModelProto:
    """Return a guard with another network; the way to ``pixels`` and the rule stay, node for node.

    Args:
        model: The guard.
        network: The new network, its nodes in order.
        instead_of: What `cut_network` made of the guard.
    """
    old = {name for node in instead_of.graph.node for name in node.output}
    kept = [node for node in model.graph.node if not old & set(node.output)]
    before = [node for node in kept if not old & _read_by(node, kept)]
    after = [node for node in kept if node not in before]
    changed = ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    del graph.node[:], graph.initializer[:], changed.metadata_props[:]
    graph.node.extend([*before, *network.graph.node, *after])
    made = {name for node in graph.node for name in node.output}
    used = {name for node in graph.node for name in node.input} | {"threshold", "classmap"}
    tensors = {tensor.name: tensor for tensor in [*model.graph.initializer, *network.graph.initializer]}
    graph.initializer.extend(tensor for name, tensor in tensors.items() if name in used - made)
    return changed


def float_choices(network: ModelProto) -> dict[str, tuple[str, ...]]:
    """Return what may stay in float, by a word for it: names of nodes.

    ``nothing``; ``lock``, everything between the heads and the locked logits; ``heads``, each head from its last
    weights on; where there is a lock ``heads and lock``.

    Args:
        network: What `cut_network` returns.
    """
    nodes = list(network.graph.node)
    outputs = {value.name for value in network.graph.output}
    locked = "unlocked_logits" in outputs
    starts = {"unlocked_logits" if locked else "logits", "robust_logits"} & outputs
    heads = {name for start in starts for name in _back_to_weights(start, nodes)}
    if not locked:
        return {"nothing": (), "heads": _in_order(heads, nodes)}
    lock = _after(starts, nodes)
    return {"nothing": (), "lock": _in_order(lock, nodes), "heads and lock": _in_order(heads | lock, nodes)}


def _read_by(node: NodeProto, nodes: Sequence[NodeProto]) -> set[str]:
    """Return every tensor that a node depends on, its own outputs left out, as far as `nodes` make them."""
    makers = {name: other for other in nodes for name in other.output}
    seen, ahead = set[str](), list(node.input)
    while ahead:
        name = ahead.pop()
        if name and name not in seen:
            seen.add(name)
            ahead += makers[name].input if name in makers else []
    return seen


def _back_to_weights(tensor: str, nodes: Sequence[NodeProto]) -> set[str]:
    """Return the nodes that make a tensor, up to the first with weights on every way."""
    makers = {name: node for node in nodes for name in node.output}
    found, ahead = set[str](), [tensor]
    while ahead:
        node = makers.get(ahead.pop())
        if node is not None and node.name not in found:
            found.add(node.name)
            ahead += [] if node.op_type in _WEIGHTED else node.input
    return found


def _after(tensors: set[str], nodes: Sequence[NodeProto]) -> set[str]:
    """Return the nodes that depend on one of some tensors; `nodes` are in order."""
    reached, found = set(tensors), set[str]()
    for node in nodes:
        if reached & set(node.input):
            reached |= set(node.output)
            found.add(node.name)
    return found


def _in_order(names: set[str], nodes: Sequence[NodeProto]) -> tuple[str, ...]:
    return tuple(node.name for node in nodes if node.name in names)
