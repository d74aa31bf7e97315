import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from calibration.gradients import GradientGraph
from calibration.gradients.reverse import RULES
from calibration.objectives import CrossEntropy
from calibration.pixels import to_pixels
from runtime.errors import DeviceError, ModelError, UsageError
from tests.calibration.small_files import CLASSES, HEIGHT, TRUNK, WIDTH, small_file


def images(count, channels=1):
    return np.random.default_rng(count).integers(0, 256, (count, HEIGHT, WIDTH, channels), dtype=np.uint8)


@pytest.fixture(scope="module")
def graph():
    return GradientGraph(small_file(), threads=1)


def test_takes_the_heads_of_an_exported_file(graph):
    assert graph.wrt == "pixels"
    assert graph.of == ("logits", "robust_logits")
    assert graph.shape == (1, HEIGHT, WIDTH)
    assert graph.classes == {"logits": CLASSES, "robust_logits": CLASSES}


@pytest.mark.parametrize("count", [1, 2, 7])
def test_logits_are_those_of_the_whole_file(graph, count):
    batch = images(count)
    session = onnxruntime.InferenceSession(small_file().SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(["logits", "robust_logits"], {"images": batch})
    result = graph.logits(to_pixels(batch))
    for name, values in zip(graph.of, expected, strict=True):
        np.testing.assert_allclose(result[name], values, rtol=1e-6, atol=1e-6)


def test_cotangents_of_both_heads_add_up(graph):
    x = to_pixels(images(4))
    first, second = np.random.default_rng(0).normal(size=(2, 4, CLASSES)).astype(np.float32)
    both = graph.vjp(x, {"robust_logits": second, "logits": first})
    apart = graph.vjp(x, {"logits": first}) + graph.vjp(x, {"robust_logits": second})
    np.testing.assert_allclose(both, apart, rtol=0, atol=1e-5)


def test_jacobians_of_both_heads_agree_with_differences_in_float64(graph):
    x = to_pixels(images(2)) + np.random.default_rng(0).normal(0, 0.01, (2, 1, HEIGHT, WIDTH)).astype(np.float32)
    evaluator = ReferenceEvaluator(in_float64(small_file()))
    logits, jacobians = graph.logits_and_jacobian(x)
    for index, image in enumerate(x.astype(np.float64)):
        moves = 1e-6 * np.eye(image.size)
        ahead, behind = (
            evaluator.run(list(graph.of), {"pixels": (image.ravel() + sign * moves).reshape(-1, *image.shape)})
            for sign in (1, -1)
        )
        for name, high, low in zip(graph.of, ahead, behind, strict=True):
            expected = ((high - low) / 2e-6).T.reshape(CLASSES, *image.shape)
            np.testing.assert_allclose(jacobians[name][index], expected, rtol=0, atol=1e-5 * np.abs(expected).max())
            assert logits[name].shape == (2, CLASSES)


def in_float64(model):
    """The part of a small file behind `pixels`, with float64 weights."""
    graph = model.graph
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    kept = [node for node in graph.node if node.output[0] not in ("planes", "levels", "pixels")]
    wide = helper.make_graph(
        kept[:8],
        "wide",
        [helper.make_tensor_value_info("pixels", TensorProto.DOUBLE, ["N", 1, HEIGHT, WIDTH])],
        [helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["N", "K"]) for name in ("logits", "robust_logits")],
        initializer=graph.initializer,
    )
    return helper.make_model(wide, opset_imports=model.opset_import, ir_version=10)


def test_inner_tensors_can_be_differentiated():
    graph = GradientGraph(small_file(), of=["unlocked_logits"], threads=1)
    x, labels = to_pixels(images(3)), np.array([0, 2, 1])
    result = graph.value_and_gradient(CrossEntropy(of="unlocked_logits"), x, labels=labels)
    assert list(result.logits) == ["unlocked_logits"]
    locked = GradientGraph(small_file(), threads=1).value_and_gradient(CrossEntropy(), x, labels=labels)
    assert not np.allclose(result.gradient, locked.gradient)


