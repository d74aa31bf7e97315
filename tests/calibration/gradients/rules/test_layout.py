import itertools

import numpy as np
import pytest
from onnx import TensorProto

from calibration.gradients import GradientGraph
from tests.calibration.gradients.cases import COUNT, C, H, W, X, assert_agrees, ints, model_of, node, pixels, weights

FIFTH_AXIS = "moved = Transpose <perm = [1, 0, 2, 3, 4]> (y) logits = Flatten (moved)"
GRID = np.random.default_rng(0).integers(-H, H, (COUNT, C, 4, W))

LAYOUT = {
    "Concat": node("Concat", X, X, axis=1),
    "DepthToSpace": node("DepthToSpace", X, blocksize=2),
    "DepthToSpace columns": node("DepthToSpace", X, blocksize=2, mode="CRD"),
    "Expand": node("Expand", X, ints(3, 1, 1, 1, 1), after=FIFTH_AXIS),
    "Expand computed": node(
        "Expand", "row", "whole", before="row = ReduceMean <keepdims = 1> (x, i_2) whole = Shape (x)"
    ),
    "Flatten": node("Flatten", X, axis=-3),
    "Reshape": node("Reshape", X, ints(0, -1, 2)),
    "Slice": node("Slice", X, ints(1, -3), ints(3, 2**31 - 1), ints(1, 3)),
    "Slice to the front": node("Slice", X, ints(0, 2), ints(-1, 100), ints(2, -1), ints(1, 1)),
    "Slice in steps": node("Slice", X, ints(1, 0), ints(8, 2**63 - 1), ints(1, -1), ints(3, 2)),
    "Slice backwards": node("Slice", X, ints(-1, 4), ints(-(2**63), 0), ints(2, 3), ints(-1, -2)),
    "Slice nothing": node(
        "Slice",
        X,
        ints(3),
        ints(3),
        ints(1),
        after="wide = Flatten (y) flat = Flatten (x) logits = Concat <axis = 1> (flat, wide)",
    ),
    "SpaceToDepth": node("SpaceToDepth", "even", blocksize=2, before="even = Slice (x, i_0, i_4, i_3)"),
    "Squeeze": node("Squeeze", "one", ints(1), before="one = Slice (x, i_2, i_3, i_1)"),
    "Squeeze all": node("Squeeze", "one", before="one = Slice (x, i_2, i_3, i_1)"),
    "Tile": node("Tile", X, ints(1, 2, 1, 3)),
    "Tile once": node("Tile", X, ints(1, 1, 1, 1)),
    "Transpose": node("Transpose", X, perm=[0, 2, 3, 1]),
    "Transpose default": node("Transpose", X, after="back = Transpose (y) logits = Flatten (back)"),
    "Trilu": node("Trilu", X),
    "Trilu lower": node("Trilu", X, np.int64(-1), upper=0),
    "Unsqueeze": node("Unsqueeze", X, ints(1, -1)),
}

BLOCKS = "flat_blocks = Constant <value_ints = [0, 8, 30]> () blocks = Reshape (x, flat_blocks)"

INDEXING = {
    "Col2Im": node("Col2Im", "blocks", ints(7, 6), ints(2, 2), before=BLOCKS),
    "Col2Im apart": node(
        "Col2Im", "blocks", ints(12, 10), ints(2, 2), before=BLOCKS, strides=[2, 2], dilations=[2, 2], pads=[1, 0, 0, 1]
    ),
    "Col2Im of one line": node("Col2Im", "blocks", ints(120), ints(4), before=BLOCKS, strides=[4]),
    "Gather one": node("Gather", X, np.int64(-2), axis=1),
    "Gather some": node("Gather", X, ints(5, 0, 2), axis=1),
    "Gather repeated": node("Gather", X, ints(3, 0, 3), axis=2),
    "Gather matrix": node("Gather", X, ints(0, -1, 2, 3).reshape(2, 2), axis=1),
    "Gather last": node("Gather", X, ints(0, 1, 1, 0).reshape(2, 2), axis=-1),
    "Gather by what is largest": node(
        "Gather",
        X,
        "top",
        axis=3,
        before="""sums = ReduceSum <keepdims = 1> (x, not_width)
        top = ArgMax <axis = 3, keepdims = 0> (sums)""",
    ),
    "GatherElements": node("GatherElements", X, GRID, axis=2),
    "GatherND": node("GatherND", X, ints(0, 2, 1, 1, 0, 2, 1, 7).reshape(4, 2), after="logits = Reshape (y, pair)"),
    "GatherND of each image": node("GatherND", X, ints(1, 2, 0, 5, 3, 3).reshape(2, 3, 1), batch_dims=1),
    "ScatterElements": node(
        "ScatterElements", X, GRID[:, :, :1], "part", axis=2, before="part = Slice (size, i_0, i_1, i_2)"
    ),
    "ScatterElements adding": node(
        "ScatterElements",
        X,
        GRID[:, :, :2],
        "part",
        axis=2,
        reduction="add",
        before="part = Slice (size, i_0, i_2, i_2)",
    ),
    "ScatterElements of constants": node("ScatterElements", X, GRID[:, :, :1], weights(COUNT, C, 1, W), axis=2),
    "ScatterND": node(
        "ScatterND", X, ints(0, 1, 1, 6).reshape(2, 2), "part", before="part = Gather <axis = 1> (size, two)"
    ),
    "ScatterND adding": node("ScatterND", X, ints(0, 1, 0, 1).reshape(2, 2), weights(2, H, W), reduction="add"),
    "TopK": node("TopK", X, ints(3), axis=1, more_outputs=["places"]),
    "TopK smallest": node("TopK", X, ints(2), axis=-1, largest=0, more_outputs=["places"]),
}

