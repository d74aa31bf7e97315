"""Models of one operator each: in float32 for the gradient graph, in float64 for the oracle."""

from typing import Any, NamedTuple

import numpy as np
import onnx.parser
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

C, H, W = 8, 6, 5
COUNT = 2
STEP = 1e-6
DIRECTIONS = 4

X = "x"
POSITIVE = "positive = Add (size, c_0_3)"
INSIDE = "inside = Mul (squashed, c_0_9)"
ABOVE_ONE = "above = Add (size, c_1_3)"
HELPERS = "size = Abs (x)\n squashed = Tanh (x)"

RANDOM = np.random.default_rng(1)


def weights(*shape):
    return RANDOM.normal(0, 0.5, shape).astype(np.float32)


def ints(*values):
    return np.array(values, dtype=np.int64)


class Case(NamedTuple):
    """A node whose inputs are names of tensors computed from ``x``, and arrays."""

    op_type: str
    inputs: tuple[Any, ...]
    opset: int
    before: str
    after: str
    attributes: dict[str, Any]


def node(op_type, *inputs, opset=18, before="", after="logits = Flatten (y)", **attributes):
    """A case. `before` computes tensors from ``x``, `after` computes ``logits`` (N, K) from the node's output ``y``.

    Both may use the constants ``c_0_3`` (0.3) and ``i_1`` ([1]) and the like, see `SHARED`.
    """
    return Case(op_type, inputs, opset, before, after, attributes)


SHARED = {
    **{f"i_{value}": ints(value) for value in range(10)},
    **{f"c_{value:.1f}".replace(".", "_"): np.float32(value) for value in (0.3, 0.5, 0.9, 1.3, 2.0)},
    "minus_1": ints(-1),
    "planes": ints(2, 3),
    "corner": ints(1, 1),
    "opposite": ints(4, 4),
    "two": np.int64(2),
    "pair": ints(2, -1),
    "not_width": ints(0, 1, 2),
    "not_height": ints(0, 1, 3),
    "batch_and_channels": ints(0, 1),
    "not_channels": ints(0, 2, 3),
}


def model_of(case, *, dtype=TensorProto.FLOAT, batch="N", name="node"):
    """``x`` (N, C, H, W) through the node into ``logits`` (N, K)."""
    arrays = {f"constant_{index}": value for index, value in enumerate(case.inputs) if not isinstance(value, str)}
    names = [value if isinstance(value, str) else f"constant_{index}" for index, value in enumerate(case.inputs)]
    element = {TensorProto.FLOAT: "float", TensorProto.DOUBLE: "double"}[dtype]
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : {case.opset}]>
        case ({element}[{batch},{C},{H},{W}] x) => ({element}[{batch},K] logits) {{
          {HELPERS} {POSITIVE} {INSIDE} {ABOVE_ONE} {case.before} y = Identity (x) {case.after} }}"""
    )
    place = next(index for index, made in enumerate(model.graph.node) if made.output[0] == "y")
    attributes = {key: dtype if key == "to" else value for key, value in case.attributes.items()}
    outputs = ["y", *attributes.pop("more_outputs", [])]
    model.graph.node[place].CopyFrom(helper.make_node(case.op_type, names, outputs, name=name, **attributes))
    wide = {TensorProto.FLOAT: np.float32, TensorProto.DOUBLE: np.float64}[dtype]
    for key, value in (SHARED | arrays).items():
        array = np.asarray(value)
        array = array.astype(wide) if array.dtype == np.float32 else array
        model.graph.initializer.append(numpy_helper.from_array(array, key))
    return model


def pixels(seed=0):
    return np.random.default_rng(seed).normal(size=(COUNT, C, H, W)).astype(np.float32)


def differences(model, x, cotangents, directions):
    """Central differences of the cotangents' product with the logits along each direction, in float64.

    `model` is run by ONNX's reference evaluator, as it is written, on the whole batch at once.
    """
    evaluator = ReferenceEvaluator(model)
    wide = x.astype(np.float64)
    quotients = []
    for direction in directions:
        ahead, behind = (evaluator.run(None, {"x": wide + sign * STEP * direction})[0] for sign in (1, -1))
        quotients.append(((ahead.astype(np.float64) - behind) * cotangents).sum() / (2 * STEP))
    return np.array(quotients)


def random_directions(shape):
    directions = np.random.default_rng(7).normal(size=(DIRECTIONS, *shape))
    return directions / np.linalg.norm(directions.reshape(DIRECTIONS, -1), axis=1).reshape(-1, *[1] * len(shape))


def assert_agrees(graph, wide, x):
    """The logits and the gradient of `graph` are those of the float64 model `wide`."""
    logits = graph.logits(x)["logits"]
    (expected,) = ReferenceEvaluator(wide).run(None, {"x": x.astype(np.float64)})
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5 * max(1.0, np.abs(expected).max()))
    cotangents = np.random.default_rng(3).normal(size=logits.shape).astype(np.float32)
    gradient = graph.vjp(x, {"logits": cotangents})
    assert gradient.shape == x.shape
    directions = random_directions(x.shape)
    quotients = differences(wide, x, cotangents.astype(np.float64), directions)
    claimed = (gradient.astype(np.float64) * directions).reshape(len(directions), -1).sum(axis=1)
    np.testing.assert_allclose(claimed, quotients, rtol=0, atol=1e-5 * max(1e-3, np.linalg.norm(gradient)))


def assert_agrees_with_torch(graph, function):
    """The logits and the gradient of `graph` are those of a torch function in float64."""
    x = torch.tensor(pixels(), dtype=torch.float64, requires_grad=True)
    expected = function(x).flatten(1)
    cotangents = np.random.default_rng(3).normal(size=expected.shape).astype(np.float32)
    np.testing.assert_allclose(graph.logits(pixels())["logits"], expected.detach(), rtol=0, atol=1e-5)
    (expected * torch.tensor(cotangents)).sum().backward()
    np.testing.assert_allclose(graph.vjp(pixels(), {"logits": cotangents}), x.grad, rtol=0, atol=1e-5)
