"""Images sampled along a grid, as spatial transformers do, written as the operators of bilinear interpolation.

Source: the ONNX operators GridSample and AffineGrid; Jaderberg et al. 2015, equations 1 and 5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from onnx import NodeProto, TensorProto

from calibration.gradients.writer import Writer
from calibration.graphs.tape import Array, attributes_of, described
from calibration.graphs.types import TensorType
from runtime.errors import ModelError


def sampled(
    nodes: Sequence[NodeProto], constants: dict[str, TensorProto], types: Mapping[str, TensorType]
) -> Iterator[NodeProto]:
    """Write every AffineGrid and GridSample of images of a fixed size as what they compute.

    Raises:
        ModelError: A node has a form that is not covered.
    """
    for node in nodes:
        if node.op_type == "AffineGrid":
            yield from _affine_grid(node, constants, types)
        elif node.op_type == "GridSample":
            yield from _grid_sample(node, constants, types)
        else:
            yield node


def _affine_grid(
    node: NodeProto, constants: dict[str, TensorProto], types: Mapping[str, TensorType]
) -> list[NodeProto]:
    """Write the product of each matrix ``(N, 2, 3)`` with the places of all pixels."""
    dims = types[node.output[0]].dims if node.output[0] in types else None
    sizes = [size for size in (dims or ())[1:-1] if isinstance(size, int)]
    if len(sizes) != 2:
        raise ModelError(f"expected {described(node)} of images of a fixed size, got {list(dims or ())}; export it so")
    to, corners = Writer(node, constants), bool(attributes_of(node).get("align_corners", 0))
    height, width = sizes
    y, x = np.meshgrid(_centres(height, corners), _centres(width, corners), indexing="ij")
    places = np.stack([x, y, np.ones_like(x)]).reshape(3, -1).astype(np.float32)
    moved = to.op("Transpose", to.op("MatMul", node.input[0], to.constant(places)), perm=[0, 2, 1])
    to.result(0, to.op("Reshape", moved, to.ints(-1, height, width, 2)))
    return to.written


def _centres(size: int, corners: bool) -> Array:
    if corners:
        return np.linspace(-1, 1, size)
    return (2 * np.arange(size) + 1) / size - 1


def _grid_sample(
    node: NodeProto, constants: dict[str, TensorProto], types: Mapping[str, TensorType]
) -> list[NodeProto]:
    """Write the weighted sum of the four pixels around each place; those outside count as zero, or as the border."""
    attributes = attributes_of(node)
    mode, padding = attributes.get("mode", "linear"), attributes.get("padding_mode", "zeros")
    dims = types[node.input[0]].dims if node.input[0] in types else None
    out = types[node.output[0]].dims if node.output[0] in types else None
    sizes = [*(dims or ())[1:], *(out or ())[2:]]
    if mode not in ("linear", "bilinear") or padding not in ("zeros", "border"):
        raise ModelError(f"expected {described(node)} to be bilinear with zeros or border, got {mode}, {padding}")
    if len(sizes) != 5 or not all(isinstance(size, int) for size in sizes):
        raise ModelError(f"expected {described(node)} of images of a fixed size, got {list(dims or ())}; export it so")
    channels, height, width, rows, columns = (int(size or 0) for size in sizes)
    to, corners = Writer(node, constants), bool(attributes.get("align_corners", 0))
    flat = to.op("Reshape", node.input[0], to.ints(0, 0, height * width))
    lines = [
        _neighbours(to, node.input[1], axis, size, corners=corners, border=padding == "border")
        for axis, size in enumerate((width, height))
    ]
    parts = []
    for x, of_x in lines[0]:
        for y, of_y in lines[1]:
            place = to.op("Add", to.op("Mul", y, to.constant(np.float32(width))), x)
            index = to.op("Cast", to.op("Reshape", place, to.ints(0, 1, rows * columns)), to=TensorProto.INT64)
            pixels = to.op("GatherElements", flat, to.op("Expand", index, to.ints(1, channels, 1)), axis=2)
            share = to.op("Reshape", to.op("Mul", of_x, of_y), to.ints(0, 1, rows * columns))
            parts.append(to.op("Mul", pixels, share))
    to.result(0, to.op("Reshape", to.op("Sum", *parts), to.ints(0, 0, rows, columns)))
    return to.written


def _neighbours(to: Writer, grid: str, axis: int, size: int, *, corners: bool, border: bool) -> list[tuple[str, str]]:
    """Return the pixels before and after each place on one axis, and the share of each."""
    slope, shift = ((size - 1) / 2, (size - 1) / 2) if corners else (size / 2, (size - 1) / 2)
    low, high = to.constant(np.float32(0)), to.constant(np.float32(size - 1))
    place = to.op("Gather", grid, to.constant(np.int64(axis)), axis=3)
    place = to.op("Add", to.op("Mul", place, to.constant(np.float32(slope))), to.constant(np.float32(shift)))
    if border:
        place = to.op("Clip", place, low, high)
    one = to.constant(np.float32(1))
    before = to.op("Floor", place)
    after = to.op("Add", before, one)
    of_after = to.op("Sub", place, before)
    found = []
    for pixel, share in ((before, to.op("Sub", one, of_after)), (after, of_after)):
        inside = to.op("Clip", pixel, low, high)
        known = to.op("Cast", to.op("Equal", inside, pixel), to=TensorProto.FLOAT)
        found.append((inside, to.op("Mul", share, known)))
    return found
