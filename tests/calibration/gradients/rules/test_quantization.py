import numpy as np
import onnx.parser
import pytest
import torch
from onnx import numpy_helper

from calibration.gradients import GradientGraph
from runtime.errors import ModelError
from tests.calibration.gradients.cases import C, X, model_of, node, pixels

RANGES = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}
SCALES = np.linspace(0.004, 0.02, C).astype(np.float32)


def vjp(model, x, seed=3):
    graph = GradientGraph(model, wrt="x", of=["logits"], threads=1)
    cotangents = np.random.default_rng(seed).normal(size=(len(x), graph.classes["logits"])).astype(np.float32)
    return graph, cotangents, graph.vjp(x, {"logits": cotangents})


def rounded(scale, zero_point, *, opset=18, **attributes):
    """``x`` through QuantizeLinear and DequantizeLinear."""
    tail = "z = DequantizeLinear {} (y, scale, zero) logits = Flatten (z)".format(
        f"<axis = {attributes['axis']}>" if attributes else ""
    )
    model = model_of(node("QuantizeLinear", X, "scale", "zero", opset=opset, after=tail, **attributes))
    model.graph.initializer.extend(
        [numpy_helper.from_array(np.asarray(scale), "scale"), numpy_helper.from_array(np.asarray(zero_point), "zero")]
    )
    return model


@pytest.mark.parametrize(
    ("kind", "opset", "zero_point", "scale"),
    [
        pytest.param("int8", 18, 3, 0.01, id="int8"),
        pytest.param("uint8", 18, 120, 0.01, id="uint8"),
        pytest.param("uint8", 21, 128, 0.013, id="opset 21"),
        pytest.param("int16", 21, 0, 3e-5, id="int16"),
    ],
)
def test_passes_straight_through_as_torch_fake_quantises(kind, opset, zero_point, scale):
    model = rounded(np.float32(scale), np.dtype(kind).type(zero_point), opset=opset)
    graph, cotangents, gradient = vjp(model, pixels())
    x = torch.tensor(pixels(), requires_grad=True)
    fake = torch.fake_quantize_per_tensor_affine(x, scale, zero_point, *RANGES[kind])
    np.testing.assert_allclose(graph.logits(pixels())["logits"], fake.flatten(1).detach(), rtol=0, atol=1e-5)
    (fake.flatten(1) * torch.tensor(cotangents)).sum().backward()
    assert 0 < (x.grad == 0).double().mean() < 0.5
    np.testing.assert_allclose(gradient, x.grad, rtol=1e-6, atol=0)
    assert graph.straight_through


def test_one_scale_per_channel_passes_as_torch_does():
    zero_points = np.arange(C, dtype=np.int8)
    _, cotangents, gradient = vjp(rounded(SCALES, zero_points, axis=1), pixels())
    x = torch.tensor(pixels(), requires_grad=True)
    fake = torch.fake_quantize_per_channel_affine(
        x, torch.tensor(SCALES), torch.tensor(zero_points, dtype=torch.int32), 1, -128, 127
    )
    (fake.flatten(1) * torch.tensor(cotangents)).sum().backward()
    np.testing.assert_allclose(gradient, x.grad, rtol=1e-6, atol=0)


NETWORK = """<ir_version: 10, opset_import: ["" : 18]>
network (float[N,8,6,5] x) => (float[N,K] logits)
<float s = {0.05}, int8 z = {2}, float t = {0.01}, int8 zero = {0}, int64[1] i = {1}> {
  a = QuantizeLinear (x, s, z)
  b = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a)
  c = Transpose <perm = [0, 1, 3, 2]> (b)
  d = DequantizeLinear (c, s, z)
  kernel = DequantizeLinear (quantised_kernel, t, zero)
  e = Conv <pads = [1, 1, 1, 1]> (d, kernel)
  f = Relu (e)
  g = QuantizeLinear (f, s, z)
  h = DequantizeLinear (g, s, z)
  logits = Flatten (h)
}"""


