import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cmt_export.recipes import Ccat
from cmt_export.recipes.ccat import _start, _wrong_confidence
from runtime.errors import UsageError
from tests.cmt_export.recipes.batches import make_batch, make_network

RECIPE = Ccat(epsilon=0.2, inner_steps=4, inner_step_size=0.25, transition=3.0)


@pytest.mark.parametrize(("radius", "kept"), [(0.0, 1.0), (0.05, 0.75**3), (0.1, 0.125), (0.2, 0.0), (0.3, 0.0)])
def test_labels_fade_with_the_distance(radius, kept):
    change = torch.zeros(2, 1, 8, 8)
    change[0, 0, 3, 4], change[1, 0, 1, 1] = -radius, radius / 2
    targets = RECIPE.fade(torch.tensor([2, 0]), change, classes=3).numpy()
    np.testing.assert_allclose(targets[0], kept * np.eye(3)[2] + (1 - kept) / 3, rtol=1e-5)
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)


def test_the_attack_raises_the_confidence_of_a_wrong_class_and_keeps_the_budget():
    network, batch = make_network(RECIPE), make_batch(n=64, seed=5)
    start = _start(batch.pixels, 0.2, make_batch(n=64, seed=5).generator)
    attacked = RECIPE._attack(network, batch.pixels, batch.labels, make_batch(n=64, seed=5))
    wrong = []
    for x in (start, attacked):
        p = F.softmax(network(x).logits, 1).detach()
        p[torch.arange(64), batch.labels] = 0
        wrong.append(p.max(1).values)
    assert (wrong[1] >= wrong[0] - 1e-6).all()
    assert wrong[1].mean() > wrong[0].mean() + 1e-3
    assert (attacked - batch.pixels).abs().max() <= 0.2 + 1e-6
    assert attacked.min() >= 0
    assert attacked.max() <= 1


def test_a_step_that_does_not_help_is_taken_back():
    """Steps across the whole ball overshoot; what is kept is never less confident than the start."""
    recipe = Ccat(epsilon=0.2, inner_steps=1, inner_step_size=2.0, momentum=0.0)
    network, batch = make_network(recipe).double(), make_batch(n=64, seed=6)
    middle = batch.pixels.double()
    start = _start(middle, 0.2, make_batch(n=64, seed=6).generator)
    attacked = recipe._attack(network, middle, batch.labels, make_batch(n=64, seed=6))
    confidence = [_wrong_confidence(network, x, batch.labels)[0] for x in (start, attacked)]
    assert (confidence[1] >= confidence[0]).all()
    moved = (attacked != start).any(dim=3).any(dim=2).any(dim=1)
    assert torch.equal(moved, confidence[1] > confidence[0])


def test_the_start_has_a_random_direction_at_a_random_radius():
    middle = torch.full((2000, 1, 8, 8), 0.5)
    radius = (_start(middle, 0.2, torch.Generator().manual_seed(0)) - middle).abs().amax((1, 2, 3))
    assert radius.max() <= 0.2 + 1e-6
    assert radius.mean() == pytest.approx(0.1, abs=0.005)
    assert radius.min() < 0.01


def test_half_of_the_batch_is_attacked_whatever_its_order():
    recipe = Ccat(epsilon=0.2, inner_steps=1, inner_step_size=0.5)
    network, batch, same = make_network(recipe), make_batch(n=8, seed=7), make_batch(n=8, seed=7)
    order = torch.randperm(8, generator=same.generator)
    clean, chosen = order[:4], order[4:]
    attacked = recipe._attack(network, same.pixels[chosen], same.labels[chosen], same)
    targets = recipe.fade(same.labels[chosen], attacked - same.pixels[chosen], classes=3)
    expected = F.cross_entropy(network(same.pixels[clean]).logits, same.labels[clean], reduction="sum")
    expected = expected - (targets * F.log_softmax(network(attacked).logits, 1)).sum()
    torch.testing.assert_close(recipe.loss(network, batch), expected / 8)
    assert sorted(chosen.tolist()) != [4, 5, 6, 7]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transition": 0.0}, "transition > 0, got 0.0"),
        ({"momentum": 1.0}, r"momentum in \[0, 1\), got 1.0"),
        ({"backtracking": 0.5}, "backtracking >= 1, got 0.5"),
    ],
    ids=["transition", "momentum", "backtracking"],
)
def test_wrong_options(options, message):
    with pytest.raises(UsageError, match=f"recipe ccat: expected {message}"):
        Ccat(**options)
