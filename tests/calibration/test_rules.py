from functools import cache

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper
from onnx.utils import Extractor

from calibration.pixels import to_pixels
from calibration.rules import OPSETS, assemble
from runtime.errors import ModelError, UsageError
from runtime.session import create_session
from tests.calibration.guards import CLASSMAP, SHAPE, assembled, dataset, network

OUTPUTS = ["labels", "accepted", "confidence"]
WIDTHS = (2, 3, 4, 7, 8, 10, 33)
READ = {"pair": ("logits", "robust_logits"), "confidence": ("logits",), "detector": ("logits", "anomalies")}


def derangement(k):
    """A partner for each class that is neither itself nor, beyond two classes, its own partner's partner."""
    return tuple((label + 1) % k for label in range(k))


def passing_through(k, *, rule, opset=18):
    """A network whose pixels, one row of K values for each output, are what the rule reads."""
    names = READ[rule]
    heads = len(names)
    nodes = [
        helper.make_node("Flatten", ["pixels"], ["flat"], axis=1),
        helper.make_node("Split", ["flat"], names, axis=1, num_outputs=heads)
        if heads > 1
        else helper.make_node("Identity", ["flat"], names),
    ]
    graph = helper.make_graph(
        nodes,
        "through",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 1, 1, heads * k])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", k]) for name in names],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


@cache
def rule_session(rule, k, opset=18):
    """The rule alone, from pixels on, with its threshold as one more input."""
    heads = len(READ[rule])
    model = assemble(
        passing_through(k, rule=rule, opset=opset),
        rule=rule,
        classmap=derangement(k) if rule == "pair" else None,
        threshold=0.0,
        input_shape=(1, heads * k, 1),
    )
    part = Extractor(model).extract_model(["pixels"], OUTPUTS)
    part.graph.input.append(helper.make_tensor_value_info("threshold", TensorProto.FLOAT, []))
    return create_session(part.SerializeToString(), device="cpu", threads=1)


def run_rule(rule, *heads, threshold=0.0, opset=18):
    n, k = heads[0].shape
    pixels = np.concatenate(heads, axis=1).reshape(n, 1, 1, -1)
    feeds = {"pixels": pixels, "threshold": np.asarray(threshold, np.float32)}
    return rule_session(rule, k, opset).run(OUTPUTS, feeds)


def softmax(z):
    with np.errstate(all="ignore"):
        powers = np.exp(z.astype(np.float64) - z.max())
        return powers / powers.sum()


def decide(rule, z, other=None, *, threshold=0.0):
    """One row of the rule in words: an oracle that shares nothing with the graph."""
    everything = z if other is None else np.concatenate([z, other])
    if not np.isfinite(everything).all():
        return -1, False, 0.0
    label = int(np.argmax(z))
    confidence, agrees = softmax(z)[label], True
    if rule == "detector":
        agrees = max(other) <= 1
    if rule == "pair":
        partner = derangement(len(z))[label]
        confidence *= softmax(other)[partner]
        agrees = int(np.argmax(other)) == partner
    return label, agrees and confidence >= threshold, confidence


def assert_decides(rule, heads, threshold=0.0, opset=18):
    labels, accepted, confidence = run_rule(rule, *heads, threshold=threshold, opset=opset)
    assert (labels.dtype, accepted.dtype, confidence.dtype) == (np.int32, np.bool_, np.float32)
    for row, values in enumerate(zip(*heads, strict=True)):
        label, accept, sure = decide(rule, *values, threshold=threshold)
        assert labels[row] == label
        assert confidence[row] == pytest.approx(sure, abs=1e-5)
        if abs(sure - threshold) > 1e-5:
            assert accepted[row] == accept


FINITE = st.floats(-(2.0**99), 2.0**99, width=32)
NEARBY = st.floats(-20, 20, width=32)
TIED = st.sampled_from([-1.0, 0.0, 1.0])
BROKEN = st.one_of(NEARBY, st.sampled_from([np.nan, np.inf, -np.inf]))
KINDS = st.sampled_from([st.one_of(FINITE, NEARBY, TIED), NEARBY, TIED, BROKEN])


@st.composite
def two_heads(draw):
    shape = draw(st.sampled_from([1, 2, 5])), draw(st.sampled_from(WIDTHS))
    values = draw(KINDS)
    return [draw(arrays.arrays(np.float32, shape, elements=values)) for _ in range(2)]


@settings(max_examples=150, deadline=None)
@given(heads=two_heads(), threshold=st.floats(0, 1, width=32))
def test_pair_rule_decides_as_written(heads, threshold):
    assert_decides("pair", heads, threshold)