def test_a_quantised_network_agrees_with_torch():
    """Weights of integers become constants, and pooling and layout pass the cotangent of integers on."""
    kernel = np.random.default_rng(0).integers(-128, 128, (4, 8, 3, 3), dtype=np.int8)
    model = onnx.parser.parse_model(NETWORK)
    model.graph.initializer.append(numpy_helper.from_array(kernel, "quantised_kernel"))
    graph, cotangents, gradient = vjp(model, pixels())
    x = torch.tensor(pixels(), requires_grad=True)

    def fake(value):
        return torch.fake_quantize_per_tensor_affine(value, 0.05, 2, -128, 127)

    pooled = torch.nn.functional.max_pool2d(fake(x), 2).transpose(2, 3)
    z = fake(torch.relu(torch.nn.functional.conv2d(pooled, torch.tensor(kernel) * 0.01, padding=1))).flatten(1)
    near = np.isclose(graph.logits(pixels())["logits"], z.detach(), rtol=0, atol=1e-5)
    assert near.mean() > 0.98  # a sum that lies between two integers may be rounded to either
    (z * torch.tensor(cotangents)).sum().backward()
    expected = x.grad.numpy()
    assert np.linalg.norm(gradient - expected) <= 1e-5 * np.linalg.norm(expected)
    assert graph.straight_through
    assert graph.self_check(pixels()).relative_error < 0.1


def test_weights_of_integers_alone_are_no_rounding_of_pixels():
    text = NETWORK
    for old, new in {
        "a = QuantizeLinear (x, s, z)": "a = Identity (x)",
        "d = DequantizeLinear (c, s, z)": "d = Identity (c)",
        "g = QuantizeLinear (f, s, z)": "",
        "h = DequantizeLinear (g, s, z)": "h = Identity (f)",
    }.items():
        text = text.replace(old, new)
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((4, 8, 3, 3), np.int8), "quantised_kernel"))
    assert not GradientGraph(model, wrt="x", of=["logits"], threads=1).straight_through


def text_model(body, domain=""):
    return onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 21{domain}]> case (float[N,4] x) => (float[N,K] logits)
        <float s = {{0.1}}, uint8 z = {{0}}, int8[4,4] w = {{{", ".join(["1"] * 16)}}}> {{ {body} }}"""
    )


REFUSED = {
    "QLinearMatMul": (
        text_model(
            "q = QuantizeLinear (x, s, z) y = QLinearMatMul (q, s, z, w, s, z, s, z) "
            "logits = DequantizeLinear (y, s, z)"
        ),
        "got quantised nodes QLinearMatMul 'y'; attack its float twin instead",
    ),
    "DynamicQuantizeLinear": (
        text_model(
            "q, t, u = DynamicQuantizeLinear (x) y = MatMulInteger (q, w, u) f = Cast <to = 1> (y) logits = Mul (f, t)"
        ),
        "got quantised nodes DynamicQuantizeLinear 'q', MatMulInteger 'y'; attack its float twin instead",
    ),
    "another domain": (
        text_model("logits = com.microsoft.QLinearSigmoid (x, s, z, s, z)", ', "com.microsoft" : 1'),
        "got quantised nodes QLinearSigmoid 'logits'; attack its float twin instead",
    ),
    "floats of 8 bits": (
        text_model("q = QuantizeLinear <output_dtype = 17> (x, s) logits = DequantizeLinear (q, s)"),
        "expected QuantizeLinear 'q' to write integers, got floats; attack its float twin instead",
    ),
    "a scale per block": (
        text_model(
            "c = Constant <value = float[1,2] {0.1, 0.2}> () q = QuantizeLinear <axis = 1, block_size = 2> (x, c) "
            "logits = DequantizeLinear <axis = 1, block_size = 2> (q, c)"
        ),
        "expected DequantizeLinear 'logits' to scale per tensor or per axis, got per block",
    ),
    "computed scale": (
        text_model("m = ReduceMax <keepdims = 0> (x) q = QuantizeLinear (x, m, z) logits = DequantizeLinear (q, s, z)"),
        "expected input 1 of QuantizeLinear 'q' to be constant",
    ),
}


@pytest.mark.parametrize(("model", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses(model, message):
    with pytest.raises(ModelError, match=message):
        GradientGraph(model, wrt="x", of=["logits"], threads=1)