def test_a_single_head_file_keeps_the_head_it_has():
    assert GradientGraph(small_file(pair=False), threads=1).of == ("logits",)


@pytest.mark.parametrize("form", ["path", "bytes", "proto"])
def test_every_form_of_a_model_gives_the_same(graph, form, tmp_path):
    model = small_file()
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    given = {"path": path, "bytes": path.read_bytes(), "proto": model}[form]
    x = to_pixels(images(2))
    np.testing.assert_array_equal(GradientGraph(given, threads=1).logits(x)["logits"], graph.logits(x)["logits"])


def test_a_path_leads_to_external_data(tmp_path):
    model = small_file()
    onnx.save_model(
        model, tmp_path / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    x = to_pixels(images(2))
    expected = GradientGraph(small_file(), threads=1).logits(x)["logits"]
    np.testing.assert_array_equal(GradientGraph(tmp_path / "model.onnx", threads=1).logits(x)["logits"], expected)


def test_the_model_passed_in_is_left_alone():
    model = small_file()
    before = model.SerializeToString(deterministic=True)
    GradientGraph(model, threads=1).vjp(to_pixels(images(1)), {"logits": np.ones((1, CLASSES), np.float32)})
    assert model.SerializeToString(deterministic=True) == before


def test_batch_size_may_come_from_the_images():
    """As exporters write it: a Reshape whose batch is the Shape of a tensor before the cut."""
    body = TRUNK.replace(
        "features = Flatten (pooled)",
        """size = Shape <start = 0, end = 1> (images)
           all_sizes = Shape (images)
           rows = Slice (all_sizes, zero, last)
           shape = Concat <axis = 0> (rows, minus_one)
           flat = Reshape (pooled, shape)
           shape_too = Concat <axis = 0> (size, minus_one)
           features = Reshape (flat, shape_too)""",
    )
    model = small_file(body=body)
    constants = {"zero": np.array([0]), "minus_one": np.array([-1])}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    graph = GradientGraph(model, threads=1)
    for count in (1, 3):
        x = to_pixels(images(count))
        assert graph.vjp(x, {"logits": np.ones((count, CLASSES), np.float32)}).shape == x.shape


def test_a_relu_that_others_read_is_not_moved():
    body = TRUNK.replace(
        "features = Flatten (pooled)",
        "sum = ReduceMean <keepdims = 1> (active, axes)\nmixed = Add (pooled, sum)\n features = Flatten (mixed)",
    )
    model = small_file(body=body)
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, 3]), "axes"))
    graph = GradientGraph(model, threads=1)
    assert graph.self_check(to_pixels(images(4))).relative_error < 0.1


FOREIGN = """<ir_version: 8, opset_import: ["" : {opset}]>
agraph (float[N,4] x) => (float[N,K] scores)
<float[4,3] w = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3}}, int64[1] one = {{1}}>
{{ y = Tanh (x) z = MatMul (y, w) {tail} }}"""


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
def test_any_float_input_will_do(opset):
    tail = "m = ReduceMax <axes = [1]> (z)" if opset < 18 else "m = ReduceMax (z, one)"
    model = onnx.parser.parse_model(FOREIGN.format(opset=opset, tail=f"{tail} scores = Sub (z, m)"))
    graph = GradientGraph(model, wrt="x", of=["scores"], threads=1)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    assert graph.self_check(x).relative_error < 1e-2


def test_a_fixed_batch_stays_fixed():
    model = onnx.parser.parse_model(FOREIGN.format(opset=18, tail="scores = Identity (z)").replace("[N,4]", "[2,4]"))
    graph = GradientGraph(model, wrt="x", of=["scores"], threads=1)
    x, labels = np.zeros((2, 4), np.float32), np.array([0, 1])
    assert graph.value_and_gradient(CrossEntropy(of="scores"), x, labels=labels).gradient.shape == (2, 4)
    with pytest.raises(UsageError, match=r"expected x as float32 \(2, 4\), got float32 \(3, 4\)"):
        graph.logits(np.zeros((3, 4), np.float32))


