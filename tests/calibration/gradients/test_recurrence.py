import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.gradients import GradientGraph
from runtime.errors import ModelError

STEPS, WIDTH, HIDDEN = 5, 3, 4
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
OUTPUTS = {"LSTM": ["y", "y_h", "y_c"], "GRU": ["y", "y_h"], "RNN": ["y", "y_h"]}


def layer(kind, *, read="y", given=(), bias=True, steps=STEPS, **attributes):
    """A model ``(N, STEPS, WIDTH)`` to logits of one layer; `given` are names of optional inputs by position."""
    random = np.random.default_rng(0)
    directions = 1 + (attributes.get("direction") == "bidirectional")
    rows, batch_first = GATES[kind] * HIDDEN, attributes.get("layout", 0)
    made = {
        "w": random.normal(0, 0.7, (directions, rows, WIDTH)),
        "r": random.normal(0, 0.7, (directions, rows, HIDDEN)),
        "b": random.normal(0, 0.7, (directions, 2 * rows)),
        "one_h": random.normal(0, 0.7, (directions, 1, HIDDEN)),
        "one_c": random.normal(0, 0.7, (directions, 1, HIDDEN)),
        "lengths": np.array([2, 3], np.int32),
        "p": random.normal(0, 0.7, (directions, 3 * HIDDEN)),
    }
    made["ones"] = np.array([1])
    constants = [
        numpy_helper.from_array(value.astype(np.float32) if value.dtype == float else value, name)
        for name, value in made.items()
    ]
    optional = [name if name in given or (name == "b" and bias) else "" for name in ("b", "lengths", "h", "c", "p")]
    inputs = ["x" if batch_first else "turned", "w", "r", *optional][: 8 if kind == "LSTM" else 6]
    k = directions * HIDDEN * (STEPS if read == "y" else 1)
    nodes = [
        helper.make_node("Transpose", ["x"], ["turned"], perm=[1, 0, 2]),
        helper.make_node("Shape", ["x"], ["n"], start=0, end=1),
        helper.make_node("Concat", ["ones", "n", "ones"], ["for_each"], axis=0),
        *(helper.make_node("Expand", [f"one_{state}", "for_each"], [state]) for state in "hc"),
        helper.make_node(kind, inputs, OUTPUTS[kind], hidden_size=HIDDEN, **attributes),
        helper.make_node("Transpose", [read], ["first"], perm=_batch_to_front(read, batch_first)),
        helper.make_node("Flatten", ["first"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "recurrent",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", steps, WIDTH])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", k])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _batch_to_front(read, batch_first):
    if batch_first:
        return [0, 1, 2, 3] if read == "y" else [0, 1, 2]
    return [2, 0, 1, 3] if read == "y" else [1, 0, 2]


def images(n=2):
    return np.random.default_rng(1).normal(0, 1, (n, STEPS, WIDTH)).astype(np.float32)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("LSTM", {}),
        ("LSTM", {"read": "y_c", "given": ("h", "c")}),
        ("LSTM", {"read": "y_h", "bias": False}),
        ("GRU", {}),
        ("GRU", {"linear_before_reset": 1, "read": "y_h"}),
        ("GRU", {"given": ("h",), "bias": False}),
        ("RNN", {"read": "y_h"}),
        ("RNN", {"given": ("h",)}),
    ],
)
def test_steps_give_what_the_layer_gives_and_its_gradient(kind, direction, options):
    model = layer(kind, direction=direction, **options)
    graph, x = GradientGraph(model, wrt="x", of=["logits"], threads=1), images()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(graph.logits(x)["logits"], session.run(["logits"], {"x": x})[0], atol=1e-6)
    assert graph.self_check(x).relative_error < 0.01


def test_other_activations():
    model = layer("RNN", activations=["Relu"])
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    found = GradientGraph(model, wrt="x", of=["logits"], threads=1).logits(images())["logits"]
    np.testing.assert_allclose(found, session.run(["logits"], {"x": images()})[0], atol=1e-6)


@pytest.mark.parametrize("kind", GATES)
def test_batch_before_steps(kind):
    """ONNX Runtime has no such layout; it is the other one, turned."""
    options = {"kind": kind, "read": "y_h"}
    turned, plain = (
        GradientGraph(layer(**options, layout=layout), wrt="x", of=["logits"], threads=1).logits(images())["logits"]
        for layout in (1, 0)
    )
    np.testing.assert_allclose(turned, plain, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"steps": "T"}, "expected LSTM 'y' to have a fixed number of steps, got"),
        ({"given": ("lengths",)}, "expected LSTM 'y' without sequence_lens, got one with it"),
        ({"given": ("p",)}, "expected LSTM 'y' without peepholes, got one with it"),
        ({"clip": 1.0}, "expected LSTM 'y' without clip, got one with it"),
        ({"activations": ["Sigmoid", "Softsign", "Tanh"]}, "expected LSTM 'y' with Relu, Sigmoid, Tanh, got"),
    ],
)
def test_what_is_not_covered_is_said(options, expected):
    with pytest.raises(ModelError, match=expected):
        GradientGraph(layer("LSTM", **options), wrt="x", of=["logits"], threads=1)
