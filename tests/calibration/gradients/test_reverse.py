import numpy as np
import onnx.parser
import onnxruntime
import pytest
import torch

from calibration.gradients import GradientGraph
from calibration.gradients.reverse import RULES, supported_operators
from calibration.graphs.operators import ROUNDING, STEPS
from runtime.errors import CmtError
from tests.calibration.gradients.cases import C, H, W, X, model_of, node
from tests.calibration.gradients.rules import test_functions, test_layout, test_linear, test_windows


def text_model(body, *, opset=18, inputs="float[N,4] x", constants=""):
    return onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : {opset}]> '
        f"case ({inputs}) => (float[N,K] logits) <{constants}> {{ {body} }}"
    )


def gradient_of_ones(model, x):
    graph = GradientGraph(model, wrt="x", of=["logits"], threads=1)
    return graph.vjp(x, {"logits": np.ones((len(x), graph.classes["logits"]), np.float32)})


def test_every_rule_has_a_case():
    modules = (
        test_functions,
        test_layout,
        test_linear,
        test_windows,
    )
    covered = {case.op_type for module in modules for case in module.CASES.values()}
    for others in (
        test_functions.ERROR_FUNCTION,
        test_linear.BY_TORCH,
        test_windows.BY_TORCH,
    ):
        covered |= {case.op_type for case, _ in others.values()}
    assert covered | {"DequantizeLinear", "Gemm", "QuantizeLinear", *ROUNDING, *STEPS} == set(RULES)


def test_names_what_is_supported():
    names = supported_operators()
    assert names == sorted(set(names))
    assert {"Conv", "Floor", "Split"} <= set(names)


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("window", ["MaxPool", "MaxPool padded", "MaxPool overlapping", "GlobalMaxPool"])
def test_equal_maxima_share_nothing_twice(window, count):
    """A window of equal values passes its cotangent on exactly once, to the element torch chooses."""
    case = test_windows.POOLING[window]
    x = np.zeros((count, C, H, W), dtype=np.float32)
    x[:, :, 2:, :2] = 1.0
    gradient = gradient_of_ones(model_of(case), x)
    assert gradient.sum() == count * GradientGraph(model_of(case), wrt="x", of=["logits"]).classes["logits"]
    inputs = torch.tensor(x, requires_grad=True)
    options = case.attributes
    if window == "GlobalMaxPool":
        expected = torch.nn.functional.adaptive_max_pool2d(inputs, 1)
    else:
        expected = torch.nn.functional.max_pool2d(
            inputs, options["kernel_shape"], options["strides"], options.get("pads", [0])[0]
        )
    expected.sum().backward()
    np.testing.assert_array_equal(gradient, inputs.grad)


@pytest.mark.parametrize("op_type", ["Floor", "Sign", "Round", "Ceil", "Hardmax"])
def test_steps_pass_no_gradient(op_type):
    x = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    gradient = gradient_of_ones(text_model(f"y = {op_type} (x) logits = Add (x, y)"), x)
    np.testing.assert_array_equal(gradient, np.ones_like(x))


@pytest.mark.parametrize("element", [pytest.param(2, id="uint8"), pytest.param(6, id="int32")])
def test_a_cast_to_integers_passes_no_gradient(element):
    """It rounds: a straight-through gradient would have to be said so."""
    x = np.random.default_rng(0).random((2, 4), dtype=np.float32)
    body = f"y = Cast <to = {element}> (x) z = Cast <to = 1> (y) logits = Add (x, z)"
    graph = GradientGraph(text_model(body), wrt="x", of=["logits"], threads=1)
    np.testing.assert_array_equal(graph.vjp(x, {"logits": np.ones_like(x)}), np.ones_like(x))
    assert not graph.straight_through


