"""Reverse rules of pooling operators."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from onnx import NodeProto, TensorProto

from calibration.gradients.rules.convolution import spread
from calibration.gradients.rules.reduction import mean_share
from calibration.gradients.rules.windows import Window, window_of
from calibration.graphs.tape import Array, Tape, attributes_of, described
from runtime.errors import ModelError

_STEEP = float(np.finfo(np.float32).max)


def _max_pool(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    """Send the cotangent to the first maximum of each window, which MaxPool's own second output says.

    MaxUnpool writes without adding: it is right only where no two windows share a pixel. Where windows tile the image,
    a mask of the first maxima takes the place of both; see `first_maxima`.
    """
    x, attributes = node.input[0], attributes_of(node)
    window = window_of(tape, node, kernel=attributes["kernel_shape"])
    if attributes.get("storage_order", 0):
        raise ModelError(f"expected {described(node)} in row-major order, got storage_order = 1")
    plain = not attributes.get("ceil_mode", 0) and max(window.dilations) == 1
    tiles = window.kernel == window.strides and len(window.kernel) == 2 and not any(window.pads)
    if plain and tiles and tape.types[x].element == TensorProto.FLOAT:
        mask, rest = first_maxima(tape, x, node.output[0], window.kernel)
        flow = tape.op("Mul", enlarged(tape, grad, window.kernel), mask)
        return [_extended(tape, flow, rest, channels=tape.static_dims(x, [1])[0]) if any(rest) else flow]
    if len(node.output) < 2 or not node.output[1]:
        del node.output[1:]
        node.output.append(f"grad/indices of {node.output[0]}")
    if window.overlaps or not plain:
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


def enlarged(tape: Tape, tensor: str, times: Sequence[int]) -> str:
    """Append `tensor` ``(N, C, h, w)`` with every pixel repeated."""
    scales = tape.constant([1.0, 1.0, *times])
    return tape.op(
        "Resize", tensor, "", scales, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )


def first_maxima(tape: Tape, x: str, y: str, kernel: Sequence[int]) -> tuple[str, list[int]]:
    """Append 1 where a pixel of `x` is the first maximum of its window, else 0, for windows that tile the image.

    Equal to the maximum are one pixel or several. Each of these gets a rank that falls with its place in the window,
    and of them the one of highest rank is taken.

    Returns:
        The mask, and how many rows and columns at the end of `x` no window reaches and the mask lacks.
    """
    channels, *sizes = tape.static_dims(x, [1, 2, 3])
    rest = [size % width for size, width in zip(sizes, kernel, strict=True)]
    corner = np.zeros((channels, 1, rest[0] + 1, rest[1] + 1))
    corner[..., 0, 0] = -1.0
    height, width = (size - more for size, more in zip(sizes, rest, strict=True))
    places = np.arange(math.prod(kernel)).reshape(kernel) / math.prod(kernel)
    falling = -np.tile(places, (height // kernel[0], width // kernel[1]))
    everywhere = tape.op("Expand", tape.constant(falling[None, None]), tape.per_image(1, 1, 1))
    equal = _is_zero(tape, _difference(tape, enlarged(tape, y, kernel), x, corner))
    order = tape.op("Conv", everywhere, tape.constant(np.ones((channels, 1, 1, 1))))
    rank = tape.op("Relu", tape.op("Add", order, equal))
    highest = tape.op("MaxPool", rank, kernel_shape=kernel, strides=kernel)
    return _is_zero(tape, _difference(tape, enlarged(tape, highest, kernel), rank, corner[..., :1, :1])), rest


def _extended(tape: Tape, tensor: str, rest: Sequence[int], *, channels: int) -> str:
    """Append zeros at the end of rows and columns, as a convolution does it: ONNX Runtime's Pad leaves the layout."""
    return tape.op("Conv", tensor, tape.constant(np.ones((channels, 1, 1, 1))), pads=[0, 0, *rest], group=channels)


def _difference(tape: Tape, upper: str, lower: str, minus_one: Array) -> str:
    return tape.op("Add", tape.op("Conv", lower, tape.constant(minus_one), group=len(minus_one)), upper)


def _is_zero(tape: Tape, positive: str) -> str:
    return tape.op("HardSigmoid", positive, alpha=-_STEEP, beta=1.0)


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


def _lp_pool(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    """Spread over the window what |x|^(p-1) · sign(x) is multiplied with, y^(1-p); a window of zeros passes nothing."""
    x, power = node.input[0], attributes_of(node).get("p", 2)
    window = window_of(tape, node, kernel=attributes_of(node)["kernel_shape"])
    shares = _lp_shares(tape, node.output[0], grad, power)
    planes = tape.op("Reshape", shares, tape.ints(-1, 1, *tape.static_dims(node.output[0], window.axes)))
    ones = tape.constant(np.ones((1, 1, *window.kernel)))
    spread_out = tape.reshape_like(spread(tape, node, planes, ones, window, group=1), x)
    return [tape.op("Mul", spread_out, _lp_slope(tape, x, power))]


def _global_lp_pool(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    x, power = node.input[0], attributes_of(node).get("p", 2)
    return [tape.op("Mul", _lp_shares(tape, node.output[0], grad, power), _lp_slope(tape, x, power))]


def _lp_shares(tape: Tape, y: str, grad: str, power: int) -> str:
    if power == 1:
        return grad
    positive = tape.op("Greater", y, tape.constant(0.0))
    one = tape.constant(1.0)
    factor = tape.op("Pow", tape.op("Where", positive, y, one), tape.constant(1.0 - power))
    return tape.op("Where", positive, tape.op("Mul", grad, factor), tape.constant(0.0))


def _lp_slope(tape: Tape, x: str, power: int) -> str:
    if power == 2:
        return x
    sign = tape.op("Sign", x)
    return sign if power == 1 else tape.op("Mul", sign, tape.op("Pow", tape.op("Abs", x), tape.constant(power - 1.0)))


def _global_average_pool(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    x = node.input[0]
    share = mean_share(tape, node, range(2, len(tape.dims(x))))
    return [tape.expand_like(tape.op("Mul", grad, share), x)]


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
    "GlobalLpPool": _global_lp_pool,
    "GlobalMaxPool": _global_max_pool,
    "LpPool": _lp_pool,
    "MaxPool": _max_pool,
}