@settings(max_examples=100, deadline=None)
@given(heads=two_heads(), threshold=st.floats(0, 1, width=32))
@example(heads=[np.array([[np.nan, 1]], np.float32)] * 2, threshold=0.0)
def test_confidence_rule_decides_as_written(heads, threshold):
    assert_decides("confidence", heads[:1], threshold)


@settings(max_examples=100, deadline=None)
@given(heads=two_heads(), threshold=st.floats(0, 1, width=32))
@example(
    heads=[np.zeros((3, 2), np.float32), np.array([[1, 0.5], [0, np.nextafter(1, 2)], [0, 0]], np.float32)],
    threshold=0.0,
)
@example(heads=[np.zeros((1, 2), np.float32), np.array([[0, np.nan]], np.float32)], threshold=0.0)
def test_detector_rule_decides_as_written(heads, threshold):
    assert_decides("detector", heads, threshold)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize(
    ("rule", "head"),
    [("pair", 0), ("pair", 1), ("detector", 0), ("detector", 1)],
    ids=["logits", "robust_logits", "detected-logits", "anomalies"],
)
@pytest.mark.parametrize("k", WIDTHS)
def test_one_value_that_is_not_finite_anywhere_rejects_its_row_alone(bad, rule, head, k):
    heads = [np.zeros((k + 1, k), np.float32) for _ in range(2)]
    heads[0][:, 0] = 5
    heads[1][:, 1] = 5 if rule == "pair" else 1
    heads[head][np.arange(1, k + 1), np.arange(k)] = bad
    labels, accepted, confidence = run_rule(rule, *heads)
    assert labels.tolist() == [0, *[-1] * k]
    assert accepted.tolist() == [True, *[False] * k]
    assert (confidence[1:] == 0).all()


@pytest.mark.parametrize("rule", READ)
def test_confidence_equal_to_the_threshold_in_float32_is_accepted(rule):
    heads = [np.random.default_rng(seed).normal(0, 1, (64, 4)).astype(np.float32) for seed in (0, 1)]
    heads = heads[: len(READ[rule])]
    _, passes, confidence = run_rule(rule, *heads)
    assert passes.any()
    for row in np.flatnonzero(passes):
        row_heads = [values[row : row + 1] for values in heads]
        assert run_rule(rule, *row_heads, threshold=confidence[row])[1][0]
        above = np.nextafter(confidence[row], np.float32(2), dtype=np.float32)
        assert not run_rule(rule, *row_heads, threshold=above)[1][0]


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("rule", READ)
def test_every_opset(rule, opset):
    heads = [np.random.default_rng(seed).normal(0, 3, (9, 5)).astype(np.float32) for seed in (0, 1)]
    assert_decides(rule, heads[: len(READ[rule])], 0.3, opset=opset)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_images_become_pixels_bit_for_bit_at_every_batch_size(n):
    model = assembled()
    model.graph.output.append(helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 1, 6, 5]))
    session = create_session(model.SerializeToString(), device="cpu", threads=1)
    images = dataset().test.images[:n]
    pixels, logits, labels = session.run(["pixels", "logits", "labels"], {"images": images})
    np.testing.assert_array_equal(pixels, to_pixels(images))
    assert logits.shape == (n, 4)
    assert labels.tolist() == logits.argmax(axis=1).tolist()


def test_file_keeps_the_contract():
    model = assembled(threshold=0.25, unlocked=True, opset=21)
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    known = {value.name: value.type.tensor_type for value in graph.value_info}
    assert [value.name for value in graph.input] == ["images"]
    assert {value.name for value in graph.output} == {*OUTPUTS, "logits", "robust_logits"}
    assert {"pixels", "unlocked_logits"} <= known.keys()
    assert tensors["threshold"].raw_data == np.float32(0.25).tobytes()
    assert np.frombuffer(tensors["classmap"].raw_data, np.int64).tolist() == list(CLASSMAP)
    assert all(tensor.raw_data for tensor in tensors.values())
    assert (model.ir_version, len(model.metadata_props)) == (10, 0)
    assert {entry.domain for entry in model.opset_import} == {""}
    axes = [value.type.tensor_type.shape.dim[0].dim_param for value in (*graph.input, *graph.output)]
    assert set(axes) == {"N"}


