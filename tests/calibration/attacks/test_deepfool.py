import numpy as np
import pytest
import torch

from calibration.attacks.deepfool import DeepFool
from runtime.errors import ModelError, UsageError
from tests.calibration.attacks.layered import Counting, linear, random_network

NORMS = ("linf", "l2")
ORDERS = {"linf": np.inf, "l2": 2}
DUALS = {"linf": 1, "l2": 2}


@pytest.fixture(scope="module")
def pair():
    return random_network(pixels=144)


@pytest.fixture(scope="module")
def graph(pair):
    return pair[1]


@pytest.fixture(scope="module")
def sample(graph):
    """Images with limits in them and the labels the network gives, but for every seventh."""
    rng = np.random.default_rng(0)
    x = np.clip(rng.normal(0.4, 0.5, (20, 1, 1, 144)), 0, 1).astype(np.float32)
    labels = graph.logits(x)["logits"].argmax(axis=1)
    labels[::7] = (labels[::7] + 1) % 10
    return x, labels


def size(change, norm):
    return np.linalg.norm(change.reshape(len(change), -1), ord=ORDERS[norm], axis=1)


def restated(network, image, label, attack):
    """One image, one class and one step at a time, in float64."""
    network = network.double()
    start = torch.tensor(image, dtype=torch.float64)[None]
    x, tried = start.clone(), start.clone()
    for step in range(attack.steps):
        with torch.no_grad():
            ranked = network(tried)[0].argsort(descending=True).tolist()
        if ranked[0] != label:
            break
        x = x.detach().requires_grad_()
        logits, shortest = network(x)[0], None
        wrong = [k for k in ranked if k != label][: attack.followed if step else attack.candidates]
        for k in wrong:
            (slope,) = torch.autograd.grad(logits[k] - logits[label], x, retain_graph=True)
            if step:
                slope = slope.where(~(((x == 0) & (slope < 0)) | ((x == 1) & (slope > 0))), torch.tensor(0.0).double())
            length = slope.norm(p=DUALS[attack.norm])
            distance = (logits[label] - logits[k]).abs() / length
            if shortest is None or distance < shortest[0]:
                shortest = distance, slope.sign() if attack.norm == "linf" else slope / length
        x = (x + attack.step_size * shortest[0] * shortest[1]).clamp(0, 1).detach()
        tried = (start + (1 + attack.overshoot) * (x - start)).clamp(0, 1)
    network.float()
    return tried[0].numpy()


@pytest.mark.parametrize(
    "options",
    [{}, {"overshoot": 0.3}, {"step_size": 0.6}, {"candidates": 3, "followed": 1}],
    ids=["defaults", "overshoot", "shorter steps", "fewer classes"],
)
@pytest.mark.parametrize("norm", NORMS)
def test_equals_the_algorithm_in_plain_torch(pair, sample, norm, options):
    (network, graph), (x, labels) = pair, sample
    attack = DeepFool(norm=norm, steps=6, **options)
    found = attack(graph, x, labels).x_adv
    wished = np.stack([restated(network, *told, attack) for told in zip(x, labels, strict=True)])
    np.testing.assert_allclose(found, wished, atol=2e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_linear_classifier_is_left_by_the_shortest_way(norm):
    rng = np.random.default_rng(1)
    weights, x = rng.normal(size=(6, 40)), np.full((15, 1, 1, 40), 0.5, dtype=np.float32)
    x += rng.uniform(-0.05, 0.05, x.shape).astype(np.float32)
    logits = x.reshape(15, 40) @ weights.T
    labels = logits.argmax(axis=1)
    gaps = logits.max(axis=1, keepdims=True) - logits
    slopes = np.linalg.norm(weights[None] - weights[labels][:, None], ord=DUALS[norm], axis=2)
    nearest = np.where(gaps > 0, gaps / np.maximum(slopes, 1e-9), np.inf).min(axis=1)
    found = DeepFool(norm=norm)(linear(weights, np.zeros(6)), x, labels)
    assert (found.x_adv > 0).all()
    assert (found.x_adv < 1).all()
    np.testing.assert_allclose(size(found.x_adv - x, norm), 1.02 * nearest, rtol=1e-4)
    assert found.gradients.tolist() == [6] * 15
    exact = DeepFool(norm=norm, overshoot=0.0, step_size=0.5)(linear(weights, np.zeros(6)), x, labels)
    assert (size(exact.x_adv - x, norm) <= nearest * (1 + 1e-4)).all()


@pytest.mark.parametrize("candidates", [1, 2, None], ids=["first", "both", "all"])
def test_candidates_are_those_with_the_largest_logits(candidates):
    """Class 1 has the larger logit, class 2 the nearer boundary."""
    graph = linear([[0.0, 0.0], [0.1, 0.0], [0.0, 10.0]], [1.0, 0.9, -4.5])
    x = np.full((1, 1, 1, 2), 0.5, dtype=np.float32)
    found = DeepFool(norm="l2", candidates=candidates, steps=1)(graph, x, np.array([0]))
    moved = (found.x_adv != x).ravel().tolist()
    assert moved == ([True, False] if candidates == 1 else [False, True])


@pytest.mark.parametrize("norm", NORMS)
def test_pixels_at_their_limit_do_not_hold_the_others_back(norm):
    """One of two hundred pixels can still move: steps that count on all shrink by less than 1 % each."""
    weights = np.zeros((2, 200))
    weights[1] = -1.0
    weights[1, 0] = 1.0
    x = np.zeros((1, 1, 1, 200), dtype=np.float32)
    found = DeepFool(norm=norm)(linear(weights, [0.5, 0.0]), x, np.array([0]))
    np.testing.assert_allclose(found.x_adv.ravel()[0], 0.51, rtol=1e-3)
    assert not found.x_adv.ravel()[1:].any()
    assert found.gradients.tolist() == [4]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1e-25, 1e-3, 1e25], ids=["tiny", "small", "huge"])
