"""Reverse rules of convolutions: the cotangent of the input of a convolution is again a convolution."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from calibration.gradients.rules.windows import Window, transposed_window_of, window_of
from calibration.graphs.tape import Array, Tape, attributes_of

_FEW_CHANNELS = 8


def _conv(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    """Convolve with the rotated, transposed kernel where the stride is 1, else transpose the convolution.

    A convolution to fewer than 8 channels is padded to 8 or 16 by ONNX Runtime; the transposed one is not.
    """
    x, kernel = node.input[:2]
    window = window_of(tape, node, kernel=_kernel_shape(tape, kernel))
    group = attributes_of(node).get("group", 1)
    left = right = bias = None
    if x in tape.active:
        weight = tape.value(kernel)
        if weight is not None and max(window.strides) == 1 and weight.shape[1] * group >= _FEW_CHANNELS:
            begin = [extent - 1 - pad for extent, pad in zip(window.extent, window.begin, strict=True)]
            end = [extent - 1 - pad for extent, pad in zip(window.extent, window.end, strict=True)]
            turned = tape.constant(rotated(weight, group))
            left = _correlated(tape, grad, turned, window, begin, end, group)
        else:
            left = spread(tape, node, grad, kernel, window, group)
    if kernel in tape.active:
        right = _kernel_cotangent(tape, x, grad, window, group)
    if len(node.input) > 2 and node.input[2] in tape.active:
        bias = _bias_cotangent(tape, grad, window)
    return [left, right, bias]


def _conv_transpose(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    """Convolve: the rule of Conv the other way round."""
    x, kernel = node.input[:2]
    window = transposed_window_of(tape, node, kernel=_kernel_shape(tape, kernel))
    group = attributes_of(node).get("group", 1)
    left = right = bias = None
    if x in tape.active:
        left = _correlated(tape, grad, kernel, window, window.begin, window.end, group, strides=window.strides)
    if kernel in tape.active:
        right = _kernel_cotangent(tape, grad, x, window, group)
    if len(node.input) > 2 and node.input[2] in tape.active:
        bias = _bias_cotangent(tape, grad, window)
    return [left, right, bias]


def _kernel_shape(tape: Tape, kernel: str) -> list[int]:
    return tape.static_dims(kernel, range(2, len(tape.dims(kernel))))


def rotated(weight: Array, group: int) -> Array:
    """Return the kernel of the reverse convolution: rotated by 180 degrees, channels transposed within each group.

    Args:
        weight: The forward kernel, ``(M, C / group, *kernel)``.
        group: The number of groups.

    Returns:
        The reverse kernel, ``(C, M / group, *kernel)``.
    """
    grouped = weight.reshape(group, weight.shape[0] // group, *weight.shape[1:]).swapaxes(1, 2)
    turned = np.flip(grouped, axis=tuple(range(3, grouped.ndim)))
    return turned.reshape(-1, *turned.shape[2:])


def _correlated(
    tape: Tape,
    grad: str,
    kernel: str,
    window: Window,
    begin: Sequence[int],
    end: Sequence[int],
    group: int,
    strides: Sequence[int] | None = None,
) -> str:
    """Append a Conv of `grad`; negative pads, which Conv does not take, cut its borders off first."""
    if min(*begin, *end) < 0:
        starts, ends = [max(0, -pad) for pad in begin], [min(0, pad) or np.iinfo(np.int64).max for pad in end]
        grad = tape.op("Slice", grad, tape.ints(*starts), tape.ints(*ends), tape.ints(*window.axes))
    return tape.op(
        "Conv",
        grad,
        kernel,
        kernel_shape=window.kernel,
        strides=strides or [1] * len(window.kernel),
        dilations=window.dilations,
        pads=[max(0, pad) for pad in (*begin, *end)],
        group=group,
    )


def _kernel_cotangent(tape: Tape, wide: str, narrow: str, window: Window, group: int) -> str:
    """Correlate the inputs of a convolution with its outputs, images in the place of channels.

    Args:
        tape: The tape.
        wide: The side that the window slides over: the input of Conv, ``(N, C, ...)``.
        narrow: The side with one pixel for each place of the window: the output of Conv, ``(N, M, ...)``.
        window: The window of the forward node; its strides become dilations and its dilations strides.
        group: The number of groups.

    Returns:
        The cotangent of the kernel, ``(M, C / group, *kernel)``.
    """
    axes = list(window.axes)
    channels, *_ = tape.static_dims(wide, [1])
    sizes = tape.static_dims(wide, axes)
    split = tape.op("Reshape", wide, tape.ints(0, group, channels // group, *sizes))
    turned = tape.op("Transpose", split, perm=[2, 1, 0, *(axis + 1 for axis in axes)])
    images = tape.op("Reshape", turned, tape.ints(channels // group, -1, *sizes))
    places = tape.op("Transpose", narrow, perm=[1, 0, *axes])
    pads = [max(0, pad) for pad in window.pads]
    flow = tape.op("Conv", images, places, pads=pads, strides=window.dilations, dilations=window.strides, group=group)
    kernel = tape.op("Slice", flow, tape.ints(*[0] * len(axes)), tape.ints(*window.kernel), tape.ints(*axes))
    return tape.op("Transpose", kernel, perm=[1, 0, *axes])


def _bias_cotangent(tape: Tape, grad: str, window: Window) -> str:
    return tape.op("ReduceSum", grad, tape.ints(0, *window.axes), keepdims=0)


def spread(tape: Tape, node: NodeProto, grad: str, kernel: str, window: Window, group: int) -> str:
    """Append the transposed convolution of `grad` with `kernel`, from the output sizes of `node` to its input sizes.

    Raises:
        ModelError: Those sizes are not known.
    """
    sizes, places = tape.static_dims(node.input[0], window.axes), tape.static_dims(node.output[0], window.axes)
    reach = (np.array(places) - 1) * window.strides + window.extent
    surplus = reach - window.begin - sizes
    return tape.op(
        "ConvTranspose",
        grad,
        kernel,
        kernel_shape=window.kernel,
        strides=window.strides,
        dilations=window.dilations,
        pads=[*window.begin, *np.maximum(surplus, 0).tolist()],
        output_padding=np.maximum(-surplus, 0).tolist(),
        group=group,
    )


RULES = {"Conv": _conv, "ConvTranspose": _conv_transpose}
