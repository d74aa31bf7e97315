"""The graphs that a `GradientGraph` runs, each serialised as one ONNX model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from onnx import NodeProto, TensorProto, ValueInfoProto, helper

from calibration.gradients.forward import ForwardGraph
from calibration.gradients.reverse import check_supported, differentiate
from calibration.graphs.tape import Tape
from calibration.graphs.type_inference import infer_types
from calibration.graphs.types import TensorType, value_info
from calibration.objectives import Objective

_FLOAT = TensorType(element=TensorProto.FLOAT, dims=None)


def check_differentiable(forward: ForwardGraph) -> None:
    """Apply every rule once, so that what cannot be differentiated shows before anything runs.

    Raises:
        ModelError: A node has no rule, or its rule does not cover how it is used.
    """
    tape = forward.tape()
    check_supported(tape, forward.of)
    differentiate(tape, {name: tape.cotangent(cotangent_of(name)) for name in forward.of}, wrt=forward.wrt)


def logits_model(forward: ForwardGraph) -> bytes:
    """Return the graph from `wrt` to the logits."""
    tape = forward.tape()
    return _serialised(forward, tape, tape.forward, outputs=forward.of)


def vjp_model(forward: ForwardGraph, classes: Mapping[str, int]) -> bytes:
    """Return the graph from `wrt` and a cotangent for each name in `classes` to the cotangent of `wrt`.

    Args:
        forward: The network.
        classes: K of each logits tensor that takes part.
    """
    tape = forward.tape()
    seeds = {name: tape.cotangent(tape.input(cotangent_of(name), forward.batch, k)) for name, k in classes.items()}
    gradient = differentiate(tape, seeds, wrt=forward.wrt)
    return _serialised(forward, tape, [*tape.forward, *tape.reverse], outputs=[gradient])


def objective_model(forward: ForwardGraph, objective: Objective, classes: int) -> bytes:
    """Return the graph from `wrt` and the objective's inputs to the loss ``(N,)``, its gradient and the logits.

    Args:
        forward: The network.
        objective: What to differentiate.
        classes: K of the logits it reads.
    """
    tape = forward.tape()
    loss = objective.append(tape, {name: name for name in objective.reads}, classes)
    inputs = {forward.wrt: forward.types[forward.wrt], **tape.inputs}
    tape.types |= infer_types(tape.forward, tape.constants, inputs, opset=forward.opset)
    seed = tape.cotangent(tape.expand_like(tape.constant(1.0), loss))
    gradient = differentiate(tape, {loss: seed}, wrt=forward.wrt)
    return _serialised(forward, tape, [*tape.forward, *tape.reverse], outputs=[loss, gradient, *forward.of])


def jacobian_model(forward: ForwardGraph, classes: Mapping[str, int]) -> bytes:
    """Return the graph from `wrt` and R stacked cotangents of each logits tensor to R cotangents of `wrt`.

    The reverse nodes are the body of a Scan over R, and read what the forward nodes computed once.

    Args:
        forward: The network.
        classes: K of each logits tensor; its stack is ``(R, N, K)``.
    """
    tape = forward.tape()
    seeds = {name: tape.cotangent(cotangent_of(name)) for name in classes}
    gradient = differentiate(tape, seeds, wrt=forward.wrt)
    rows = {
        seed: TensorType(element=TensorProto.FLOAT, dims=(forward.batch, classes[name])) for name, seed in seeds.items()
    }
    # ONNX Runtime rearranges the weights of a Conv ahead of time only if they are initializers of the same graph.
    shared = {name for node in tape.forward for name in node.input}
    own = [name for node in tape.reverse for name in node.input if name in tape.constants and name not in shared]
    body = helper.make_graph(
        tape.reverse,
        "reverse",
        [value_info(seed, known) for seed, known in rows.items()],
        [value_info(gradient, forward.types[forward.wrt])],
        initializer=[tape.constants.pop(name) for name in dict.fromkeys(own)],
        value_info=_known(tape.reverse, tape.types),
    )
    stacks = [tape.input(stack_of(name), "R", forward.batch, k) for name, k in classes.items()]
    scan = helper.make_node("Scan", stacks, ["jacobian"], body=body, num_scan_inputs=len(stacks))
    return _serialised(forward, tape, [*tape.forward, scan], outputs=["jacobian", *forward.of])


def cotangent_of(name: str) -> str:
    """Return the name of the input that carries the cotangent of a logits tensor."""
    return f"cotangent/{name}"


def stack_of(name: str) -> str:
    """Return the name of the input that carries a stack of cotangents of a logits tensor."""
    return f"cotangents/{name}"


def _serialised(forward: ForwardGraph, tape: Tape, nodes: Sequence[NodeProto], *, outputs: Iterable[str]) -> bytes:
    """Write a graph with the types of its tensors, without which ONNX Runtime loses the batch axis and fast layouts."""
    inputs = {forward.wrt: forward.types[forward.wrt], **tape.inputs}
    types = infer_types(nodes, tape.constants, inputs, opset=forward.opset) | tape.types
    graph = helper.make_graph(
        nodes,
        "gradient",
        [value_info(name, known) for name, known in inputs.items()],
        [value_info(name, types.get(name, _FLOAT)) for name in outputs],
        initializer=list(tape.constants.values()),
        value_info=_known(nodes, types),
    )
    opset = helper.make_opsetid("", forward.opset)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=forward.ir_version)
    return bytes(model.SerializeToString())


def _known(nodes: Iterable[NodeProto], types: Mapping[str, TensorType]) -> list[ValueInfoProto]:
    return [value_info(name, types[name]) for node in nodes for name in node.output if name in types]
