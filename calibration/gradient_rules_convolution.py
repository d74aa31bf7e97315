"""Reverse rules of convolutions: the cotangent of the input of a convolution is again a convolution."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from calibration.gradient_tape import Array, Tape, attributes_of
from calibration.gradient_windows import Window, window_of

_FEW_CHANNELS = 8


def _conv(tape: Tape, node: NodeProto, grad: str) -> list[str | None]:
    """Convolve with the rotated, transposed kernel where the stride is 1, else transpose the convolution.

    A convolution to fewer than 8 channels is padded to 8 or 16 by ONNX Runtime; the transposed one is not.
    """
    weight = tape.constant_input(node, 1)
    window = window_of(tape, node, kernel=weight.shape[2:])
    group = attributes_of(node).get("group", 1)
    if max(window.strides) == 1 and weight.shape[1] * group >= _FEW_CHANNELS:
        kernel = tape.constant(_rotated(weight, group))
        return [_same_stride(tape, grad, kernel, window, group)]
    return [spread(tape, node, grad, node.input[1], window, group)]


def _rotated(weight: Array, group: int) -> Array:
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


def _same_stride(tape: Tape, grad: str, kernel: str, window: Window, group: int) -> str:
    begin = [extent - 1 - pad for extent, pad in zip(window.extent, window.begin, strict=True)]
    end = [extent - 1 - pad for extent, pad in zip(window.extent, window.end, strict=True)]
    if min(begin + end) < 0:
        starts, ends = [max(0, -pad) for pad in begin], [min(0, pad) or np.iinfo(np.int64).max for pad in end]
        grad = tape.op("Slice", grad, tape.ints(*starts), tape.ints(*ends), tape.ints(*window.axes))
    pads = [max(0, pad) for pad in begin + end]
    return tape.op("Conv", grad, kernel, kernel_shape=window.kernel, dilations=window.dilations, pads=pads, group=group)


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


RULES = {"Conv": _conv}
