from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cmt_export.networks import TRUNKS
from cmt_export.recipes import Hardened
from cmt_export.recipes.objectives import pair_log_odds
from cmt_export.recipes.squash import Squash
from runtime.errors import UsageError
from tests.cmt_export.recipes.batches import make_batch, make_network

RECIPE = Hardened(epsilon=0.1, inner_steps=3, inner_step_size=0.5, ramp=0.0, averaging=0.0, shift=0)


def _attack(network, batch, steps, epsilon=0.1):
    """The inner maximisation written out, on the pair objective of two heads."""
    noise = torch.empty_like(batch.pixels).uniform_(-epsilon, epsilon, generator=batch.generator)
    x = (batch.pixels + noise).clamp(0, 1)
    for _ in range(steps):
        probe = x.detach().requires_grad_()
        outputs = network(probe)
        pairs = F.log_softmax(outputs.logits, 1) + F.log_softmax(outputs.robust_logits, 1)[:, batch.classmap]
        wrong = F.one_hot(batch.labels, 3) == 0
        others = pairs.masked_fill(~wrong, -torch.inf).logsumexp(1)
        own = pairs[~wrong]
        (gradient,) = torch.autograd.grad((others - own).sum(), probe)
        x = (x + 0.5 * epsilon * gradient.sign()).clamp(0, 1)
        x = (batch.pixels + (x - batch.pixels).clamp(-epsilon, epsilon)).clamp(0, 1)
    return x


def _both_heads(network, pixels, batch, smoothing=0.0):
    outputs = network(pixels)
    label = F.cross_entropy(outputs.logits, batch.labels, label_smoothing=smoothing)
    return label + F.cross_entropy(outputs.robust_logits, batch.partners, label_smoothing=smoothing)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("clean_weight", [0.0, 0.3, 1.0])
def test_the_loss_is_that_of_both_heads_on_benign_and_attacked_images(clean_weight, smoothing):
    recipe = replace(RECIPE, clean_weight=clean_weight, label_smoothing=smoothing)
    network, batch, same = make_network(recipe), make_batch(seed=4), make_batch(seed=4)
    attacked = _attack(network, same, steps=3)
    expected = clean_weight * _both_heads(network, same.pixels, same, smoothing)
    expected = expected + (1 - clean_weight) * _both_heads(network, attacked, same, smoothing)
    torch.testing.assert_close(recipe.loss(network, batch), expected)


@pytest.mark.parametrize(("draw", "in_l2"), [(0.5, True), (0.51, False), (1.0, False)])
def test_a_share_of_the_batches_is_attacked_in_an_l2_ball_that_grows_with_the_other(draw, in_l2):
    recipe = replace(RECIPE, l2_share=0.5, l2_epsilon=0.6, ramp=0.5)
    ball = recipe._ball(make_batch(position=0.25, draw=draw))
    assert ball.epsilon == pytest.approx(0.3 if in_l2 else 0.05)
    network, batch, same = (
        make_network(recipe),
        *(make_batch(seed=4, n=64, draw=draw, position=0.25) for _ in range(2)),
    )
    attacked = recipe._attack(network, batch, ball.random_start(batch, ball.epsilon), ball)
    change = (attacked - batch.pixels).flatten(1)
    lengths, largest = change.norm(dim=1), change.abs().amax(1)
    assert (lengths.max() <= 0.3 + 1e-5 and largest.max() > 0.05) if in_l2 else largest.max() <= 0.05 + 1e-6
    expected = 0.3 * _both_heads(network, batch.pixels, batch) + 0.7 * _both_heads(network, attacked, batch)
    torch.testing.assert_close(recipe.loss(network, same), expected)


@pytest.mark.parametrize(("position", "steps"), [(0.5, 1), (0.75, 1), (0.76, 4), (1.0, 4)])
def test_late_steps_come_in_the_last_share_of_the_training(position, steps):
    recipe = replace(RECIPE, inner_steps=1, late_steps=4, late_share=0.25, clean_weight=0.0)
    network = make_network(recipe)
    batch, same = (make_batch(seed=4, position=position) for _ in range(2))
    torch.testing.assert_close(
        recipe.loss(network, batch), _both_heads(network, _attack(network, same, steps=steps), same)
    )


def test_the_ramp_shrinks_ball_and_steps():
    recipe = replace(RECIPE, ramp=0.5, clean_weight=0.0)
    network = make_network(recipe)
    batch, same = (make_batch(seed=4, position=0.2) for _ in range(2))
    attacked = _attack(network, same, steps=3, epsilon=0.04)
    torch.testing.assert_close(recipe.loss(network, batch), _both_heads(network, attacked, same))