PADDING = {
    "Pad": node("Pad", X, ints(0, 0, 1, 0, 0, 2, 0, 3)),
    "Pad axes": node("Pad", X, ints(1, 0, 0, 2), np.float32(0.5), ints(-1, 1)),
    **{
        f"Pad {mode}": node("Pad", X, ints(0, 1, 2, 1, 0, 0, 1, 3), opset=19, mode=mode)
        for mode in ("edge", "reflect", "wrap")
    },
    "Pad reflect rows": node("Pad", X, ints(2, 2), "", ints(-2), mode="reflect"),
}

SCALES = (np.float32([]), np.float32([1, 1, 2, 3]))
UNEVEN = ("", "", ints(11, 4))
COORDINATES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")

RESIZING = {
    **{
        f"Resize nearest {coordinates} {rounding}": node(
            "Resize",
            X,
            *UNEVEN,
            axes=[2, 3],
            opset=19,
            mode="nearest",
            coordinate_transformation_mode=coordinates,
            nearest_mode=rounding,
        )
        for coordinates, rounding in itertools.product(
            COORDINATES, ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
        )
    },
    **{
        f"Resize {mode} {coordinates}": node(
            "Resize", X, *UNEVEN, axes=[2, 3], opset=19, mode=mode, coordinate_transformation_mode=coordinates
        )
        for mode, coordinates in itertools.product(("linear", "cubic"), COORDINATES)
    },
    "Resize copies": node("Resize", X, *SCALES, mode="nearest", coordinate_transformation_mode="asymmetric"),
    "Resize channels": node("Resize", X, np.float32([]), np.float32([1, 2, 1, 1]), mode="nearest"),
    "Resize axes": node("Resize", X, "", "", ints(9, 7), axes=[2, 3], mode="linear"),
    "Resize sizes": node(
        "Resize",
        X,
        "",
        "",
        "sizes",
        mode="cubic",
        cubic_coeff_a=-0.5,
        exclude_outside=1,
        before="""
        count = Shape <start = 0, end = 2> (x) sizes = Concat <axis = 0> (count, i_4, i_9)""",
    ),
    "Resize antialias": node("Resize", X, np.float32([]), np.float32([1, 1, 0.5, 0.4]), mode="linear", antialias=1),
}

# ONNX's reference evaluator knows no negative padding, and rounds the size of a resized part in its own way. These are
# linear, so a long step has no error.
LINEAR = {
    "Pad negative": node("Pad", X, ints(0, 1, -1, 0, 0, -2, 0, 1)),
    "Resize part": node(
        "Resize",
        X,
        np.float32([0, 0, 0.2, -0.2, 1, 1, 0.9, 0.8]),
        np.float32([1, 1, 0.84, 1.21]),
        mode="linear",
        coordinate_transformation_mode="tf_crop_and_resize",
        extrapolation_value=0.7,
    ),
    "Resize part of the channels": node(
        "Resize",
        X,
        np.float32([0.1, 0.9]),
        "",
        ints(5),
        axes=[1],
        mode="nearest",
        coordinate_transformation_mode="tf_crop_and_resize",
    ),
}

CASES = LAYOUT | INDEXING | PADDING | RESIZING


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_rule_agrees_with_central_differences(case):
    graph = GradientGraph(model_of(case), wrt="x", of=["logits"], threads=1)
    assert_agrees(graph, model_of(case, dtype=TensorProto.DOUBLE), pixels())


@pytest.mark.parametrize("case", LINEAR.values(), ids=LINEAR.keys())
def test_rule_is_the_transpose_of_a_linear_map(case):
    graph = GradientGraph(model_of(case), wrt="x", of=["logits"], threads=1)
    basis = np.eye(C * H * W, dtype=np.float32).reshape(-1, C, H, W)
    columns = graph.logits(basis)["logits"] - graph.logits(np.zeros_like(basis))["logits"]
    cotangents = np.random.default_rng(3).normal(size=(1, columns.shape[1])).astype(np.float32)
    gradient = graph.vjp(pixels()[:1], {"logits": cotangents})
    np.testing.assert_allclose(gradient.ravel(), columns @ cotangents[0], rtol=0, atol=1e-5)