def test_scale_of_the_logits_does_not_matter(norm, scale):
    weights = np.random.default_rng(2).normal(size=(4, 30))
    x = np.full((1, 1, 1, 30), 0.5, dtype=np.float32)
    label = (weights.sum(axis=1)).argmax(keepdims=True)
    found, wished = (DeepFool(norm=norm)(linear(weights * by, np.zeros(4)), x, label) for by in (scale, 1))
    np.testing.assert_allclose(found.x_adv, wished.x_adv, atol=1e-6)
    assert not found.no_gradient.any()


@pytest.mark.parametrize("norm", NORMS)
def test_a_point_on_the_boundary_crosses_it(norm):
    graph = linear([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0])
    x = np.full((1, 1, 1, 2), 0.5, dtype=np.float32)
    x_adv = DeepFool(norm=norm)(graph, x, np.array([0])).x_adv
    assert graph.logits(x_adv)["logits"].argmax() == 1
    assert 0 < np.abs(x_adv - x).max() < 1e-4


@pytest.mark.parametrize("norm", NORMS)
def test_result_is_misclassified_valid_and_independent_of_the_batch(graph, sample, norm):
    x, labels = sample
    given = x.copy()
    attack = DeepFool(norm=norm)
    found = attack(graph, x, labels)
    np.testing.assert_array_equal(x, given)
    assert found.x_adv.dtype == np.float32
    assert found.x_adv.min() >= 0
    assert found.x_adv.max() <= 1
    assert (graph.logits(found.x_adv)["logits"].argmax(axis=1) != labels).all()
    assert not found.no_gradient.any()
    for batch_size in (1, 7):
        again = attack(graph, x, labels, batch_size=batch_size)
        np.testing.assert_allclose(again.x_adv, found.x_adv, atol=1e-5)
        np.testing.assert_array_equal(again.gradients, found.gradients)


def test_finished_images_cost_nothing_more(graph, sample):
    x, labels = sample
    victim = Counting(graph)
    found = DeepFool()(victim, x, labels)
    np.testing.assert_array_equal(found.x_adv[::7], x[::7])
    assert not found.gradients[::7].any()
    assert sum(victim.gradients) == found.gradients.sum()
    steps = np.ceil(np.maximum(found.gradients - 10, 0) / 3) + (found.gradients > 0)
    assert sum(victim.forward) == len(x) + steps.sum()
    assert len(np.unique(found.gradients)) > 2


def test_a_flat_network_is_reported_and_left_at_once():
    x = np.full((3, 1, 1, 4), 0.5, dtype=np.float32)
    victim = Counting(linear(np.zeros((3, 4)), [1.0, 0.0, 0.0]))
    found = DeepFool()(victim, x, np.array([0, 1, 0]))
    assert found.no_gradient.tolist() == [True, False, True]
    assert found.gradients.tolist() == [3, 0, 3]
    np.testing.assert_array_equal(found.x_adv, x)


def test_steps_run_out(graph, sample):
    x, labels = sample
    found = DeepFool(steps=1, candidates=None, step_size=0.01)(graph, x, labels)
    assert found.gradients.tolist() == np.where(np.arange(len(x)) % 7 == 0, 0, 10).tolist()
    assert (graph.logits(found.x_adv)["logits"].argmax(axis=1) == labels).any()


def test_infinite_gradients_are_an_error():
    graph = linear([[0.0, np.inf], [0.0, 1.0]], [0.0, 0.0])
    with pytest.raises(ModelError, match="expected finite gradients, got NaN or infinity for 1 of 1 images"):
        DeepFool()(graph, np.full((1, 1, 1, 2), 0.5, dtype=np.float32), np.array([0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "l1"}, "expected norm as linf or l2, got 'l1'"),
        ({"overshoot": -0.1}, "expected overshoot as a finite number of at least 0, got -0.1"),
        ({"overshoot": float("nan")}, "expected overshoot as a finite number"),
        ({"steps": 0}, "expected steps as a whole number of at least 1, got 0"),
        ({"step_size": 0.0}, r"expected step_size in \(0, 1\], got 0.0"),
        ({"candidates": 0}, "expected candidates as a whole number of at least 1, got 0"),
        ({"followed": 1.5}, "expected followed as a whole number of at least 1, got 1.5"),
    ],
    ids=["norm", "negative overshoot", "overshoot that is no number", "steps", "step_size", "candidates", "followed"],
)
def test_values_out_of_range(options, message):
    with pytest.raises(UsageError, match=message):
        DeepFool(**options)


def test_unknown_logits(graph, sample):
    with pytest.raises(UsageError, match="deepfool: expected logits among logits, got robust_logits"):
        DeepFool(of="robust_logits")(graph, *sample)
