import itertools

import numpy as np
import onnx
import onnx.parser
import pytest
import scipy.special
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from calibration.gradient_rules import RULES
from calibration.gradients import GradientGraph
from runtime.errors import CmtError

C, H, W = 8, 6, 5
STEP = 1e-6

WEIGHTS = np.random.default_rng(1)


def weights(*shape):
    return WEIGHTS.normal(0, 0.5, shape).astype(np.float32)


def ints(*values):
    return np.array(values, dtype=np.int64)


def node(op_type, *inputs, opset=18, **attributes):
    """A case of one node: its inputs are ``x`` and arrays."""
    return op_type, inputs, opset, attributes


X = "x"
POSITIVE = "positive"  # x shifted above zero

ELEMENTWISE = {
    "Abs": node("Abs", X),
    "Add scalar": node("Add", X, weights()),
    "Add channel": node("Add", X, weights(C, 1, 1)),
    "Add to itself": node("Add", X, X),
    "Cast": node("Cast", X, to=TensorProto.FLOAT),
    "Celu": node("Celu", X, alpha=0.7),
    "Clip both": node("Clip", X, np.float32(-0.4), np.float32(0.6)),
    "Clip above": node("Clip", X, "", np.float32(0.6)),
    "Clip below": node("Clip", X, np.float32(0.1)),
    "Cos": node("Cos", X),
    "Div by constant": node("Div", X, 1 + weights(C, 1, 1) ** 2),
    "Div constant by x": node("Div", weights(C, 1, 1), POSITIVE),
    "Dropout": node("Dropout", X),
    "Elu": node("Elu", X, alpha=0.8),
    "Exp": node("Exp", X),
    "Gelu tanh": node("Gelu", X, opset=20, approximate="tanh"),
    "HardSigmoid": node("HardSigmoid", X, alpha=0.9, beta=0.4),
    "HardSwish": node("HardSwish", X),
    "Identity": node("Identity", X),
    "LeakyRelu": node("LeakyRelu", X, alpha=0.3),
    "LeakyRelu default": node("LeakyRelu", X),
    "Log": node("Log", POSITIVE),
    "Max": node("Max", X, weights(C, 1, 1), weights()),
    "Min": node("Min", weights(C, 1, 1), X),
    "Mish": node("Mish", X),
    "Mul channel": node("Mul", X, weights(C, 1, 1)),
    "Mul with itself": node("Mul", X, X),
    "Neg": node("Neg", X),
    "PRelu": node("PRelu", X, weights(C, 1, 1)),
    "Pow square": node("Pow", X, np.float32(2)),
    "Pow fraction": node("Pow", POSITIVE, np.float32(0.7)),
    "Reciprocal": node("Reciprocal", POSITIVE),
    "Relu": node("Relu", X),
    "Selu": node("Selu", X),
    "Sigmoid": node("Sigmoid", X),
    "Sin": node("Sin", X),
    "Softplus": node("Softplus", X),
    "Softsign": node("Softsign", X),
    "Sqrt": node("Sqrt", POSITIVE),
    "Sub constant": node("Sub", X, weights(C, 1, 1)),
    "Sub from constant": node("Sub", weights(C, H, W), X),
    "Sum of three": node("Sum", X, X, weights(1, W)),
    "Tanh": node("Tanh", X),
    "ThresholdedRelu": node("ThresholdedRelu", X, alpha=0.3),
    "Where": node("Where", weights(C, H, W) > 0, X, weights(C, 1, 1)),
    "Where otherwise": node("Where", weights(C, H, W) > 0, np.float32(0), X),
}

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

