import numpy as np
import pytest
from onnx import helper

from calibration.evaluation.logits_check import check_logits
from calibration.gradients import GradientGraph
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
