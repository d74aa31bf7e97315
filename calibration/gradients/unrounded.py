"""A network without its roundings and thresholds, which is what straight-through gradients are derivatives of."""

from __future__ import annotations

from dataclasses import replace

from calibration.gradients.activity import active_tensors
from calibration.gradients.forward import ForwardGraph
from calibration.gradients.rules.quantization import representable, scale_of
from calibration.graphs.operators import STEPS
from calibration.graphs.type_inference import infer_types


def unrounded(forward: ForwardGraph) -> ForwardGraph:
    """Replace every QuantizeLinear by scaling and clipping, every DequantizeLinear by scaling back.

    Other roundings that a gradient passes are left out, comparisons become differences, and what they
    choose between a line between both. Rounding makes differences
    of the logits a staircase; without it they are what straight-through gradients follow.
    """
    tape = forward.tape()
    nodes, tape.forward = tape.forward, []
    for node in nodes:
        if node.op_type == "QuantizeLinear":
            scale, low, high = (tape.constant(values) for values in representable(tape, node))
            bounded = tape.op("Min", tape.op("Max", node.input[0], low), high)
            tape.op("Div", bounded, scale)
        elif node.op_type == "DequantizeLinear":
            tape.op("Mul", node.input[0], tape.constant(scale_of(tape, node)))
        elif node.op_type == "Where" and node.input[0] in forward.active:
            share, yes, no = node.input
            tape.op("Add", tape.op("Mul", share, tape.op("Sub", yes, no)), no)
        elif node.output[0] not in forward.straight:
            tape.forward.append(node)
        elif node.op_type in STEPS and len(node.input) == 2:
            larger, smaller = node.input if node.op_type.startswith("Greater") else reversed(node.input)
            tape.op("Sub", larger, smaller)
        else:
            tape.op("Identity", node.input[0])
        tape.forward[-1].output[0] = tape.forward[-1].name = node.output[0]
    types = infer_types(tape.forward, tape.constants, {forward.wrt: forward.types[forward.wrt]}, opset=forward.opset)
    return replace(
        forward,
        nodes=tuple(tape.forward),
        constants=tape.constants,
        types=types,
        active=frozenset(active_tensors(tape.forward, forward.wrt, types)),
        straight=frozenset(),
    )
