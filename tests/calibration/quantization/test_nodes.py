import numpy as np
import onnx
import pytest

from calibration.quantization.nodes import cut_network, float_choices, put_network
from runtime.errors import ModelError
from runtime.session import create_session
from tests.calibration.conv_guards import guard_file


def proto(kind="locked"):
    return onnx.load_model_from_string(guard_file(kind))


def made_by(network, names):
    """The tensors that some nodes make."""
    return {output for node in network.graph.node if node.name in names for output in node.output}


def test_the_network_goes_from_pixels_to_the_logits():
    network = cut_network(proto())
    assert [value.name for value in network.graph.input] == ["pixels"]
    assert [value.name for value in network.graph.output] == ["unlocked_logits", "logits", "robust_logits"]
    assert not any("rule" in name for node in network.graph.node for name in node.output)
    names = [node.name for node in network.graph.node]
    assert len(set(names)) == len(names)
    assert "" not in names


def test_an_inner_tensor_that_others_read_is_an_output():
    model = proto("pair")
    model.graph.node.append(onnx.helper.make_node("ReduceSum", ["features"], ["watched"]))
    assert [value.name for value in cut_network(model).graph.output] == ["logits", "robust_logits", "features"]


def test_without_pixels():
    model = proto("single")
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["values" if name == "pixels" else name for name in names]
    with pytest.raises(ModelError, match="expected logits that follow from 'pixels' alone, got"):
        cut_network(model)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("single", {"nothing": set(), "heads": {"logits"}}),
        ("pair", {"nothing": set(), "heads": {"logits", "robust_logits"}}),
        (
            "locked",
            {
                "nothing": set(),
                "lock": {"hidden", "opened", "key", "logits"},
                "heads and lock": {"hidden", "opened", "key", "logits", "unlocked_logits", "robust_logits"},
            },
        ),
    ],
    ids=["single", "pair", "locked"],
)
def test_what_may_stay_in_float(kind, expected):
    network = cut_network(proto(kind))
    assert {word: made_by(network, names) for word, names in float_choices(network).items()} == expected


def test_a_head_of_two_nodes_stays_whole():
    model = proto("single")
    gemm = next(node for node in model.graph.node if "logits" in node.output)
    place = list(model.graph.node).index(gemm)
    gemm.output[0] = "bare"
    model.graph.node.insert(place + 1, onnx.helper.make_node("Identity", ["bare"], ["logits"]))
    network = cut_network(model)
    assert made_by(network, float_choices(network)["heads"]) == {"bare", "logits"}


@pytest.mark.parametrize("kind", ["single", "pair", "locked"])
def test_putting_the_same_network_back_changes_nothing(kind):
    model = proto(kind)
    network = cut_network(model)
    again = put_network(model, network, instead_of=network)
    onnx.checker.check_model(again, full_check=True)
    assert not again.metadata_props
    images = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 1), np.uint8)
    bare = onnx.ModelProto.FromString(model.SerializeToString())
    del bare.metadata_props[:]
    before, after = (
        create_session(one.SerializeToString(), device="cpu", threads=1).run(None, {"images": images})
        for one in (bare, again)
    )
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
