import numpy as np
import pytest
import scipy.special
import torch
from onnx import TensorProto

from calibration.gradients import GradientGraph
from tests.calibration.gradients.cases import STEP, C, H, W, X, assert_agrees, model_of, node, pixels, weights

CONSTANT = weights(C, 1, 1)

FUNCTIONS = {
    "Abs": node("Abs", X),
    "Acos": node("Acos", "inside"),
    "Acosh": node("Acosh", "above"),
    "Asin": node("Asin", "inside"),
    "Asinh": node("Asinh", X),
    "Atan": node("Atan", X),
    "Atanh": node("Atanh", "inside"),
    "Cast": node("Cast", X, to=TensorProto.FLOAT),
    "CastLike": node("CastLike", X, weights(1)),
    "Celu": node("Celu", X, alpha=0.7),
    "Cos": node("Cos", X),
    "Cosh": node("Cosh", X),
    "Dropout": node("Dropout", X),
    "Elu": node("Elu", X, alpha=0.8),
    "Exp": node("Exp", X),
    "Gelu tanh": node("Gelu", X, opset=20, approximate="tanh"),
    "HardSigmoid": node("HardSigmoid", X, alpha=0.9, beta=0.4),
    "HardSwish": node("HardSwish", X),
    "Identity": node("Identity", X),
    "LeakyRelu": node("LeakyRelu", X, alpha=0.3),
    "LeakyRelu default": node("LeakyRelu", X),
    "Log": node("Log", "positive"),
    "Mish": node("Mish", X),
    "Neg": node("Neg", X),
    "Reciprocal": node("Reciprocal", "positive"),
    "Relu": node("Relu", X),
    "Selu": node("Selu", X),
    "Shrink": node("Shrink", X, lambd=0.4, bias=0.1),
    "Sigmoid": node("Sigmoid", X),
    "Sin": node("Sin", X),
    "Sinh": node("Sinh", X),
    "Softplus": node("Softplus", X),
    "Softsign": node("Softsign", X),
    "Sqrt": node("Sqrt", "positive"),
    "Tan": node("Tan", "inside"),
    "Tanh": node("Tanh", X),
    "ThresholdedRelu": node("ThresholdedRelu", X, alpha=0.3),
}

OPERANDS = {
    "Add scalar": node("Add", X, weights()),
    "Add channel": node("Add", X, CONSTANT),
    "Add to itself": node("Add", X, X),
    "Clip both": node("Clip", X, np.float32(-0.4), np.float32(0.6)),
    "Clip above": node("Clip", X, "", np.float32(0.6)),
    "Clip below": node("Clip", X, np.float32(0.1)),
    "Clip to computed bounds": node(
        "Clip", X, "low", "high", before="m = ReduceMean <keepdims = 0> (x) low = Sub (m, c_0_3) high = Add (m, c_0_5)"
    ),
    "Div by constant": node("Div", X, 1 + CONSTANT**2),
    "Div constant by x": node("Div", CONSTANT, "positive"),
    "Div by itself": node("Div", X, "positive"),
    "Max": node("Max", X, CONSTANT, weights()),
    "Mean": node("Mean", X, CONSTANT, "size"),
    "Min": node("Min", CONSTANT, X),
    "Mod": node("Mod", X, 1 + CONSTANT**2, fmod=1),
    "Mul channel": node("Mul", X, CONSTANT),
    "Mul with itself": node("Mul", X, X),
    "Mul gate": node("Mul", X, "gate", before="gate = ReduceMean <keepdims = 1> (x, i_2)"),
    "PRelu": node("PRelu", X, CONSTANT),
    "PRelu computed slope": node("PRelu", X, "slope", before="slope = ReduceMean <keepdims = 1> (x, i_1)"),
    "Pow square": node("Pow", X, np.float32(2)),
    "Pow integers": node("Pow", X, np.int64([3, 2, 1, 0, 2])),
    "Pow fraction": node("Pow", "positive", np.float32(0.7)),
    "Pow computed exponent": node("Pow", "positive", X),
    "Pow of a constant": node("Pow", np.float32(1.7), X),
    "Sub constant": node("Sub", X, CONSTANT),
    "Sub from constant": node("Sub", weights(C, H, W), X),
    "Sum of three": node("Sum", X, X, weights(1, W)),
    "Where": node("Where", weights(C, H, W) > 0, X, CONSTANT),
    "Where otherwise": node("Where", weights(C, H, W) > 0, np.float32(0), X),
    "Where computed": node("Where", "above_zero", X, "size", before="above_zero = Greater (x, c_0_3)"),
}

# ONNX's reference evaluator computes Erf in float32, too coarse for differences.
ERROR_FUNCTION = {
    "Erf": (node("Erf", X), scipy.special.erf),
    "Gelu": (node("Gelu", X, opset=20), lambda x: x * scipy.special.ndtr(x)),
}

CASES = FUNCTIONS | OPERANDS


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_rule_agrees_with_central_differences(case):
    graph = GradientGraph(model_of(case), wrt="x", of=["logits"], threads=1)
    assert_agrees(graph, model_of(case, dtype=TensorProto.DOUBLE), pixels())


@pytest.mark.parametrize(("case", "function"), ERROR_FUNCTION.values(), ids=ERROR_FUNCTION.keys())
def test_error_function_agrees_with_scipy(case, function):
    x = np.linspace(-4, 4, 2 * C * H * W, dtype=np.float32).reshape(2, C, H, W)
    graph = GradientGraph(model_of(case), wrt="x", of=["logits"], threads=1)
    gradient = graph.vjp(x, {"logits": np.ones((2, C * H * W), dtype=np.float32)})
    wide = x.astype(np.float64)
    expected = (function(wide + STEP) - function(wide - STEP)) / (2 * STEP)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-0.3, 0.7), (0.25, 6.0)])
def test_clip_passes_on_its_bounds_as_torch_does(low, high):
    """Black and white pixels lie on the bounds of [0, 1]: there the gradient must not vanish."""
    around = [np.nextafter(np.float32(edge), np.float32(to)) for edge in (low, high) if edge for to in (-9, 9)]
    x = np.resize(np.float32([low, high, *around, -1e-37, 1e-37, -5, 5e9, -5e9]), (2, C, H, W))
    case = node("Clip", X, np.float32(low), np.float32(high))
    graph = GradientGraph(model_of(case), wrt="x", of=["logits"], threads=1)
    inputs = torch.tensor(x, requires_grad=True)
    inputs.clamp(low, high).sum().backward()
    np.testing.assert_array_equal(graph.vjp(x, {"logits": np.ones((2, C * H * W), np.float32)}), inputs.grad)
