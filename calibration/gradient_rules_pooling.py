"""Reverse rules of pooling operators."""

from __future__ import annotations

import math

import numpy as np
from onnx import NodeProto

from calibration.gradient_rules_convolution import spread
from calibration.gradient_tape import Array, Tape, attributes_of, described
from calibration.gradient_windows import Window, window_of
from runtime.errors import ModelError


def _max_pool(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    """Send the cotangent to where the maximum came from, which MaxPool's own second output says.

    MaxUnpool writes without adding: it is right only where no two windows share a pixel.
    """
    x, attributes = node.input[0], attributes_of(node)
    if len(node.output) < 2 or not node.output[1]:
        del node.output[1:]
        node.output.append(f"grad/indices of {node.output[0]}")
    window = window_of(tape, node, kernel=attributes["kernel_shape"])
    if attributes.get("storage_order", 0):
        raise ModelError(f"expected {described(node)} in row-major order, got storage_order = 1")
    if window.overlaps or attributes.get("ceil_mode", 0) or any(width > 1 for width in window.dilations):
        flat = tape.ints(-1)
        zeros = tape.op("Reshape", tape.zeros_like(x), flat)
        where = tape.op("Reshape", node.output[1], flat)
        summed = tape.op("ScatterElements", zeros, where, tape.op("Reshape", grad, flat), axis=0, reduction="add")
        return [tape.reshape_like(summed, x)]
    return [
        tape.op(
            "MaxUnpool",
            grad,
            node.output[1],
            tape.shape(x),
            kernel_shape=window.kernel,
            strides=window.strides,
            pads=window.pads,
        )
    ]


def _average_pool(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    """Divide by how many pixels each window averaged, then spread over the window, channel by channel."""
    x, attributes = node.input[0], attributes_of(node)
    window = window_of(tape, node, kernel=attributes["kernel_shape"])
    shares = tape.op("Mul", grad, tape.constant(1.0 / _averaged_pixels(tape, node, window)))
    planes = tape.op("Reshape", shares, tape.ints(-1, 1, *tape.static_dims(node.output[0], window.axes)))
    ones = tape.constant(np.ones((1, 1, *window.kernel)))
    return [tape.reshape_like(spread(tape, node, planes, ones, window, group=1), x)]


def _averaged_pixels(tape: Tape, node: NodeProto, window: Window) -> Array:
    """Return the divisor of each output pixel, ``(1, 1, *output sizes)`` or a scalar when all are equal."""
    attributes = attributes_of(node)
    size = math.prod(window.kernel)
    if not any(window.pads) and not attributes.get("ceil_mode", 0):
        return np.float64(size) * np.ones(())
    divisor = np.ones(())
    inputs, outputs = tape.static_dims(node.input[0], window.axes), tape.static_dims(node.output[0], window.axes)
    for axis, (pixels, places) in enumerate(zip(inputs, outputs, strict=True)):
        taps = np.arange(window.kernel[axis]) * window.dilations[axis]
        at = np.arange(places)[:, None] * window.strides[axis] - window.begin[axis] + taps
        low, high = (
            (-window.begin[axis], pixels + window.end[axis]) if attributes.get("count_include_pad", 0) else (0, pixels)
        )
        divisor = np.multiply.outer(divisor, ((at >= low) & (at < high)).sum(axis=1))
    return divisor[None, None]


def _global_average_pool(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    x = node.input[0]
    count = math.prod(tape.static_dims(x, range(2, len(tape.dims(x)))))
    return [tape.expand_like(tape.op("Mul", grad, tape.constant(1.0 / count)), x)]


def _global_max_pool(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    """Treat it as a maximum over one flattened axis, and give the cotangent to the first of equal maxima."""
    x = node.input[0]
    flat = tape.op("Reshape", x, tape.ints(0, 0, -1))
    first = tape.op("ArgMax", flat, axis=2, keepdims=1)
    updates = tape.op("Reshape", grad, tape.ints(0, 0, 1))
    zeros = tape.op("ConstantOfShape", tape.op("Shape", flat))
    return [tape.reshape_like(tape.op("ScatterElements", zeros, first, updates, axis=2), x)]


RULES = {
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average_pool,
    "GlobalMaxPool": _global_max_pool,
    "MaxPool": _max_pool,
}
