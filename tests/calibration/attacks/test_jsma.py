import numpy as np
import pytest
import torch
from torch.autograd.functional import jacobian

from calibration.attacks.jsma import Jsma
from calibration.gradients import GradientGraph
from runtime.errors import ModelError, UsageError
from tests.calibration.attacks.layered import Counting, linear, random_network
from tests.calibration.small_files import CLASSES, HEIGHT, WIDTH, small_file

SALIENCIES = ("probabilities", "logits")


@pytest.fixture(scope="module")
def pair():
    return random_network(pixels=64)


@pytest.fixture(scope="module")
def graph(pair):
    return pair[1]


@pytest.fixture(scope="module")
def sample(graph):
    """Images with limits in them, the labels the network gives but for every fifth, and targets."""
    rng = np.random.default_rng(0)
    x = np.clip(rng.normal(0.4, 0.5, (12, 1, 1, 64)), 0, 1).astype(np.float32)
    labels = graph.logits(x)["logits"].argmax(axis=1)
    labels[::5] = (labels[::5] + 1) % 10
    return x, labels, (labels + rng.integers(1, 10, len(x))) % 10


def restated(network, image, label, attack):
    """Algorithms 2 and 3 with every pair, in float64; `label` is the target of a targeted attack."""
    network = network.double()
    start = torch.tensor(image, dtype=torch.float64)
    x, sign = start.clone(), np.sign(attack.theta) * (1 if attack.targeted else -1)

    def outputs(point):
        logits = network(point[None])[0]
        return logits.softmax(0) if attack.saliency == "probabilities" else logits

    while (outputs(x).argmax().item() == label) != attack.targeted:
        slopes = jacobian(outputs, x).reshape(10, -1)
        alpha = sign * slopes[label]
        beta = sign * (slopes.sum(0) - slopes[label])
        changed = (x != start).flatten()
        free = (x < 1 if attack.theta > 0 else x > 0).flatten()
        if changed.sum() + 2 > attack.gamma * len(changed):
            free &= changed
        gains, losses = alpha[:, None] + alpha, beta[:, None] + beta
        feasible = free[:, None] & free & (gains > 0) & (losses < 0) & ~torch.eye(len(free), dtype=torch.bool)
        if not feasible.any():
            break
        best = torch.where(feasible, -gains * losses, -1.0).argmax().item()
        for place in divmod(best, len(free)):
            x.view(-1)[place] = (x.view(-1)[place] + attack.theta).clamp(0, 1)
    network.float()
    return x.detach().numpy()


@pytest.mark.parametrize("saliency", SALIENCIES)
@pytest.mark.parametrize("targeted", [True, False], ids=["targeted", "non-targeted"])
@pytest.mark.parametrize("theta", [1.0, -1.0, 0.3], ids=["raised", "lowered", "raised little by little"])
def test_equals_the_algorithm_over_every_pair_in_plain_torch(pair, sample, theta, targeted, saliency):
    (network, graph), (x, labels, targets) = pair, sample
    attack = Jsma(theta=theta, gamma=0.2, targeted=targeted, saliency=saliency)
    found = attack(graph, x, labels, targets=targets).x_adv
    told = targets if targeted else labels
    wished = np.stack([restated(network, *one, attack) for one in zip(x, told, strict=True)])
    np.testing.assert_allclose(found, wished, atol=1e-6)
    assert (found != x).any(axis=(1, 2, 3)).sum() > 5