POOLING = {
    "MaxPool": node("MaxPool", X, kernel_shape=[2, 2], strides=[2, 2]),
    "MaxPool padded": node("MaxPool", X, kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 1, 1]),
    "MaxPool narrow": node("MaxPool", X, kernel_shape=[2, 1], strides=[3, 2]),
    "MaxPool overlapping": node("MaxPool", X, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "MaxPool stride 1": node("MaxPool", X, kernel_shape=[2, 3]),
    "MaxPool dilated": node("MaxPool", X, kernel_shape=[2, 2], strides=[3, 3], dilations=[2, 2]),
    "MaxPool ceil_mode": node("MaxPool", X, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    "AveragePool": node("AveragePool", X, kernel_shape=[2, 2], strides=[2, 2]),
    "AveragePool overlapping": node("AveragePool", X, kernel_shape=[3, 2], strides=[2, 1]),
    "AveragePool padded": node("AveragePool", X, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "AveragePool counts pads": node(
        "AveragePool", X, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1
    ),
    "AveragePool ceil_mode": node("AveragePool", X, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    "GlobalAveragePool": node("GlobalAveragePool", X),
    "GlobalMaxPool": node("GlobalMaxPool", X),
}

REDUCTION = {
    f"{op_type} {name}": node(op_type, X, *axes, **attributes)
    for op_type, (name, axes, attributes) in itertools.product(
        (
            "ReduceSum",
            "ReduceMean",
            "ReduceMax",
            "ReduceMin",
            "ReduceL1",
            "ReduceL2",
            "ReduceSumSquare",
            "ReduceLogSumExp",
        ),
        [("kept", (ints(2, 3),), {"keepdims": 1}), ("dropped", (ints(-1, 1),), {"keepdims": 0})],
    )
} | {
    "Softmax": node("Softmax", X, axis=1),
    "Softmax last": node("Softmax", X),
    "LogSoftmax": node("LogSoftmax", X, axis=-2),
}

LINEAR = {
    "MatMul": node("MatMul", X, weights(W, 7)),
    "MatMul stacked": node("MatMul", X, weights(C, W, 7)),
    "MatMul from the left": node("MatMul", weights(3, H), X),
    "MatMul broadcast": node("MatMul", weights(2, 1, C, 3, H), X),
}

LAYOUT = {
    "Concat": node("Concat", X, X, axis=1),
    "Expand": node("Expand", X, ints(3, 1, 1, 1, 1)),
    "Flatten": node("Flatten", X, axis=-3),
    "Gather one": node("Gather", X, np.int64(-2), axis=1),
    "Gather repeated": node("Gather", X, ints(3, 0, 3), axis=2),
    "Pad": node("Pad", X, ints(0, 0, 1, 0, 0, 2, 0, 3)),
    "Pad axes": node("Pad", X, ints(1, 0, 0, 2), np.float32(0.5), ints(-1, 1)),
    "Reshape": node("Reshape", X, ints(0, -1, 2)),
    "Slice": node("Slice", X, ints(1, -3), ints(3, 2**31 - 1), ints(1, 3)),
    "Slice to the front": node("Slice", X, ints(0, 2), ints(-1, 100), ints(2, -1), ints(1, 1)),
    "Transpose": node("Transpose", X, perm=[0, 2, 3, 1]),
    "Unsqueeze": node("Unsqueeze", X, ints(1, -1)),
}

NORMALIZATION = {
    "BatchNormalization": node(
        "BatchNormalization", X, weights(C), weights(C), weights(C), weights(C) ** 2, epsilon=0.01
    ),
    "LayerNormalization": node("LayerNormalization", X, weights(W), weights(W)),
    "LayerNormalization two axes": node("LayerNormalization", X, weights(H, W), axis=-2, epsilon=0.1),
}

# ONNX's reference evaluator computes Erf in float32, too coarse for differences.
ERROR_FUNCTION = {
    "Erf": (node("Erf", X), scipy.special.erf),
    "Gelu": (node("Gelu", X, opset=20), lambda x: x * scipy.special.ndtr(x)),
}

CASES = ELEMENTWISE | CONVOLUTION | POOLING | REDUCTION | LINEAR | LAYOUT | NORMALIZATION


def model_of(case, *, dtype=TensorProto.FLOAT):
    """``x`` (N, C, H, W) through the node, flattened into logits (N, K); in float32 or, for the oracle, float64."""
    op_type, inputs, opset, attributes = case
    names, initializers, nodes = [], [], []
    for index, value in enumerate(inputs):
        if isinstance(value, str):
            names.append(value)
        else:
            name = f"constant_{index}"
            array = np.asarray(value)
            wide = array.astype(np.float64) if dtype == TensorProto.DOUBLE and array.dtype == np.float32 else array
            initializers.append(numpy_helper.from_array(wide, name))
            names.append(name)
    if POSITIVE in names:
        nodes.append(helper.make_node("Abs", ["x"], ["magnitude"]))
        nodes.append(helper.make_node("Add", ["magnitude", "shift"], [POSITIVE]))
        shift = np.array(0.3, dtype=np.float64 if dtype == TensorProto.DOUBLE else np.float32)
        initializers.append(numpy_helper.from_array(shift, "shift"))
    if attributes.get("to") == TensorProto.FLOAT:
        attributes = attributes | {"to": dtype}
    nodes.append(helper.make_node(op_type, names, ["y"], **attributes))
    if "Expand" in op_type or any(np.ndim(value) > 4 for value in inputs if not isinstance(value, str)):
        nodes.append(helper.make_node("Transpose", ["y"], ["moved"], perm=[1, 0, 2, 3, 4]))
        nodes.append(helper.make_node("Flatten", ["moved"], ["logits"]))
    else:
        nodes.append(helper.make_node("Flatten", ["y"], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "case",
        [helper.make_tensor_value_info("x", dtype, ["N", C, H, W])],
        [helper.make_tensor_value_info("logits", dtype, ["M", "K"])],
        initializer=initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def differences(case, x, cotangent):
    """Central differences of the cotangent's product with the logits, in float64 on ONNX's reference evaluator."""
    evaluator = ReferenceEvaluator(model_of(case, dtype=TensorProto.DOUBLE))
    flat = x.astype(np.float64).reshape(-1)
    moves = np.concatenate([np.eye(flat.size), -np.eye(flat.size)]) * STEP
    (logits,) = evaluator.run(None, {"x": (flat + moves).reshape(-1, *x.shape)})
    ahead, behind = np.split(logits.astype(np.float64) @ cotangent.astype(np.float64), 2)
    return ((ahead - behind) / (2 * STEP)).reshape(x.shape)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_rule_agrees_with_central_differences(case):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, C, H, W)).astype(np.float32)
    graph = GradientGraph(model_of(case), wrt="x", of=["logits"], threads=1)
    cotangents = rng.normal(size=(2, graph.classes["logits"])).astype(np.float32)
    result = graph.vjp(x, {"logits": cotangents})[1]
    expected = differences(case, x[1], cotangents[1])
    np.testing.assert_allclose(result, expected, rtol=0, atol=2e-5 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize(("case", "function"), ERROR_FUNCTION.values(), ids=ERROR_FUNCTION.keys())
def test_error_function_agrees_with_scipy(case, function):
    x = np.linspace(-4, 4, 2 * C * H * W, dtype=np.float32).reshape(2, C, H, W)
    graph = GradientGraph(model_of(case), wrt="x", of=["logits"], threads=1)
    gradient = graph.vjp(x, {"logits": np.ones((2, C * H * W), dtype=np.float32)})
    wide = x.astype(np.float64)
    expected = (function(wide + STEP) - function(wide - STEP)) / (2 * STEP)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-6)


def text_model(body, *, opset=18, inputs="float[N,4] x", outputs="float[N,K] logits"):
    return onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : {opset}]> case ({inputs}) => ({outputs}) {{ {body} }}'
    )


def weighted(name, *shape):
    values = ", ".join(repr(float(value)) for value in weights(*shape).ravel())
    return f"{name} = Constant <value = float[{','.join(map(str, shape))}] {{{values}}}> () "


FLAT = {
    **{
        f"Gemm transB={flip} bias={bias}": text_model(
            weighted("b", *((5, 4) if flip else (4, 5)))
            + weighted("c", 5)
            + f"logits = Gemm <transB = {flip}, alpha = 0.5, beta = 2.0> (x, b{', c' if bias else ''})"
        )
        for flip, bias in itertools.product((0, 1), (False, True))
    },
    **{
        f"Gemm of turned rows transB={flip}": text_model(
            weighted("b", *((5, 4) if flip else (4, 5)))
            + f"t = Transpose <perm = [1, 0]> (x) logits = Gemm <transA = 1, transB = {flip}> (t, b)"
        )
        for flip in (0, 1)
    },
    **{
        f"Gemm weights left transA={turn} transB={flip}": text_model(
            weighted("a", *((4, 3) if turn else (3, 4)))
            + ("t = Identity (x)" if flip else "t = Transpose <perm = [1, 0]> (x)")
            + f"y = Gemm <transA = {turn}, transB = {flip}> (a, t) logits = Transpose <perm = [1, 0]> (y)"
        )
        for turn, flip in itertools.product((0, 1), (0, 1))
    },
    "Gemm bias from x": text_model(weighted("b", 4, 4) + "logits = Gemm <beta = 3.0> (x, b, x)"),
    "Squeeze": text_model("a = Constant <value = int64[1] {1}> () u = Unsqueeze (x, a) logits = Squeeze (u, a)"),
    "Split all used": text_model(
        "s = Constant <value = int64[2] {1, 3}> () a, b = Split <axis = 1> (x, s) logits = Concat <axis = 1> (b, a, b)"
    ),
    "Split one unused": text_model("a, b = Split <axis = 1, num_outputs = 2> (x) logits = Tanh (b)"),
}


@pytest.mark.parametrize("model", FLAT.values(), ids=FLAT.keys())
def test_flat_rule_agrees_with_the_linear_map(model):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 4)).astype(np.float32)
    graph = GradientGraph(model, wrt="x", of=["logits"], threads=1)
    evaluator = ReferenceEvaluator(model)
    cotangents = rng.normal(size=(3, graph.classes["logits"])).astype(np.float32)
    moves = 1e-2 * np.eye(4, dtype=np.float32)
    for image, cotangent, result in zip(x, cotangents, graph.vjp(x, {"logits": cotangents}), strict=True):
        ahead, behind = (evaluator.run(None, {"x": image + sign * moves})[0] for sign in (1, -1))
        np.testing.assert_allclose(result, (ahead - behind) @ cotangent / 2e-2, rtol=0, atol=2e-4)


