import numpy as np
import pytest
from onnx import helper, numpy_helper

from calibration.evaluation.logits_check import check_logits, require_logits_of_file
from calibration.gradients import GradientGraph
from runtime.errors import ModelError
from tests.calibration.guards import network

PIXELS = np.random.default_rng(0).random((8, 1, 6, 5), dtype=np.float32)


def squashed(operator):
    """The network with one more operator in front of its logits."""
    model = network(pair=False)
    node = next(node for node in model.graph.node if "logits" in node.output)
    node.output[0] = "scores"
    axis = {"axis": 1} if operator in ("Softmax", "LogSoftmax") else {}
    model.graph.node.append(helper.make_node(operator, ["scores"], ["logits"], **axis))
    return model.SerializeToString()


def check(model, of=("logits",)):
    return check_logits("net.onnx", model, GradientGraph(model, of=of, device="cpu", threads=1), PIXELS)


def test_logits_are_logits():
    one, two = check(network().SerializeToString(), of=("logits", "robust_logits"))
    assert (one.tensor, one.operator, one.probabilities) == ("logits", "Gemm", False)
    assert (two.file, two.tensor, two.probabilities) == ("net.onnx", "robust_logits", False)


@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax", "Sigmoid"])
def test_operators_that_squash(operator):
    (found,) = check(squashed(operator))
    assert (found.operator, found.probabilities) == (operator, True)


def test_shares_behind_another_operator():
    model = network(pair=False)
    node = next(node for node in model.graph.node if "logits" in node.output)
    node.output[0] = "scores"
    model.graph.node.append(helper.make_node("Softmax", ["scores"], ["shares"], axis=1))
    model.graph.node.append(helper.make_node("Identity", ["shares"], ["logits"]))
    (found,) = check(model.SerializeToString())
    assert (found.operator, found.probabilities) == ("Identity", True)


@pytest.mark.parametrize("of", [("logits",), ("logits", "robust_logits")])
def test_a_gradient_graph_has_the_logits_of_its_file(of):
    model = network().SerializeToString()
    require_logits_of_file("net.onnx", model, GradientGraph(model, of=of, device="cpu", threads=1), PIXELS)


def test_a_gradient_graph_of_another_network_is_refused():
    model, other = network(), network()
    weights = next(tensor for tensor in other.graph.initializer if len(tensor.dims) == 2)
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * np.float32(1.1), weights.name))
    graph = GradientGraph(other.SerializeToString(), of=("logits", "robust_logits"), device="cpu", threads=1)
    with pytest.raises(ModelError, match=r"net\.onnx: expected the gradient graph to give (robust_)?logits as"):
        require_logits_of_file("net.onnx", model.SerializeToString(), graph, PIXELS)