@pytest.mark.parametrize("gamma", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("theta", [1.0, 0.4, -0.4, -1.0])
def test_changes_are_few_one_way_and_valid(theta, gamma):
    rng = np.random.default_rng(1)
    x = rng.uniform(0, 1, (9, 3, HEIGHT, WIDTH)).astype(np.float32)
    labels = rng.integers(0, CLASSES, len(x))
    given = x.copy()
    victim = GradientGraph(small_file(channels=3), of=("logits",), threads=1)
    found = Jsma(theta=theta, gamma=gamma)(victim, x, labels)
    np.testing.assert_array_equal(x, given)
    change = found.x_adv - x
    assert found.x_adv.dtype == np.float32
    assert found.x_adv.min() >= 0
    assert found.x_adv.max() <= 1
    assert (np.sign(theta) * change >= 0).all()
    assert (np.count_nonzero(change, axis=(1, 2, 3)) <= gamma * x[0].size).all()


def test_a_pixel_at_the_limit_is_never_chosen():
    weights = [[0.0] * 5, [9.0, 8.0, 1.0, 2.0, -1.0]]
    x = np.array([1, 0.5, 0.5, 0.5, 0.5], dtype=np.float32).reshape(1, 1, 1, 5)
    graph = linear(weights, [30.0, 0.0])
    once = Jsma(gamma=0.4)(graph, x, np.array([0])).x_adv
    assert once.ravel().tolist() == [1, 1, 0.5, 1, 0.5]
    lowered = Jsma(gamma=0.4, theta=-1.0, targeted=True)(graph, x, np.array([0]), targets=np.array([1])).x_adv
    np.testing.assert_array_equal(lowered, x, "every pair lowers the target")


def test_used_up_pixels_can_change_further():
    x = np.full((1, 1, 1, 5), 0.1, dtype=np.float32)
    graph = linear([[0.0] * 5, [3.0, 4.0, 1.0, 2.0, -1.0]], [9.0, 0.0])
    found = Jsma(gamma=0.5, theta=0.25)(graph, x, np.array([0]))
    np.testing.assert_allclose(found.x_adv.ravel(), [1, 1, 0.1, 0.1, 0.1])
    assert found.gradients.tolist() == [5]


@pytest.mark.parametrize("targeted", [True, False], ids=["targeted", "non-targeted"])
def test_confidence_does_not_hide_the_way(targeted):
    """The wrong label's probability is exp(−20000), and so is its derivative."""
    graph = linear([[0.0] * 4, [1e4, 3e4, 2e4, 0.0], [0.0] * 4], [2e4, 0.0, -1e4])
    x = np.zeros((1, 1, 1, 4), dtype=np.float32)
    found = Jsma(targeted=targeted, gamma=0.5)(graph, x, np.array([0]), targets=np.array([1]))
    assert found.x_adv.ravel().tolist() == [0, 1, 1, 0]
    assert not found.no_gradient.any()


@pytest.mark.parametrize("saliency", SALIENCIES)
def test_finished_images_cost_nothing_more_whatever_the_batch(graph, sample, saliency):
    x, labels, _ = sample
    attack = Jsma(saliency=saliency)
    victim = Counting(graph)
    found = attack(victim, x, labels)
    assert sum(victim.gradients) == found.gradients.sum()
    each = 1 if saliency == "probabilities" else 2
    np.testing.assert_array_equal(found.gradients[::5], each)
    np.testing.assert_array_equal(found.x_adv[::5], x[::5])
    assert len(np.unique(found.gradients)) > 2
    for batch_size in (1, 5):
        again = attack(graph, x, labels, batch_size=batch_size)
        np.testing.assert_array_equal(again.x_adv, found.x_adv)
        np.testing.assert_array_equal(again.gradients, found.gradients)


@pytest.mark.parametrize("saliency", SALIENCIES)
def test_a_flat_network_is_reported_and_left_at_once(saliency):
    x = np.full((2, 1, 1, 4), 0.5, dtype=np.float32)
    found = Jsma(saliency=saliency)(linear(np.zeros((3, 4)), [1.0, 0.0, 0.0]), x, np.array([0, 1]))
    assert found.no_gradient.tolist() == [True, False]
    np.testing.assert_array_equal(found.x_adv, x)


@pytest.mark.parametrize("saliency", SALIENCIES)
def test_infinite_gradients_are_an_error(saliency):
    graph = linear([[0.0, np.inf], [0.0, 1.0]], [0.0, 0.0])
    with pytest.raises(ModelError, match="expected finite gradients, got NaN or infinity for"):
        Jsma(saliency=saliency)(graph, np.full((1, 1, 1, 2), 0.5, dtype=np.float32), np.array([0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"theta": 0.0}, "expected theta of at least one grey level, 1/255, and at most 1, up or down, got 0.0"),
        ({"theta": -1.5}, "expected theta of at least one grey level, .* got -1.5"),
        ({"theta": float("nan")}, "expected theta of at least one grey level"),
        ({"gamma": 0.0}, r"expected gamma in \(0, 1\], got 0.0"),
        ({"gamma": 14.5}, r"expected gamma in \(0, 1\], got 14.5"),
        ({"saliency": "softmax"}, "expected saliency as probabilities or logits, got 'softmax'"),
    ],
    ids=["no theta", "theta", "theta that is no number", "no gamma", "gamma in percent", "saliency"],
)
def test_values_out_of_range(options, message):
    with pytest.raises(UsageError, match=message):
        Jsma(**options)


def test_targets_are_missing(graph, sample):
    x, labels, _ = sample
    with pytest.raises(UsageError, match="jsma: expected targets, got none; pass them"):
        Jsma(targeted=True)(graph, x, labels)