def test_every_rule_has_a_case():
    covered = {case[0] for case in CASES.values()} | ERROR_FUNCTION.keys() | {"Gemm", "Squeeze"}
    assert covered == set(RULES)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_equal_maxima_share_nothing_twice(count):
    """A window of equal values passes its cotangent on exactly once."""
    model = model_of(CASES["MaxPool"])
    graph = GradientGraph(model, wrt="x", of=["logits"], threads=1)
    x = np.zeros((count, C, H, W), dtype=np.float32)
    gradient = graph.vjp(x, {"logits": np.ones((count, graph.classes["logits"]), dtype=np.float32)})
    assert gradient.sum() == count * graph.classes["logits"]


@pytest.mark.parametrize("op_type", ["Floor", "Sign", "Round", "Ceil"])
def test_steps_pass_no_gradient(op_type):
    model = text_model(f"y = {op_type} (x) logits = Add (x, y)", inputs="float[N,4] x")
    x = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    graph = GradientGraph(model, wrt="x", of=["logits"], threads=1)
    np.testing.assert_array_equal(graph.vjp(x, {"logits": np.ones_like(x)}), np.ones_like(x))


REFUSED = {
    "LRN": (
        text_model("logits = LpNormalization (x)"),
        "expected operators with a gradient rule, got LpNormalization 'logits'; su",
    ),
    "nothing differentiable": (text_model("logits = Floor (x)"), "depend on 'x', got a graph where none does"),
    "weights from the input": (
        text_model("s = Shape (x) logits = Expand (x, s) ", inputs="float[N,M] x"),
        "fixed K, got",
    ),
    "slice in steps": (
        text_model(
            "a = Constant <value = int64[1] {0}> () b = Constant <value = int64[1] {4}> () "
            "c = Constant <value = int64[1] {1}> () d = Constant <value = int64[1] {2}> () "
            "logits = Slice (x, a, b, c, d)"
        ),
        r"expected Slice 'logits' in steps of 1, got \[2\]",
    ),
    "reflecting pad": (
        text_model('p = Constant <value = int64[4] {0, 1, 0, 1}> () logits = Pad <mode = "reflect"> (x, p)'),
        "expected Pad 'logits' to add constants, got mode 'reflect'",
    ),
    "matrix of indices": (
        text_model(
            "i = Constant <value = int64[1,2] {0, 1}> () y = Gather <axis = 1> (x, i) "
            "s = Constant <value = int64[2] {0, 2}> () logits = Reshape (y, s)"
        ),
        "expected Gather 'y' to have a number or a vector of indices",
    ),
    "computed exponent": (
        text_model("logits = Pow (x, x)"),
        "expected input 1 of Pow 'logits' to be constant, got the computed 'x'",
    ),
    "vector product": (
        text_model(
            "w = Constant <value = float[4] {1, 2, 3, 4}> () y = MatMul (x, w) a = Constant <value = int64[1] {1}> () "
            "logits = Unsqueeze (y, a)"
        ),
        "expected MatMul 'y' to multiply matrices, got a vector",
    ),
    "gradient through a mean": (
        text_model("s = Constant <value = float[4] {1, 1, 1, 1}> () y, logits = LayerNormalization (x, s)"),
        "expected only the first output of LayerNormalization 'y' to carry a gradient",
    ),
}


@pytest.mark.parametrize(("model", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses(model, message):
    with pytest.raises(CmtError, match=message):
        ones_through(model)


def ones_through(model):
    graph = GradientGraph(model, wrt="x", of=["logits"], threads=1)
    return graph.vjp(np.ones((2, 4), np.float32), {"logits": np.ones((2, graph.classes["logits"]), np.float32)})
