import numpy as np
import pytest
import torch

from calibration.gradients import GradientGraph
from calibration.objectives import CrossEntropy
from tests.calibration.torch_networks import NETWORKS, exported

BATCHES = pytest.mark.parametrize("count", [1, 2, 7])


@pytest.fixture(scope="session", params=NETWORKS.values(), ids=NETWORKS.keys())
def pair(request):
    """A torch network in evaluation mode, the gradient graph of its export, and the shape of its images."""
    build, shape, opset = request.param
    torch.manual_seed(0)
    module = build()
    module(torch.rand(8, *shape))
    module.eval()
    return module, GradientGraph(exported(module, shape, opset), threads=1), shape


def images(shape, count):
    return np.random.default_rng(count).random((count, *shape), dtype=np.float32)


def assert_close(actual, expected):
    """Relative error at most 1e-5 in the L2 norm and 1e-4 in the largest element."""
    expected = expected.detach().numpy()
    assert actual.shape == expected.shape
    assert actual.dtype == np.float32
    assert np.linalg.norm(actual - expected) <= 1e-5 * np.linalg.norm(expected)
    assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()


def torch_jacobian(module, x):
    z = module(x)
    rows = [torch.autograd.grad(z[:, k].sum(), x, retain_graph=True)[0] for k in range(z.shape[1])]
    return z, torch.stack(rows, dim=1)


@BATCHES
def test_logits_and_jacobian_agree_with_torch(pair, count):
    module, graph, shape = pair
    x = images(shape, count)
    z, rows = torch_jacobian(module, torch.tensor(x, requires_grad=True))
    logits, jacobian = graph.logits_and_jacobian(x)
    assert_close(logits["logits"], z)
    assert_close(jacobian["logits"], rows)
    np.testing.assert_array_equal(graph.jacobian(x)["logits"], jacobian["logits"])
    np.testing.assert_allclose(graph.logits(x)["logits"], logits["logits"], rtol=0, atol=1e-5)


@BATCHES
def test_vjp_agrees_with_torch(pair, count):
    module, graph, shape = pair
    x = torch.tensor(images(shape, count), requires_grad=True)
    cotangents = torch.randn(count, graph.classes["logits"], generator=torch.Generator().manual_seed(0))
    (module(x) * cotangents).sum().backward()
    assert_close(graph.vjp(x.detach().numpy(), {"logits": cotangents.numpy()}), x.grad)


@BATCHES
@pytest.mark.parametrize("targeted", [False, True], ids=["labels", "targets"])
def test_cross_entropy_agrees_with_torch(pair, count, targeted):
    module, graph, shape = pair
    x = torch.tensor(images(shape, count), requires_grad=True)
    labels = np.arange(count) % graph.classes["logits"]
    loss = torch.nn.functional.cross_entropy(module(x), torch.tensor(labels), reduction="none") * (
        -1 if targeted else 1
    )
    loss.sum().backward()
    inputs = {"targets" if targeted else "labels": labels}
    result = graph.value_and_gradient(CrossEntropy(targeted=targeted), x.detach().numpy(), **inputs)
    assert_close(result.loss, loss)
    assert_close(result.gradient, x.grad)
    assert_close(result.logits["logits"], module(x))


def test_rows_of_the_jacobian_are_vjps(pair):
    _, graph, shape = pair
    x, k = images(shape, 3), graph.classes["logits"]
    jacobian = graph.jacobian(x)["logits"]
    for row in range(k):
        cotangents = np.zeros((3, k), dtype=np.float32)
        cotangents[:, row] = 1
        expected = graph.vjp(x, {"logits": cotangents})
        np.testing.assert_allclose(jacobian[:, row], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_jacobian_of_chosen_classes(pair):
    _, graph, shape = pair
    x = images(shape, 3)
    full = graph.jacobian(x)["logits"]
    classes = np.array([[1, 0], [2, 2], [0, 3]])
    chosen = graph.jacobian(x, classes=classes)["logits"]
    np.testing.assert_array_equal(chosen, full[np.arange(3)[:, None], classes])


def test_rows_do_not_depend_on_their_neighbours(pair):
    _, graph, shape = pair
    x = images(shape, 5)
    cotangents = np.ones((5, graph.classes["logits"]), dtype=np.float32)
    whole = graph.vjp(x, {"logits": cotangents})
    x[1:] = 0
    np.testing.assert_array_equal(graph.vjp(x, {"logits": cotangents})[0], whole[0])


def test_self_check_passes(pair):
    _, graph, shape = pair
    check = graph.self_check(images(shape, 4))
    assert check.images == 4
    assert check.relative_error < 0.1
