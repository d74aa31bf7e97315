import numpy as np
import pytest
import torch

from calibration.gradients import GradientGraph
from calibration.objectives import CrossEntropy
from calibration.pixels import to_pixels
from calibration.rules import assemble
from cmt_export.exporting import export_network
from cmt_export.networks import build_network, s_mnist_trunk

SHAPE = (1, 8, 8)
CLASSMAP = (1, 2, 3, 0)
HEADS = ("logits", "robust_logits", "unlocked_logits")


@pytest.fixture(scope="module")
def exported():
    """A dual-head network with a gradient lock, and its file with the reject rule inside."""
    torch.manual_seed(0)
    network = build_network(s_mnist_trunk, input_shape=SHAPE, classes=4, dual=True, lock="trained").eval()
    bare = export_network(network, SHAPE, opset=18)
    return network, assemble(bare, rule="pair", classmap=CLASSMAP, threshold=0.0, input_shape=(8, 8, 1))


@pytest.fixture(scope="module")
def pixels():
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), dtype=np.uint8)
    return to_pixels(images)


@pytest.mark.parametrize("head", HEADS)
def test_every_head_of_an_exported_guard_agrees_with_torch(exported, pixels, head):
    network, model = exported
    graph = GradientGraph(model, of=[head], threads=1)
    x = torch.tensor(pixels, requires_grad=True)
    labels = np.array([0, 1, 2, 3, 0])
    z = getattr(network(x), head)
    torch.nn.functional.cross_entropy(z, torch.tensor(labels), reduction="sum").backward()
    result = graph.value_and_gradient(CrossEntropy(of=head), pixels, labels=labels)
    np.testing.assert_allclose(result.logits[head], z.detach().numpy(), rtol=1e-5, atol=1e-6)
    expected = x.grad.numpy()
    np.testing.assert_allclose(result.gradient, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_the_default_is_what_the_rule_reads(exported):
    assert GradientGraph(exported[1], threads=1).of == ("logits", "robust_logits")
