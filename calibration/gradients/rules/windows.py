"""The sliding window of a convolution or pooling node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnx import NodeProto

from calibration.graphs.tape import Tape, attributes_of


@dataclass(frozen=True, kw_only=True)
class Window:
    """Kernel, strides, dilations and explicit pads, one number per spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]

    @property
    def axes(self) -> range:
        """The spatial axes of the tensors it slides over."""
        return range(2, 2 + len(self.kernel))

    @property
    def pads(self) -> tuple[int, ...]:
        """All begins, then all ends, as ONNX writes them."""
        return self.begin + self.end

    @property
    def extent(self) -> tuple[int, ...]:
        """How many pixels the kernel spans along each axis, dilation included."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def overlaps(self) -> bool:
        """Whether one pixel can lie in two windows."""
        return any(extent > stride for extent, stride in zip(self.extent, self.strides, strict=True))


def window_of(tape: Tape, node: NodeProto, *, kernel: Sequence[int]) -> Window:
    """Read the window of a node; ``auto_pad`` becomes explicit pads.

    Raises:
        ModelError: ``auto_pad`` needs image sizes that are not known.
    """
    attributes = attributes_of(node)
    rank = len(kernel)
    strides = tuple(attributes.get("strides") or [1] * rank)
    dilations = tuple(attributes.get("dilations") or [1] * rank)
    pads = tuple(attributes.get("pads") or [0] * 2 * rank)
    window = Window(kernel=tuple(kernel), strides=strides, dilations=dilations, begin=pads[:rank], end=pads[rank:])
    auto_pad = attributes.get("auto_pad", "NOTSET")
    if auto_pad not in ("SAME_UPPER", "SAME_LOWER"):
        return window
    sizes = tape.static_dims(node.input[0], window.axes)
    totals = [
        max(0, (-(-size // stride) - 1) * stride + extent - size)
        for size, stride, extent in zip(sizes, strides, window.extent, strict=True)
    ]
    small, large = tuple(total // 2 for total in totals), tuple(total - total // 2 for total in totals)
    begin, end = (small, large) if auto_pad == "SAME_UPPER" else (large, small)
    return Window(kernel=tuple(kernel), strides=strides, dilations=dilations, begin=begin, end=end)


def transposed_window_of(tape: Tape, node: NodeProto, *, kernel: Sequence[int]) -> Window:
    """Read the window of a ConvTranspose; it slides over the node's output, and its pads cut that output.

    ``end`` is what makes the sizes agree: output padding is negative there.

    Raises:
        ModelError: The image sizes are not known.
    """
    attributes = attributes_of(node)
    rank = len(kernel)
    strides = tuple(attributes.get("strides") or [1] * rank)
    dilations = tuple(attributes.get("dilations") or [1] * rank)
    begin = tuple(attributes.get("pads") or [0] * 2 * rank)[:rank]
    bare = Window(kernel=tuple(kernel), strides=strides, dilations=dilations, begin=begin, end=begin)
    inputs, outputs = tape.static_dims(node.input[0], bare.axes), tape.static_dims(node.output[0], bare.axes)
    reach = [(size - 1) * stride + extent for size, stride, extent in zip(inputs, strides, bare.extent, strict=True)]
    auto_pad = attributes.get("auto_pad", "NOTSET")
    if "output_shape" in attributes or auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        extra = attributes.get("output_padding") or [0] * rank
        totals = [width + more - size for width, more, size in zip(reach, extra, outputs, strict=True)]
        begin = tuple(max(0, total) // 2 if auto_pad == "SAME_UPPER" else -(-max(0, total) // 2) for total in totals)
    end = tuple(width - size - first for width, size, first in zip(reach, outputs, begin, strict=True))
    return Window(kernel=tuple(kernel), strides=strides, dilations=dilations, begin=begin, end=end)
