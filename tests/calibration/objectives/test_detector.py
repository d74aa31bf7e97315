import numpy as np
import onnx.parser
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from calibration.attacks.pgd import Pgd
from calibration.gradients import GradientGraph
from calibration.judge import Judge
from calibration.objectives.detector import QuietConfidence
from calibration.objectives.rule import LargestConfidence
from calibration.pixels import to_pixels
from calibration.rules import assemble
from calibration.stamping import stamp
from runtime.artifact import read_artifact
from runtime.errors import UsageError
from tests.calibration.guards import SHAPE, dataset, document, network


@pytest.mark.parametrize("targeted", [False, True], ids=["any wrong label", "targets"])
def test_loss_and_gradient_equal_torch(targeted):
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 18]>'
        "agraph (float[N,7] z) => (float[N,4] logits, float[N,3] anomalies)"
        " { parts = Constant<value_ints = [4, 3]>() logits, anomalies = Split <axis = 1> (z, parts) }"
    )
    graph = GradientGraph(model, wrt="z", of=("logits", "anomalies"), threads=1)
    labels = np.arange(12) % 4
    z = np.random.default_rng(0).normal(0, 2, size=(12, 7)).astype(np.float32)
    z[:, :4] *= 10  # logits that are not small
    exact = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    log_p = torch.log_softmax(exact[:, :4], dim=1)
    wrong = torch.stack([row[np.arange(4) != y].max() for row, y in zip(log_p, labels, strict=True)])
    confidence = log_p[np.arange(12), labels] if targeted else wrong
    expected = confidence - 10 * (exact[:, 4:] - 0.95).clamp(min=0).sum(1)
    expected.sum().backward()
    name = "targets" if targeted else "labels"
    found = graph.value_and_gradient(QuietConfidence(targeted=targeted), z, **{name: labels})
    np.testing.assert_allclose(found.loss, expected.detach(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.gradient, exact.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("option", [{"penalty": 0.0}, {"limit": 0.0}, {"limit": 1.1}], ids=str)
def test_values_out_of_range(option):
    with pytest.raises(UsageError, match=r"expected penalty > 0 and limit in \(0, 1\], got"):
        QuietConfidence(**option)


def test_whoever_knows_the_detectors_gets_past_them():
    data = dataset(noise=0.1)
    model = detecting_guard(data)
    pixels, labels = to_pixels(data.test.images[:80]), data.test.labels[:80]
    judge = Judge(read_artifact(model), device="cpu", threads=1)
    assert judge.verdicts(pixels).accepted.mean() > 0.9
    fooled = {}
    for objective in (LargestConfidence(), QuietConfidence()):
        graph = GradientGraph(model, of=objective.reads, device="cpu", threads=1)
        attack = Pgd(epsilon=0.3, steps=40, restarts=1, objective=objective)
        verdicts = judge.verdicts(attack(graph, pixels, labels).x_adv)
        fooled[type(objective)] = float((verdicts.accepted & (verdicts.labels != labels)).mean())
    assert fooled[LargestConfidence] < 0.6
    assert fooled[QuietConfidence] > 0.8


def detecting_guard(data):
    """Nearest template, and detectors that read the image along three directions in which benign images hardly vary."""
    model, images = network(pair=False), to_pixels(data.test.images).reshape(240, 30)
    directions = np.linalg.eigh(np.cov(images.T))[1][:, :3].astype(np.float32)
    middle = (images @ directions).mean(axis=0)
    spread = np.abs(images @ directions - middle).max(axis=0)
    constants = {"directions": directions / spread, "middle": middle / spread}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    model.graph.node.extend(
        [
            helper.make_node("MatMul", ["flat", "directions"], ["along"]),
            helper.make_node("Sub", ["along", "middle"], ["away"]),
            helper.make_node("Abs", ["away"], ["anomalies"]),
        ]
    )
    model.graph.output.append(helper.make_tensor_value_info("anomalies", TensorProto.FLOAT, ["N", 3]))
    guard = assemble(model, rule="detector", classmap=None, threshold=0.0, input_shape=SHAPE)
    return stamp(guard, document(guard) | {"rule": "detector"})
