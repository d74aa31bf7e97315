import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.gradients import GradientGraph
from runtime.errors import ModelError

C, H, W, ROWS, COLUMNS = 2, 6, 5, 4, 7
MATRIX = np.array([[0.9, 0.2, 0.1], [-0.3, 1.2, -0.2]])


def transformer(*, corners, padding="zeros", mode="linear", opset=20, height=H):
    """A model whose matrices, and so its places, depend on the image; some of them lie outside."""
    random = np.random.default_rng(0)
    weight = random.normal(0, 0.05, (C * H * W, 6)).astype(np.float32)
    constants = {"weight": weight, "matrix": MATRIX.reshape(1, 6).astype(np.float32), "form": np.array([-1, 2, 3])}
    constants["rest"] = np.array([C, ROWS, COLUMNS])
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["moved"]),
        helper.make_node("Add", ["moved", "matrix"], ["vectors"]),
        helper.make_node("Reshape", ["vectors", "form"], ["matrices"]),
        helper.make_node("Shape", ["x"], ["n"], start=0, end=1),
        helper.make_node("Concat", ["n", "rest"], ["size"], axis=0),
        helper.make_node("AffineGrid", ["matrices", "size"], ["grid"], align_corners=corners),
        helper.make_node("GridSample", ["x", "grid"], ["y"], align_corners=corners, padding_mode=padding, mode=mode),
        helper.make_node("Flatten", ["y"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "transformer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", C, height, W])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", C * ROWS * COLUMNS])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_a_spatial_transformer_gives_what_the_operators_give_and_its_gradient(corners, padding):
    model = transformer(corners=corners, padding=padding)
    x = np.random.default_rng(1).random((3, C, H, W), dtype=np.float32)
    graph = GradientGraph(model, wrt="x", of=["logits"], threads=1)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(graph.logits(x)["logits"], session.run(None, {"x": x})[0], atol=1e-5)
    assert graph.self_check(x).relative_error < 0.05


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"padding": "reflection"},
            "to be bilinear with zeros or border, got linear, reflection",
        ),
        ({"mode": "cubic"}, "to be bilinear with zeros or border, got cubic, zeros"),
        ({"height": "free"}, "expected GridSample 'y' of images of a fixed size, got"),
    ],
)
def test_what_is_not_covered_is_said(options, expected):
    with pytest.raises(ModelError, match=expected):
        GradientGraph(transformer(corners=0, **options), wrt="x", of=["logits"], threads=1)