def test_traces_of_the_exporter_are_removed_and_the_network_is_left_alone():
    bare = network()
    bare.graph.node[0].doc_string = "/home/someone/model.py"
    bare.graph.node[0].metadata_props.add(key="source", value="/home/someone/model.py")
    before = bare.SerializeToString()
    model = assemble(bare, rule="pair", classmap=CLASSMAP, threshold=0.0, input_shape=SHAPE)
    assert b"someone" not in model.SerializeToString()
    assert bare.SerializeToString() == before


def test_newer_ir_version_is_lowered():
    bare = network()
    bare.ir_version = 11
    model = assemble(bare, rule="pair", classmap=CLASSMAP, threshold=0.0, input_shape=SHAPE)
    assert model.ir_version == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "vote"}, "expected rule 'pair', 'confidence', 'detector', got 'vote'"),
        ({"classmap": None}, "expected a Classmap of 4 labels under rule 'pair', got none"),
        ({"classmap": (1, 0, 3)}, "expected a Classmap of 4 labels under rule 'pair', got 3"),
        ({"classmap": (0, 1, 3, 2)}, "got 0 -> 0"),
        ({"classmap": (1, 0, 3, 4)}, "got 3 -> 4"),
        ({"threshold": 1.5}, r"expected a threshold in \[0, 1\], got 1.5"),
        ({"threshold": float("nan")}, r"expected a threshold in \[0, 1\], got nan"),
        ({"input_shape": (6, 5, 0)}, r"expected an input shape \(H, W, C\)"),
    ],
    ids=["rule", "no classmap", "short classmap", "fixed point", "label range", "threshold", "nan", "shape"],
)
def test_wrong_arguments(options, message):
    arguments = {"rule": "pair", "classmap": CLASSMAP, "threshold": 0.0, "input_shape": SHAPE} | options
    with pytest.raises(UsageError, match=message):
        assemble(network(), **arguments)


def test_classmap_under_rule_confidence_is_refused():
    with pytest.raises(UsageError, match="expected no Classmap under rule 'confidence'"):
        assemble(network(pair=False), rule="confidence", classmap=CLASSMAP, threshold=0.0, input_shape=SHAPE)


def test_detectors_may_be_any_number():
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["pixels"], ["flat"], axis=1),
            helper.make_node("Split", ["flat", "sizes"], ["logits", "anomalies"], axis=1),
        ],
        "split",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 1, 1, 7])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4]),
            helper.make_tensor_value_info("anomalies", TensorProto.FLOAT, ["N", 3]),
        ],
        [helper.make_tensor("sizes", TensorProto.INT64, [2], [4, 3])],
    )
    bare = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    model = assemble(bare, rule="detector", classmap=None, threshold=0.0, input_shape=(1, 7, 1))
    (known,) = [value for value in model.graph.value_info if value.name == "anomalies"]
    assert [axis.dim_param or axis.dim_value for axis in known.type.tensor_type.shape.dim] == ["N", 3]
    assert {value.name for value in model.graph.output} == {*OUTPUTS, "logits"}


def test_detectors_that_read_nothing_are_refused():
    with pytest.raises(ModelError, match=r"expected a network with the outputs \['anomalies', 'logits'\]"):
        assemble(network(pair=False), rule="detector", classmap=None, threshold=0.0, input_shape=SHAPE)


def rename_input(model):
    model.graph.input[0].name = model.graph.node[0].input[0] = "x"


def rename_output(model):
    model.graph.output[1].name = model.graph.node[2].output[0] = "aux"


def take_name(model):
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = model.graph.node[2].input[0] = "labels"


def old_opset(model):
    model.opset_import[0].version = 13


def foreign_domain(model):
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def local_function(model):
    function = model.functions.add()
    function.name = "f"


def bad_weights(model):
    model.graph.initializer[0].dims[0] = 7
    model.graph.initializer[0].raw_data = bytes(7 * 4 * 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename_input, "the one input 'pixels', got"),
        (rename_output, "got .*'aux'"),
        (take_name, r"rule's tensor names free, got \['labels'\]"),
        (old_opset, "expected operators of ai.onnx 18 to 21 alone, got .*13"),
        (foreign_domain, "expected operators of ai.onnx 18 to 21 alone, got .*com.microsoft"),
        (local_function, "without local functions, got 1"),
        (bad_weights, r"expected a network for images of \(6, 5, 1\), got"),
    ],
    ids=["input", "output", "clash", "opset", "domain", "function", "weights"],
)
def test_networks_of_another_form(change, message):
    bare = network()
    change(bare)
    with pytest.raises(ModelError, match=message):
        assemble(bare, rule="pair", classmap=CLASSMAP, threshold=0.0, input_shape=SHAPE)


def test_checked_in_full():
    onnx.checker.check_model(assembled(), full_check=True)
