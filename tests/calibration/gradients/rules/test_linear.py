import itertools

import numpy as np
import onnx.parser
import pytest
import torch
from onnx import TensorProto
from torch.nn import functional

from calibration.gradients import GradientGraph
from tests.calibration.gradients.cases import (
    C,
    H,
    W,
    X,
    assert_agrees,
    assert_agrees_with_torch,
    ints,
    model_of,
    node,
    pixels,
    weights,
)

FIFTH_AXIS = "moved = Transpose <perm = [1, 0, 2, 3, 4]> (y) logits = Flatten (moved)"
FIRST_COLUMN = "last = Gather <axis = 3> (x, two) "

REDUCTION = {
    f"{op_type} {name}": node(op_type, source, *axes, **attributes)
    for (op_type, source), (name, axes, attributes) in itertools.product(
        [
            ("ReduceL1", X),
            ("ReduceL2", X),
            ("ReduceLogSum", "positive"),
            ("ReduceLogSumExp", X),
            ("ReduceMax", X),
            ("ReduceMean", X),
            ("ReduceMin", X),
            ("ReduceProd", X),
            ("ReduceSum", X),
            ("ReduceSumSquare", X),
        ],
        [("kept", (ints(2, 3),), {"keepdims": 1}), ("dropped", (ints(-1, 1),), {"keepdims": 0})],
    )
} | {
    "CumSum": node("CumSum", X, np.int64(2)),
    "CumSum exclusive": node("CumSum", X, np.int64(-1), exclusive=1),
    "CumSum reversed": node("CumSum", X, np.int64(1), reverse=1),
    "LogSoftmax": node("LogSoftmax", X, axis=-2),
    "ReduceMean of everything": node("ReduceMean", X, after="z = Mul (x, y) logits = Flatten (z)"),
    "ReduceSum of nothing": node("ReduceSum", X, noop_with_empty_axes=1),
    "Softmax": node("Softmax", X, axis=1),
    "Softmax last": node("Softmax", X),
}

PRODUCTS = {
    "Einsum": node("Einsum", X, weights(C, 3), equation="nchw,ck->nkhw"),
    "Einsum attention": node("Einsum", X, "size", equation="nchw,ncvw->nchv"),
    "Einsum implied result": node(
        "Einsum",
        X,
        weights(W, 3),
        equation="nchw,wz",
        after="""
        moved = Transpose <perm = [2, 0, 1, 3]> (y) logits = Flatten (moved)""",
    ),
    "Einsum of three": node("Einsum", X, "size", weights(H), equation="nchw,nchv,h->ncwv"),
    "Einsum sums alone": node("Einsum", X, weights(C, 2), equation="nchw,ck->nkh"),
    "Einsum with dots": node("Einsum", X, weights(W, 4), equation="...w,wk->...k"),
    "MatMul": node("MatMul", X, weights(W, 7)),
    "MatMul attention": node("MatMul", X, "turned", before="turned = Transpose <perm = [0, 1, 3, 2]> (squashed)"),
    "MatMul broadcast": node("MatMul", weights(2, 1, C, 3, H), X, after=FIFTH_AXIS),
    "MatMul from the left": node("MatMul", weights(3, H), X),
    "MatMul one matrix for all": node(
        "MatMul",
        X,
        "matrix",
        before="mean = ReduceMean <keepdims = 0> (x, batch_and_channels) matrix = Transpose <perm = [1, 0]> (mean)",
    ),
    "MatMul stacked": node("MatMul", X, weights(C, W, 7)),
    "MatMul row": node("MatMul", weights(H), X),
    "MatMul column": node("MatMul", X, weights(W)),
    "MatMul computed row": node("MatMul", "row", X, before="row = ReduceMean <keepdims = 0> (x, not_height)"),
    "MatMul computed column": node("MatMul", X, "column", before="column = ReduceMean <keepdims = 0> (x, not_width)"),
    "MatMul two vectors": node(
        "MatMul",
        "column",
        weights(W),
        before="column = ReduceMean <keepdims = 0> (x, not_width)",
        after="z = Mul (x, y) logits = Flatten (z)",
    ),
    "MatMul outer": node("MatMul", "thin", weights(1, 3), before="thin = ReduceMean <keepdims = 1> (x, i_3)"),
}

NORMALIZATION = {
    "BatchNormalization": node(
        "BatchNormalization", X, weights(C), weights(C), weights(C), weights(C) ** 2, epsilon=0.01
    ),
    "InstanceNormalization": node("InstanceNormalization", X, weights(C), weights(C), epsilon=0.01),
    "LayerNormalization": node("LayerNormalization", X, weights(W), weights(W)),
    "LayerNormalization two axes": node("LayerNormalization", X, weights(H, W), axis=-2, epsilon=0.1),
    "LayerNormalization computed": node(
        "LayerNormalization",
        X,
        "scale",
        "shift",
        before="""scale = ReduceMean <keepdims = 0> (x, not_width)
        shift = ReduceMax <keepdims = 0> (x, not_width)""",
    ),
    "LpNormalization": node("LpNormalization", X, axis=1),
}