def foreign(tail, **change):
    text = FOREIGN.format(opset=18, tail=tail)
    for old, new in change.get("replace", {}).items():
        text = text.replace(old, new)
    return onnx.parser.parse_model(text)


def external():
    model = foreign("scores = Identity (z)")
    weights = model.graph.initializer[0]
    weights.CopyFrom(TensorProto(name=weights.name, data_type=TensorProto.FLOAT, dims=weights.dims))
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="weights.bin")
    return model


BAD_MODELS = {
    "external data": (
        external(),
        ModelError,
        "expected an ONNX model, got graph 'agraph': its weights are in other files",
    ),
    "not onnx": (b"not a model", ModelError, "expected an ONNX model, got 11 bytes: "),
    "empty": (b"", ModelError, "expected an ONNX model, got 0 bytes: "),
    "missing file": (
        "/nowhere/model.onnx",
        ModelError,
        "expected an ONNX model, got /nowhere/model.onnx: .*No such file.*; check the path",
    ),
    "another domain": (
        foreign("scores = ai.acme.Relu (z)", replace={'["" : 18]': '["" : 18, "ai.acme" : 1]'}),
        ModelError,
        "expected plain ai.onnx operators, got ai.acme.Relu 'scores'",
    ),
    "float64": (
        foreign("scores = Identity (z)", replace={"float[": "double["}),
        ModelError,
        "expected tensor 'x' to be float32, got double; attack the model's float32 twin",
    ),
    "second input": (
        foreign("scores = Add (z, noise)", replace={"float[N,4] x)": "float[N,4] x, float[N,3] noise)"}),
        ModelError,
        "depend on 'x' alone, got a graph that also reads noise",
    ),
    "shapes that disagree": (
        foreign("scores = MatMul (z, w)"),
        ModelError,
        "expected the shape of 'scores' to follow from the input, got none|expected a model whose shapes agree",
    ),
    "not two axes": (
        foreign("scores = Unsqueeze (z, one)"),
        UsageError,
        r"expected 'scores' to be logits \(N, K\) with a fixed K, got ",
    ),
}


@pytest.mark.parametrize(("model", "error", "message"), BAD_MODELS.values(), ids=BAD_MODELS.keys())
def test_refuses_a_bad_model(model, error, message):
    with pytest.raises(error, match=message):
        GradientGraph(model, wrt="x", of=["scores"], threads=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            {"wrt": "input"},
            "expected `wrt` to name a tensor of the model, got 'input'; its inputs are images",
            id="wrt",
        ),
        pytest.param(
            {"of": ["logits", "scores"]},
            "expected `of` to name tensors of the model, got scores; its outputs are labels, accepted, logits",
            id="of",
        ),
        pytest.param({"of": []}, "expected `of` to name tensors", id="no of"),
        pytest.param(
            {"of": ["labels"]}, r"expected 'labels' to be logits|expected tensor 'labels' to be float32", id="labels"
        ),
        pytest.param(
            {"of": ["threshold"]}, "expected `of` to name tensors of the model, got threshold", id="a constant"
        ),
        pytest.param({"wrt": "images"}, "expected tensor 'images' to be float32, got uint8", id="wrt images"),
    ],
)
def test_refuses_bad_names(arguments, message):
    with pytest.raises((UsageError, ModelError), match=message):
        GradientGraph(small_file(), threads=1, **arguments)


def test_names_the_inputs_of_a_file_without_logits():
    with pytest.raises(UsageError, match="got neither of logits, robust_logits; its outputs are scores"):
        GradientGraph(foreign("scores = Identity (z)"), wrt="x")


def test_refuses_a_device_that_is_not_there():
    with pytest.raises(DeviceError, match="cuda"):
        GradientGraph(small_file(), device="cuda").logits(to_pixels(images(1)))