@pytest.mark.parametrize(
    ("body", "slope"),
    [
        pytest.param("a = Mul (x, levels) b = Round (a) y = Div (b, levels)", 1, id="rounded to levels"),
        pytest.param("a = Mul (x, levels) b = Floor (a) y = Div (b, levels)", 1, id="floor"),
        pytest.param(
            "a = Mul (x, levels) b = Cast <to = 2> (a) c = Cast <to = 1> (b) y = Div (c, levels)", 1, id="uint8"
        ),
        pytest.param("a = Cast <to = 7> (x) b = Transpose (a) c = Transpose (b) y = Cast <to = 1> (c)", 1, id="int64"),
        pytest.param("a = Greater (x, half) y = Cast <to = 1> (a)", 1, id="above a threshold"),
        pytest.param("a = LessOrEqual (x, half) y = Cast <to = 1> (a)", -1, id="below a threshold"),
        pytest.param("a = Less (half, x) y = Cast <to = 1> (a)", 1, id="a threshold below"),
        pytest.param("a = Sub (x, half) y = Sign (a)", 1, id="sign"),
        pytest.param("a = Greater (x, half) y = Where (a, three, half)", 2.5, id="chosen by a threshold"),
    ],
)
def test_a_graph_without_any_gradient_is_passed_straight_through(body, slope):
    """Its derivative is that of the graph without the steps, its logits are exact, and it says what it does."""
    model = text_model(
        f"{body} s = Mul (y, three) logits = Mul (s, s)",
        constants="float levels = {4}, float half = {0.5}, float three = {3}",
    )
    model.graph.output.append(onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 4]))
    x = np.random.default_rng(0).uniform(0, 2, (2, 4)).astype(np.float32)
    logits, y = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    graph = GradientGraph(model, wrt="x", of=["logits"], threads=1)
    assert graph.straight_through
    np.testing.assert_array_equal(graph.logits(x)["logits"], logits)
    np.testing.assert_allclose(graph.vjp(x, {"logits": np.ones_like(x)}), slope * 18 * y, rtol=1e-5)
    assert graph.self_check(x).relative_error < 0.01


def test_noise_passes_no_gradient_and_stays_random():
    body = """noise = RandomNormalLike (x) fixed = RandomNormalLike <dtype = 1> (c)
      y = Add (x, noise) logits = Add (y, fixed)"""
    model = text_model(body, constants="float[4] c = {0, 0, 0, 0}")
    x = np.zeros((2, 4), np.float32)
    np.testing.assert_array_equal(gradient_of_ones(model, x), np.ones_like(x))
    graph = GradientGraph(model, wrt="x", of=["logits"], threads=1)
    assert not np.array_equal(graph.logits(x)["logits"], graph.logits(x)["logits"])


def test_sizes_pass_no_gradient():
    """Numbers computed from a shape are floats that do not vary with the pixels."""
    model = text_model("s = Size (x) f = Cast <to = 1> (s) g = Log (f) y = Mul (x, g) logits = Mul (y, f)")
    x = np.ones((2, 4), np.float32)
    np.testing.assert_allclose(gradient_of_ones(model, x), 8 * np.log(8) * x, rtol=1e-6)


@pytest.mark.parametrize(("taken", "slope"), [pytest.param(1, 2.0, id="then"), pytest.param(0, -1.0, id="else")])
def test_a_branch_on_a_constant_condition_is_taken(taken, slope):
    body = """no = Not (condition) yes = Not (no)
      y = If (yes) <
        then_branch = a () => (float[N,4] inner) { two = Constant <value = float {2.0}> () inner = Mul (x, two) },
        else_branch = b () => (float[N,4] inner) { inner = Neg (x) }>
      logits = Identity (y)"""
    model = text_model(body, constants=f"bool condition = {{{taken}}}")
    x = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(gradient_of_ones(model, x), slope * x)


def test_a_branch_on_a_fixed_size_is_taken():
    """As exporters write it: what to do is decided by a size that is known beforehand."""
    body = """size = Shape <start = 1> (x) same = Equal (size, four)
      y = If (same) <
        then_branch = a () => (float[N,4] u) { u = Exp (x) },
        else_branch = b () => (float[N,4] v) { v = Neg (x) }>
      logits = Identity (y)"""
    x = np.ones((2, 4), np.float32)
    expected = np.full_like(x, np.e)
    gradient = gradient_of_ones(text_model(body, constants="int64[1] four = {4}"), x)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