CASES = REDUCTION | PRODUCTS | NORMALIZATION


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_rule_agrees_with_central_differences(case):
    graph = GradientGraph(model_of(case), wrt="x", of=["logits"], threads=1)
    assert_agrees(graph, model_of(case, dtype=TensorProto.DOUBLE), pixels())


SCALE, BIAS = weights(C), weights(C)

# ONNX's reference evaluator lacks the first, gets LRN wrong and forgets the absolute value in the L1 norm.
BY_TORCH = {
    "GroupNormalization": (
        node("GroupNormalization", X, SCALE, BIAS, num_groups=4, epsilon=0.01, opset=21),
        lambda x: functional.group_norm(x, 4, torch.tensor(SCALE).double(), torch.tensor(BIAS).double(), eps=0.01),
    ),
    "LRN": (
        node("LRN", X, size=5, alpha=0.5, beta=0.6, bias=1.5),
        lambda x: functional.local_response_norm(x, 5, alpha=0.5, beta=0.6, k=1.5),
    ),
    "LRN default": (node("LRN", X, size=3), lambda x: functional.local_response_norm(x, 3)),
    "LpNormalization L1": (
        node("LpNormalization", X, axis=2, p=1),
        lambda x: functional.normalize(x, p=1, dim=2),
    ),
}


@pytest.mark.parametrize(("case", "function"), BY_TORCH.values(), ids=BY_TORCH.keys())
def test_rule_agrees_with_torch(case, function):
    assert_agrees_with_torch(GradientGraph(model_of(case), wrt="x", of=["logits"], threads=1), function)


@pytest.mark.parametrize("zeros", [0, 1, 2])
def test_product_with_zeros_agrees_with_torch(zeros):
    x = torch.tensor([[2.0, -3.0, 0.5, 4.0], [1.0, 2.0, 3.0, 4.0]])
    x[0, :zeros] = 0
    x.requires_grad_()
    x.prod(dim=1).sum().backward()
    model = text_model("logits = ReduceProd (x, i)", "int64[1] i = {1}")
    graph = GradientGraph(model, wrt="x", of=["logits"], threads=1)
    np.testing.assert_array_equal(graph.vjp(x.detach().numpy(), {"logits": np.ones((2, 1), np.float32)}), x.grad)


@pytest.mark.parametrize("op_type", ["ReduceL2", "ReduceL1"])
def test_a_norm_of_zero_has_gradient_zero(op_type):
    graph = GradientGraph(
        text_model(f"logits = {op_type} (x, i)", "int64[1] i = {1}"), wrt="x", of=["logits"], threads=1
    )
    zeros = np.zeros((2, 4), np.float32)
    np.testing.assert_array_equal(graph.vjp(zeros, {"logits": np.ones((2, 1), np.float32)}), zeros)


def text_model(body, constants=""):
    return onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 18]> '
        f"case (float[N,4] x) => (float[N,K] logits) <{constants}> {{ {body} }}"
    )


def weighted(name, *shape):
    values = ", ".join(repr(float(value)) for value in weights(*shape).ravel())
    return f"float[{','.join(map(str, shape))}] {name} = {{{values}}}"


GEMM = {
    **{
        f"transB={flip} bias={bias}": (
            f"logits = Gemm <transB = {flip}, alpha = 0.5, beta = 2.0> (x, b{', c' if bias else ''})",
            weighted("b", *((5, 4) if flip else (4, 5))) + ", " + weighted("c", 5),
        )
        for flip, bias in itertools.product((0, 1), (False, True))
    },
    **{
        f"of turned rows transB={flip}": (
            f"t = Transpose <perm = [1, 0]> (x) logits = Gemm <transA = 1, transB = {flip}> (t, b)",
            weighted("b", *((5, 4) if flip else (4, 5))),
        )
        for flip in (0, 1)
    },
    **{
        f"weights left transA={turn} transB={flip}": (
            ("t = Identity (x)" if flip else "t = Transpose <perm = [1, 0]> (x)")
            + f" y = Gemm <transA = {turn}, transB = {flip}> (a, t) logits = Transpose <perm = [1, 0]> (y)",
            weighted("a", *((4, 3) if turn else (3, 4))),
        )
        for turn, flip in itertools.product((0, 1), (0, 1))
    },
    "bias from x": ("logits = Gemm <beta = 3.0> (x, b, x)", weighted("b", 4, 4)),
}


@pytest.mark.parametrize(("body", "constants"), GEMM.values(), ids=GEMM.keys())
def test_gemm_agrees_with_central_differences(body, constants):
    model = text_model(body, constants)
    graph = GradientGraph(model, wrt="x", of=["logits"], threads=1)
    wide = onnx.parser.parse_model(onnx.printer.to_text(model).replace("float[", "double["))
    assert_agrees(graph, wide, np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32))
