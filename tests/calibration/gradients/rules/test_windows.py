import pytest
import torch
from onnx import TensorProto
from torch.nn import functional

from calibration.gradients import GradientGraph
from tests.calibration.gradients.cases import (
    C,
    X,
    assert_agrees,
    assert_agrees_with_torch,
    model_of,
    node,
    pixels,
    weights,
)

KERNEL = """mean = ReduceMean <keepdims = 1> (x, i_0) sine = Sin (mean) rows = Concat <axis = 0> (mean, sine)
  kernel = Slice (rows, corner, opposite, planes)"""

CONVOLUTION = {
    f"Conv {name}": node("Conv", X, weights(*kernel), *bias, **attributes)
    for name, kernel, bias, attributes in [
        ("plain", (6, C, 3, 3), (weights(6),), {}),
        ("padded", (6, C, 3, 3), (), {"pads": [1, 1, 1, 1]}),
        ("uneven pads", (3, C, 3, 2), (), {"pads": [2, 0, 1, 1]}),
        ("wide pads", (3, C, 1, 2), (), {"pads": [1, 2, 2, 2]}),
        ("strided", (5, C, 3, 3), (), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("strided with a rest", (5, C, 2, 2), (), {"strides": [2, 3]}),
        ("dilated", (5, C, 2, 2), (), {"dilations": [2, 3], "pads": [1, 1, 1, 1]}),
        ("grouped", (6, C // 2, 3, 3), (), {"group": 2, "pads": [1, 1, 1, 1]}),
        ("grouped strided", (6, C // 2, 3, 3), (), {"group": 2, "strides": [2, 1], "pads": [1, 1, 1, 1]}),
        ("depthwise", (2 * C, 1, 3, 3), (), {"group": C, "pads": [1, 1, 1, 1]}),
        ("auto_pad upper", (3, C, 2, 2), (), {"auto_pad": "SAME_UPPER"}),
        ("auto_pad lower strided", (3, C, 3, 2), (), {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
        ("auto_pad valid", (3, C, 3, 3), (), {"auto_pad": "VALID"}),
    ]
}

TRANSPOSED = {
    f"ConvTranspose {name}": node("ConvTranspose", X, weights(*kernel), *bias, **attributes)
    for name, kernel, bias, attributes in [
        ("plain", (C, 3, 3, 3), (weights(3),), {}),
        ("strided", (C, 3, 3, 2), (), {"strides": [2, 3]}),
        ("padded", (C, 3, 3, 3), (), {"strides": [2, 2], "pads": [1, 0, 1, 2]}),
        ("output_padding", (C, 3, 3, 3), (), {"strides": [2, 3], "pads": [1, 1, 1, 1], "output_padding": [1, 2]}),
        ("dilated", (C, 3, 2, 3), (), {"dilations": [3, 2], "strides": [2, 1], "pads": [1, 1, 0, 1]}),
        ("auto_pad upper", (C, 3, 3, 2), (), {"auto_pad": "SAME_UPPER", "strides": [2, 1]}),
        ("auto_pad lower", (C, 3, 3, 2), (), {"auto_pad": "SAME_LOWER", "strides": [2, 1]}),
        ("auto_pad valid", (C, 3, 3, 3), (), {"auto_pad": "VALID", "strides": [2, 2]}),
    ]
}

COMPUTED = {
    "Conv computed kernel": node("Conv", X, "kernel", before=KERNEL, pads=[1, 1, 1, 1]),
    "Conv computed kernel strided": node("Conv", X, "kernel", before=KERNEL, strides=[2, 1], pads=[1, 0, 2, 1]),
    "Conv computed kernel dilated": node("Conv", X, "kernel", before=KERNEL, dilations=[2, 1], strides=[1, 2]),
    "Conv computed kernel grouped": node(
        "Conv", X, "half", before=KERNEL + "half, other = Split <axis = 1, num_outputs = 2> (kernel)", group=2
    ),
    "Conv computed bias": node(
        "Conv", X, weights(C, C, 1, 1), "bias", before="bias = ReduceMean <keepdims = 0> (x, not_channels)"
    ),
    "ConvTranspose computed kernel": node(
        "ConvTranspose",
        X,
        "turned",
        before=KERNEL + "turned = Transpose <perm = [1, 0, 2, 3]> (kernel)",
        strides=[2, 1],
    ),
}

POOLING = {
    "MaxPool": node("MaxPool", X, kernel_shape=[2, 2], strides=[2, 2]),
    "MaxPool padded": node("MaxPool", X, kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 1, 1]),
    "MaxPool narrow": node("MaxPool", X, kernel_shape=[2, 1], strides=[3, 2]),
    "MaxPool overlapping": node("MaxPool", X, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "MaxPool stride 1": node("MaxPool", X, kernel_shape=[2, 3]),
    "MaxPool dilated": node("MaxPool", X, kernel_shape=[2, 2], strides=[3, 3], dilations=[2, 2]),
    "MaxPool ceil_mode": node("MaxPool", X, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    "MaxPool auto_pad": node("MaxPool", X, kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_UPPER"),
    "AveragePool": node("AveragePool", X, kernel_shape=[2, 2], strides=[2, 2]),
    "AveragePool overlapping": node("AveragePool", X, kernel_shape=[3, 2], strides=[2, 1]),
    "AveragePool padded": node("AveragePool", X, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "AveragePool counts pads": node(
        "AveragePool", X, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1
    ),
    "AveragePool ceil_mode": node("AveragePool", X, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    "AveragePool ceil_mode counts pads": node(
        "AveragePool", X, kernel_shape=[3, 3], strides=[2, 2], pads=[0, 1, 0, 1], ceil_mode=1, count_include_pad=1
    ),
    "AveragePool dilated": node("AveragePool", X, kernel_shape=[2, 2], dilations=[2, 3], opset=19),
    "GlobalAveragePool": node("GlobalAveragePool", X),
    "GlobalMaxPool": node("GlobalMaxPool", X),
    "LpPool": node("LpPool", X, kernel_shape=[3, 2], strides=[2, 1]),
    "LpPool p=1": node("LpPool", X, kernel_shape=[2, 2], p=1, pads=[1, 1, 0, 0]),
    "LpPool p=3": node("LpPool", X, kernel_shape=[2, 2], p=3, dilations=[1, 2]),
}

# ONNX's reference evaluator has no groups here, reads output_shape in its own way, and lacks GlobalLpPool.
KERNELS = {shape: weights(*shape) for shape in ((C, 3, 3, 3), (C, 2, 2, 2))}


def transposed(shape, crop=(), **options):
    kernel = torch.tensor(KERNELS[shape], dtype=torch.float64)
    return lambda x: functional.conv_transpose2d(x, kernel, **options)[(..., *crop)]


def computed_transposed(x):
    mean = x.mean(dim=0, keepdim=True)[:, :, 1:4, 1:4]
    return functional.conv_transpose2d(x, torch.cat([mean, mean.sin()]).transpose(0, 1), groups=2)


BY_TORCH = {
    "ConvTranspose grouped": (
        node("ConvTranspose", X, KERNELS[C, 3, 3, 3], group=2, strides=[2, 2]),
        transposed((C, 3, 3, 3), groups=2, stride=2),
    ),
    "ConvTranspose depthwise": (
        node("ConvTranspose", X, KERNELS[C, 2, 2, 2], group=C, strides=[2, 2]),
        transposed((C, 2, 2, 2), groups=C, stride=2),
    ),
    "ConvTranspose output_shape": (
        node("ConvTranspose", X, KERNELS[C, 3, 3, 3], output_shape=[12, 9], strides=[2, 2]),
        transposed((C, 3, 3, 3), (slice(1, None), slice(1, -1)), stride=2),
    ),
    "ConvTranspose output_shape upper": (
        node("ConvTranspose", X, KERNELS[C, 3, 3, 3], output_shape=[12, 9], auto_pad="SAME_UPPER", strides=[2, 2]),
        transposed((C, 3, 3, 3), (slice(0, -1), slice(1, -1)), stride=2),
    ),
    "ConvTranspose computed kernel grouped": (
        node(
            "ConvTranspose", X, "turned", before=KERNEL + "turned = Transpose <perm = [1, 0, 2, 3]> (kernel)", group=2
        ),
        computed_transposed,
    ),
    "GlobalLpPool": (node("GlobalLpPool", X, p=3), lambda x: x.abs().pow(3).sum(dim=(2, 3)).pow(1 / 3)),
}

CASES = CONVOLUTION | TRANSPOSED | COMPUTED | POOLING


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_rule_agrees_with_central_differences(case):
    graph = GradientGraph(model_of(case), wrt="x", of=["logits"], threads=1)
    assert_agrees(graph, model_of(case, dtype=TensorProto.DOUBLE), pixels())


@pytest.mark.parametrize(("case", "function"), BY_TORCH.values(), ids=BY_TORCH.keys())
def test_rule_agrees_with_torch(case, function):
    assert_agrees_with_torch(GradientGraph(model_of(case), wrt="x", of=["logits"], threads=1), function)
