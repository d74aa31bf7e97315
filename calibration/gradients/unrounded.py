"""A quantised network without its rounding, which is what straight-through gradients are derivatives of."""

from __future__ import annotations

from dataclasses import replace

from calibration.gradients.forward import ForwardGraph, active_tensors
from calibration.gradients.rules.quantization import representable, scale_of
from calibration.graphs.type_inference import infer_types


def unrounded(forward: ForwardGraph) -> ForwardGraph:
    """Replace every QuantizeLinear by scaling and clipping, and every DequantizeLinear by scaling back.

    Rounding makes differences of the logits a staircase; without it they are what straight-through gradients follow.
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
        else:
            tape.forward.append(node)
        tape.forward[-1].output[0] = tape.forward[-1].name = node.output[0]
    types = infer_types(tape.forward, tape.constants, {forward.wrt: forward.types[forward.wrt]}, opset=forward.opset)
    return replace(
        forward,
        nodes=tuple(tape.forward),
        constants=tape.constants,
        types=types,
        active=frozenset(active_tensors(tape.forward, forward.wrt, types)),
    )
