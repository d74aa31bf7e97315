import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from calibration.quantization.layout import fuse_friendly, reshape_grey
from runtime.session import create_session
from tests.calibration.guards import assembled


def network(channels=1, filters=16, body="", options=""):
    """``pixels`` through a convolution and `body` to ``logits``."""
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 20]>
        network (float[N,{channels},6,6] pixels) => (float[N,K] logits) {{
          c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1] {options}> (pixels, kernel, bias)
          {body or "logits = Flatten (c)"} }}"""
    )
    rng = np.random.default_rng(0)
    for name, shape in {"kernel": (filters, channels, 3, 3), "bias": (filters,)}.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape, dtype=np.float32), name))
    return model


def run(model, channels=1):
    x = np.random.default_rng(1).random((3, channels, 6, 6), dtype=np.float32)
    session = create_session(model.SerializeToString(), device="cpu", threads=1)
    return session.run(["logits"], {"pixels": x})[0]


def operators(model):
    return [node.op_type for node in model.graph.node]


POOL = "p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c)"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({}, ["Pad", "Conv", "Flatten"], id="grey"),
        pytest.param({"channels": 3}, ["Pad", "Conv", "Flatten"], id="colour"),
        pytest.param({"channels": 4}, ["Conv", "Flatten"], id="four channels already"),
        pytest.param({"filters": 10}, ["Conv", "Flatten"], id="filters that take another path"),
        pytest.param(
            {"body": f"{POOL} r = Relu (p) logits = Flatten (r)"},
            ["Pad", "Conv", "Relu", "MaxPool", "Flatten"],
            id="pool then relu",
        ),
        pytest.param(
            {"body": "r = Relu (c) p = MaxPool <kernel_shape = [2, 2]> (r) logits = Flatten (p)"},
            ["Pad", "Conv", "Relu", "MaxPool", "Flatten"],
            id="relu then pool",
        ),
        pytest.param(
            {"body": f"{POOL} r = Relu (p) s = Add (p, r) logits = Flatten (s)"},
            ["Pad", "Conv", "MaxPool", "Relu", "Add", "Flatten"],
            id="pool read twice",
        ),
    ],
)
def test_the_same_values_from_other_nodes(options, expected):
    model = network(**options)
    before = model.SerializeToString()
    rewritten = fuse_friendly(model)
    assert operators(rewritten) == expected
    assert model.SerializeToString() == before
    onnx.checker.check_model(rewritten, full_check=True)
    channels = options.get("channels", 1)
    np.testing.assert_allclose(run(rewritten, channels), run(model, channels), rtol=1e-5, atol=1e-5)


def test_a_grouped_convolution_keeps_its_channels():
    model = network(channels=2, filters=16, options=", group = 2")
    kernel = numpy_helper.from_array(np.ones((16, 1, 3, 3), np.float32), "kernel")
    model.graph.initializer[0].CopyFrom(kernel)
    assert operators(fuse_friendly(model)) == ["Conv", "Flatten"]


def test_a_kernel_of_two_convolutions_is_left_alone():
    again = "d = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (pixels, kernel, bias)"
    body = f"{again} s = Add (c, d) logits = Flatten (s)"
    assert "Pad" not in operators(fuse_friendly(network(body=body)))


def test_grey_images_move_by_reshape_and_verdicts_stay():
    model = assembled()
    moved = onnx.ModelProto.FromString(model.SerializeToString())
    reshape_grey(moved)
    assert operators(moved)[0] == "Reshape"
    onnx.checker.check_model(moved, full_check=True)
    images = np.random.default_rng(0).integers(0, 256, (5, 6, 5, 1), np.uint8)
    before, after = (
        create_session(one.SerializeToString(), device="cpu", threads=1).run(None, {"images": images})
        for one in (model, moved)
    )
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


def test_colour_images_keep_their_transpose():
    model = assembled()
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 3
    reshape_grey(model)
    assert operators(model)[0] == "Transpose"