REFUSED = {
    "no rule": (
        text_model(
            "a = Constant <value = int64[4] {-1, 1, 2, 2}> () y = Reshape (x, a) z = Det (y) logits = Reshape (z, b)",
            constants="int64[2] b = {-1, 1}",
        ),
        "expected operators with a gradient rule, got Det 'z'; supported are Abs, Acos",
    ),
    "a condition from the input": (
        text_model(
            """m = ReduceMax <keepdims = 0> (x) c = Greater (m, zero)
            y = If (c) <
              then_branch = a () => (float[N,4] u) { u = Exp (x) },
              else_branch = b () => (float[N,4] v) { v = Neg (x) }>
            logits = Add (x, y)""",
            constants="float zero = {0}",
        ),
        "expected operators with a gradient rule, got If 'y'; supported are",
    ),
    "a sequence": (
        text_model(
            "y = SplitToSequence <axis = 1> (x, s) z = SequenceAt (y, i) logits = Concat <axis = 1> (x, z)",
            constants="int64 s = {2}, int64 i = {0}",
        ),
        "expected operators with a gradient rule, got SplitToSequence 'y', SequenceAt 'z'; supported are",
    ),
    "nothing differentiable": (
        text_model("a = ArgMax <axis = 1> (x) logits = Cast <to = 1> (a)"),
        "to vary smoothly with 'x', got nothing that does: .* -a square,hopskipjump --threat decision-only",
    ),
    "free number of classes": (
        text_model("s = Shape (x) logits = Expand (x, s)", inputs="float[N,M] x"),
        "fixed K, got",
    ),
    "gradient through a mean": (
        text_model("y, logits = LayerNormalization (x, s)", constants="float[4] s = {1, 1, 1, 1}"),
        "expected only the first output of LayerNormalization 'y' to carry a gradient",
    ),
    "reflecting less": (
        text_model('logits = Pad <mode = "reflect"> (x, p)', constants="int64[4] p = {0, 1, 0, -1}"),
        r"expected Pad 'logits' to add pixels in mode 'reflect', got pads \[1, -1\]",
    ),
    "padding with the input": (
        text_model("m = ReduceMax <keepdims = 0> (x) logits = Pad (x, p, m)", constants="int64[4] p = {0, 1, 0, 1}"),
        "expected input 2 of Pad 'logits' not to depend on 'x', got 'm', which does; there is no gradient rule",
    ),
    "diagonal": (
        text_model(
            'a = Constant <value = int64[3] {0, 2, 2}> () y = Reshape (x, a) logits = Einsum <equation = "nii->ni"> (y)'
        ),
        "expected Einsum 'logits' to have each letter once an operand, with one size, got 'nii->ni'",
    ),
    "scatter of maxima": (
        text_model(
            'logits = ScatterElements <axis = 1, reduction = "max"> (x, i, x)',
            constants="int64[2,4] i = {0, 1, 2, 3, 0, 1, 2, 3}",
        ),
        "expected ScatterElements 'logits' to write or to add, got reduction 'max'",
    ),
    "training": (
        text_model("logits = Dropout (x, r, t)", constants="float r = {0.5}, bool t = {1}"),
        "expected Dropout 'logits' at inference, got training mode",
    ),
    "aspect ratio": (
        text_model(
            'y = Resize <keep_aspect_ratio_policy = "not_larger", axes = [1]> (x, , , s) logits = Identity (y)',
            constants="int64[1] s = {8}",
        ),
        "expected Resize 'y' to stretch, got another aspect ratio policy",
    ),
    "half precision inside": (
        text_model("h = Cast <to = 10> (x) e = Exp (h) logits = Cast <to = 1> (e)"),
        "expected float32 all the way, got float16 of Cast 'h', float16 of Exp 'e'; attack the model's float32 twin",
    ),
}


@pytest.mark.parametrize(("model", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses_before_anything_runs(model, message):
    with pytest.raises(CmtError, match=message):
        GradientGraph(model, wrt="x", of=["logits"], threads=1)


def test_statistics_computed_at_run_time_are_refused():
    before = "mean = ReduceMean <keepdims = 0> (x, not_channels)"
    case = node("BatchNormalization", X, *[np.ones(C, np.float32)] * 2, "mean", np.ones(C, np.float32), before=before)
    with pytest.raises(
        CmtError, match="expected input 3 of BatchNormalization 'node' not to depend on 'x', got 'mean'"
    ):
        GradientGraph(model_of(case), wrt="x", of=["logits"], threads=1)
