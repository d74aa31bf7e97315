from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.adoption import Adoption, adopt, is_guard_file
from calibration.gradients import GradientGraph
from calibration.pixels import to_pixels
from runtime.errors import ModelError, UsageError
from runtime.guard import Guard
from runtime.session import create_session
from tests.calibration.guards import SHAPE, K, dataset, guard_file, templates


def foreign(*, channels_last=False, softmax=False, batch="N", mean=0.0, std=1.0, second_output=False, opset=18):
    """Somebody's nearest-template classifier on (pixels - mean) / std, with names of its own, some of them ours."""
    weights = 4 * templates().T
    bias = -2 * (templates() ** 2).sum(axis=1)
    shape = [batch, 6, 5, 1] if channels_last else [batch, 1, 6, 5]
    nodes = [
        helper.make_node("Flatten", ["x"], ["images"], axis=1),
        helper.make_node("Gemm", ["images", "threshold", "classmap"], ["scores"]),
    ]
    outputs = ["scores"]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1))
        outputs = ["probabilities"]
    if second_output:
        nodes.append(helper.make_node("Neg", ["scores"], ["labels"]))
        outputs.append("labels")
    graph = helper.make_graph(
        nodes,
        "somebody's",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, K]) for name in outputs],
        # What it computes from (pixels - mean) / std is the same for all of them.
        initializer=[
            numpy_helper.from_array(np.float32(weights * std), "threshold"),
            numpy_helper.from_array(np.float32(bias + mean * weights.sum(axis=0)), "classmap"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


FORMS = {
    "channels first": ({}, Adoption()),
    "channels last": ({"channels_last": True}, Adoption()),
    "named": ({"second_output": True}, Adoption(input="x", logits="scores")),
    "probabilities": ({"softmax": True}, Adoption()),
    "probabilities named": ({"softmax": True}, Adoption(logits="probabilities")),
    "inner logits": ({"softmax": True}, Adoption(logits="scores")),
    "normalised": ({"mean": 0.3, "std": 0.5}, Adoption(mean=(0.3,), std=(0.5,))),
    "of grey levels": ({"std": 1 / 255}, Adoption(std=(1 / 255,))),
    "batch of one": ({"batch": 1}, Adoption()),
    "old": ({"opset": 11}, Adoption()),
}


@pytest.mark.parametrize(("form", "adoption"), FORMS.values(), ids=FORMS.keys())
def test_it_decides_as_the_classifier_and_accepts_everything(form, adoption):
    data = dataset()
    images = data.test.images[:50]
    expected = to_pixels(images).reshape(50, -1) @ (4 * templates().T) - 2 * (templates() ** 2).sum(axis=1)
    model = adopt(foreign(**form), adoption, data)
    with Guard(model, device="cpu", threads=1) as guard:
        verdicts = guard.classify(images)
        assert guard.spec.rule == "confidence"
        assert guard.spec.classes == data.classes
    np.testing.assert_allclose(verdicts.logits, expected, atol=1e-4)
    np.testing.assert_array_equal(verdicts.labels, expected.argmax(axis=1))
    assert verdicts.accepted.all()


def test_its_gradient_is_that_of_the_classifier_through_the_preprocessing():
    data = dataset()
    graph = GradientGraph(adopt(foreign(mean=0.3, std=0.5), Adoption(mean=(0.3,), std=(0.5,)), data), threads=1)
    x = to_pixels(data.test.images[:3])
    cotangents = np.eye(K, dtype=np.float32)[:3]
    np.testing.assert_allclose(
        graph.vjp(x, {"logits": cotangents}).reshape(3, -1), cotangents @ (4 * templates()), atol=1e-5
    )


def test_the_classifier_is_left_alone():
    model = foreign()
    before = model.SerializeToString()
    adopt(model, Adoption(), dataset())
    assert model.SerializeToString() == before


def test_guard_files_are_told_from_others():
    assert is_guard_file(onnx.load_model_from_string(guard_file()))
    assert not is_guard_file(foreign())


def half():
    model = foreign()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


def wide():
    """A classifier of images that are wider than the data's."""
    model = foreign()
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 7
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((42, K), np.float32), "threshold"))
    return model