ONES = np.ones((2, CLASSES), np.float32)
PIXELS = to_pixels(images(2))

BAD_CALLS = {
    "float64 pixels": (
        lambda g: g.logits(PIXELS.astype(np.float64)),
        r"expected pixels as float32 \(N, 1, 6, 5\), got float64",
    ),
    "channels last": (
        lambda g: g.logits(PIXELS.transpose(0, 2, 3, 1)),
        r"expected pixels as float32 \(N, 1, 6, 5\), got float32 \(2, 6, 5, 1\)",
    ),
    "one image": (lambda g: g.logits(PIXELS[0]), r"got float32 \(1, 6, 5\)"),
    "no cotangent": (lambda g: g.vjp(PIXELS, {}), "expected logits among logits, robust_logits, got none"),
    "unknown cotangent": (lambda g: g.vjp(PIXELS, {"z": ONES}), "expected logits among logits, robust_logits, got z"),
    "cotangent shape": (
        lambda g: g.vjp(PIXELS, {"logits": ONES[:1]}),
        r"expected cotangent of logits as float32 \(2, 3\), got float32 \(1, 3\)",
    ),
    "unknown logits": (
        lambda g: g.value_and_gradient(CrossEntropy(of="unlocked_logits"), PIXELS, labels=np.zeros(2, int)),
        "expected logits among logits, robust_logits, got unlocked_logits; name them in `of`",
    ),
    "no labels": (
        lambda g: g.value_and_gradient(CrossEntropy(), PIXELS),
        r"expected inputs \['labels'\] for CrossEntropy",
    ),
    "labels out of range": (
        lambda g: g.value_and_gradient(CrossEntropy(), PIXELS, labels=np.array([0, 3])),
        r"expected labels in \[0, 3\), got 0 to 3",
    ),
    "too few labels": (
        lambda g: g.value_and_gradient(CrossEntropy(), PIXELS, labels=np.array([0])),
        r"expected labels as float32 \(2, 3\), got float32 \(1, 3\)",
    ),
    "classes of another batch": (
        lambda g: g.jacobian(PIXELS, classes=np.zeros((3, 1), int)),
        r"expected classes as integers \(2, R\), got int64 \(3, 1\)",
    ),
    "classes out of range": (
        lambda g: g.jacobian(PIXELS, classes=np.array([[0], [-1]])),
        r"expected classes in \[0, 3\), got -1 to 0",
    ),
    "self-check of nothing": (lambda g: g.self_check(PIXELS[:0]), "expected at least one image"),
}


@pytest.mark.parametrize(("call", "message"), BAD_CALLS.values(), ids=BAD_CALLS.keys())
def test_refuses_bad_arguments(graph, call, message):
    with pytest.raises(UsageError, match=message):
        call(graph)


def test_one_hot_rows_are_taken_as_they_are(graph):
    labels = np.array([2, 0])
    by_label = graph.value_and_gradient(CrossEntropy(), PIXELS, labels=labels)
    by_row = graph.value_and_gradient(CrossEntropy(), PIXELS, labels=np.eye(CLASSES, dtype=np.float32)[labels])
    np.testing.assert_array_equal(by_row.gradient, by_label.gradient)


@pytest.mark.parametrize("op_type", ["Conv", "Relu", "Flatten"])
def test_self_check_notices_a_wrong_rule(op_type, monkeypatch):
    wrong = {
        "Conv": lambda tape, node, grad: [tape.op("Neg", RULES_BEFORE["Conv"](tape, node, grad)[0])],
        "Relu": lambda tape, node, grad: [grad],
        "Flatten": lambda tape, node, grad: [
            tape.op("Mul", RULES_BEFORE["Flatten"](tape, node, grad)[0], tape.constant(2.0))
        ],
    }
    monkeypatch.setitem(RULES, op_type, wrong[op_type])
    graph = GradientGraph(small_file(pair=False), threads=1)
    assert graph.self_check(to_pixels(images(8))).relative_error > 0.2


RULES_BEFORE = dict(RULES)