def _spread_out(network, batch, epsilon=0.1):
    """Each image's log-odds where its attack begins, and these points."""
    noise = torch.empty_like(batch.pixels).uniform_(-epsilon, epsilon, generator=batch.generator)
    start = (batch.pixels + noise).clamp(0, 1)
    outputs = network(start)
    pairs = outputs.logits.softmax(1) * outputs.robust_logits.softmax(1)[:, batch.classmap]
    own = pairs.gather(1, batch.labels[:, None])[:, 0]
    return ((pairs.sum(1) - own) / own).log(), start


@pytest.mark.parametrize(("focus", "kept"), [(0.5, 20), (0.26, 10), (0.001, 1)])
def test_focus_trains_on_the_images_that_noise_alone_brings_closest_to_a_wrong_pair(focus, kept):
    recipe = replace(RECIPE, focus=focus)
    network = make_network(recipe)
    batch, same, again = (make_batch(n=40, seed=4) for _ in range(3))
    odds, start = _spread_out(network, same)
    chosen, points = recipe._hardest(network, batch, start)
    rows = odds.argsort(descending=True)[:kept]
    assert torch.equal(chosen.pixels, batch.pixels[rows])
    assert torch.equal(chosen.labels, batch.labels[rows])
    assert torch.equal(points, start[rows])
    few = replace(batch, pixels=chosen.pixels, labels=chosen.labels)
    attacked = recipe._attack(network, few, points, recipe._ball(few))
    expected = 0.3 * _both_heads(network, few.pixels, few) + 0.7 * _both_heads(network, attacked, few)
    torch.testing.assert_close(recipe.loss(network, again), expected)


def test_the_attack_finds_more_confidence_in_wrong_pairs():
    network, batch = make_network(RECIPE), make_batch(n=64)
    attacked = RECIPE._attack(network, batch, batch.pixels, RECIPE._ball(batch))
    odds = [pair_log_odds(network(x), batch.labels, batch.classmap) for x in (batch.pixels, attacked)]
    assert (odds[1] > odds[0]).float().mean() > 0.95


def test_the_curve_keeps_its_ends_and_is_the_logistic_function():
    p = torch.linspace(0, 1, 101, dtype=torch.float64)
    for slope in (0.5, 6.0, 40.0):
        expected = 1 / (1 + np.exp(-slope * (p.numpy() - 0.5)))
        expected = (expected - expected[0]) / (expected[-1] - expected[0])
        got = Squash(slope)(p)
        np.testing.assert_allclose(got, expected, atol=1e-12)
        assert got[50] == pytest.approx(0.5)
        assert (got.diff() >= 0).all()


def test_the_curve_stands_in_front_of_the_trunk_and_has_no_weights():
    plain, squashed = make_network(RECIPE), make_network(replace(RECIPE, squash=8.0))
    assert [weight.shape for weight in plain.parameters()] == [weight.shape for weight in squashed.parameters()]
    for weight, same in zip(plain.parameters(), squashed.parameters(), strict=True):
        assert torch.equal(weight, same)
    pixels = make_batch().pixels
    torch.testing.assert_close(squashed(pixels).logits, plain(Squash(8.0)(pixels)).logits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clean_weight": -0.1}, r"clean_weight in \[0, 1\], got -0.1"),
        ({"label_smoothing": 1.0}, r"label_smoothing in \[0, 1\), got 1.0"),
        ({"squash": 0.0}, r"squash in \(0, 100\], got 0.0"),
        ({"late_steps": -1}, "late_steps >= 0, got -1"),
        ({"late_share": 2.0}, r"late_share in \[0, 1\], got 2.0"),
        ({"focus": 0.0}, r"focus in \(0, 1\], got 0.0"),
        ({"lock_width": 0}, "lock_width >= 1, got 0"),
        ({"inner_steps": 0}, "inner_steps >= 1, got 0"),
    ],
    ids=["weight", "smoothing", "squash", "late-steps", "late-share", "focus", "of-two-heads", "of-the-attack"],
)
def test_wrong_options(options, message):
    with pytest.raises(UsageError, match=f"recipe hardened: expected {message}"):
        Hardened(**options)


def test_shifts_move_a_whole_batch_and_follow_its_generator():
    recipe = replace(RECIPE, shift=2)
    batches = [make_batch(seed=seed) for seed in range(12)]
    moved = [recipe._shifted(batch).pixels for batch in batches]
    found = set()
    for batch, pixels in zip(batches, moved, strict=True):
        shifts = [(y, x) for y in range(-2, 3) for x in range(-2, 3) if batch.pixels.roll((y, x), (2, 3)).equal(pixels)]
        assert len(shifts) == 1
        found.add(shifts[0])
    assert len(found) > 4
    assert moved[3].equal(recipe._shifted(make_batch(seed=3)).pixels)


def test_dropout_is_what_the_recipe_says():
    for dropout in (0.0, 0.5):
        network = replace(RECIPE, dropout=dropout).build(TRUNKS["oracle"], input_shape=(1, 8, 8), classes=3)
        assert {layer.p for layer in network.modules() if isinstance(layer, torch.nn.Dropout)} == {dropout}