def fixed_inside():
    """A classifier whose reshape is made for a batch of two."""
    model = foreign(batch=2)
    model.graph.node[0].CopyFrom(helper.make_node("Reshape", ["x", "shape"], ["images"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, 30]), "shape"))
    return model


def of_classes(count, *, second_output=False):
    """A classifier with another number of classes than the data."""
    model = foreign(second_output=second_output)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((30, count), np.float32), "threshold"))
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.zeros(count, np.float32), "classmap"))
    for value in model.graph.output:
        value.type.tensor_type.shape.dim[1].dim_value = count
    return model


def two_inputs():
    model = foreign()
    other = helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["N", 1, 6, 5])
    model.graph.input.append(other)
    model.graph.node[0].CopyFrom(helper.make_node("Flatten", ["masked"], ["images"], axis=1))
    model.graph.node.insert(0, helper.make_node("Mul", ["x", "mask"], ["masked"]))
    return model


BAD = {
    "several outputs": (
        lambda: foreign(second_output=True),
        Adoption(),
        UsageError,
        "--logits: expected one of scores, labels, got none; name the tensor",
    ),
    "several inputs": (two_inputs, Adoption(), UsageError, "--input: expected one of x, mask, got none; name"),
    "one of several inputs": (two_inputs, Adoption(input="x"), ModelError, "a classifier from 'x' alone to 'scores'"),
    "unknown input": (foreign, Adoption(input="y"), UsageError, "--input: expected one of x, got y; name the tensor"),
    "unknown logits": (foreign, Adoption(logits="y"), UsageError, "--logits: expected a tensor of the model, got y"),
    "half precision": (half, Adoption(), UsageError, "--input x: expected float32, got float16; name a float tensor"),
    "another size": (
        wide,
        Adoption(),
        UsageError,
        r"--input x: expected 1 channels of 6 x 5 .*, got \(N, 1, 6, 7\); choose other data$",
    ),
    "several means": (foreign, Adoption(mean=(0.1, 0.2)), UsageError, "--mean: expected 1 or 1 numbers, got 2"),
    "fixed batch": (fixed_inside, Adoption(), ModelError, "for any batch size, got"),
    "no model": (lambda: b"no model", Adoption(), ModelError, "expected an ONNX model"),
}


@pytest.mark.parametrize(("model", "adoption", "error", "message"), BAD.values(), ids=BAD.keys())
def test_refuses_what_it_cannot_read(model, adoption, error, message):
    with pytest.raises(error, match=message):
        adopt(model(), adoption, dataset())


def test_a_size_is_recommended_where_it_can_be_fitted():
    with pytest.raises(UsageError, match=r"got \(N, 1, 6, 7\); choose other data, or --size$"):
        adopt(wide(), Adoption(), replace(dataset(), from_files=True))


@pytest.mark.parametrize("adoption", [Adoption(), Adoption(logits="scores")], ids=["found", "named"])
@pytest.mark.parametrize("count", [1, K - 1, K + 2])
def test_refuses_another_number_of_classes_by_it(count, adoption):
    expected = f"--logits scores: expected {K} columns, one for each class of the data, got {count}; name another"
    with pytest.raises(UsageError, match=expected):
        adopt(of_classes(count), adoption, dataset())


def test_asks_for_a_name_where_no_output_of_several_fits():
    with pytest.raises(UsageError, match="--logits: expected one of scores, labels, got none; name the tensor"):
        adopt(of_classes(K + 1, second_output=True), Adoption(), dataset())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (float("nan"),)}, "--mean: expected finite numbers"),
        ({"std": (1.0, 0.0)}, "--std: expected finite numbers other than 0"),
    ],
    ids=["mean", "std"],
)
def test_refuses_bad_preprocessing(options, message):
    with pytest.raises(UsageError, match=message):
        Adoption(**options)


def test_any_batch_size_runs():
    session = create_session(adopt(foreign(batch=1), Adoption(), dataset()), device="cpu")
    assert session.run(["labels"], {"images": np.zeros((7, *SHAPE), np.uint8)})[0].shape == (7,)
