"""The recipes with one head: each loss against its formula written out, attacks included."""

import pytest
import torch
import torch.nn.functional as F

from cmt_export.networks import SingleHead
from cmt_export.recipes import Adversarial, PgdTraining, Trades, Undefended
from runtime.errors import UsageError
from tests.cmt_export.recipes.batches import make_batch, make_network


def _fgs(network, pixels, labels, epsilon):
    probe = pixels.clone().requires_grad_()
    F.cross_entropy(network(probe).logits, labels).backward()
    return (pixels + epsilon * probe.grad.sign()).clamp(0, 1)


@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_none_is_cross_entropy_at_its_temperature(temperature):
    recipe = Undefended(temperature=temperature)
    network, batch = make_network(recipe), make_batch()
    assert isinstance(network, SingleHead)
    expected = F.cross_entropy(network(batch.pixels).logits / temperature, batch.labels)
    torch.testing.assert_close(recipe.loss(network, batch), expected)


def test_adversarial_mixes_benign_images_and_their_fgs_examples():
    recipe = Adversarial(epsilon=0.1, clean_weight=0.3)
    network, batch = make_network(recipe), make_batch()
    attacked = _fgs(network, batch.pixels, batch.labels, 0.1)
    expected = 0.3 * F.cross_entropy(network(batch.pixels).logits, batch.labels) + 0.7 * F.cross_entropy(
        network(attacked).logits, batch.labels
    )
    torch.testing.assert_close(recipe.loss(network, batch), expected)


def test_pgd_trains_on_attacked_images_alone():
    recipe = PgdTraining(epsilon=0.1, inner_steps=3, inner_step_size=0.5)
    network, batch, same = make_network(recipe), make_batch(seed=2), make_batch(seed=2)
    x = (same.pixels + torch.empty_like(same.pixels).uniform_(-0.1, 0.1, generator=same.generator)).clamp(0, 1)
    for _ in range(3):
        x = _fgs(network, x, same.labels, 0.05)
        x = (same.pixels + (x - same.pixels).clamp(-0.1, 0.1)).clamp(0, 1)
    expected = F.cross_entropy(network(x).logits, same.labels)
    torch.testing.assert_close(recipe.loss(network, batch), expected)


def test_trades_adds_the_divergence_that_an_attack_reaches():
    recipe = Trades(epsilon=0.1, inner_steps=3, inner_step_size=0.5, robustness_weight=2.0)
    network, batch, same = make_network(recipe), make_batch(seed=2), make_batch(seed=2)
    clean = network(same.pixels).logits
    x = same.pixels + 1e-3 * torch.empty_like(same.pixels).normal_(generator=same.generator)
    x = x.clamp(0, 1)
    for _ in range(3):
        probe = x.detach().requires_grad_()
        loss = F.kl_div(F.log_softmax(network(probe).logits, 1), F.softmax(clean.detach(), 1), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, probe)
        x = x + 0.05 * gradient.sign()
        x = (same.pixels + (x - same.pixels).clamp(-0.1, 0.1)).clamp(0, 1)
    apart = F.kl_div(F.log_softmax(network(x).logits, 1), F.softmax(clean, 1), reduction="batchmean")
    torch.testing.assert_close(recipe.loss(network, batch), F.cross_entropy(clean, same.labels) + 2 * apart)


def test_trades_trains_both_answers():
    recipe = Trades(epsilon=0.1, inner_steps=1, inner_step_size=1.0)
    network = make_network(recipe)
    clean_alone = Trades(epsilon=0.1, inner_steps=1, inner_step_size=1.0, robustness_weight=0.0)
    recipe.loss(network, make_batch()).backward()
    both = network.head.weight.grad.clone()
    network.zero_grad()
    clean_alone.loss(network, make_batch()).backward()
    assert not torch.allclose(both, network.head.weight.grad)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Undefended, {"temperature": 0.5}, r"recipe none: expected temperature in \[1, 1000\], got 0.5"),
        (Adversarial, {"clean_weight": 1.5}, r"recipe adversarial: expected clean_weight in \[0, 1\], got 1.5"),
        (Adversarial, {"epsilon": 2.0}, r"recipe adversarial: expected epsilon in \(0, 1\], got 2.0"),
        (Trades, {"robustness_weight": -1.0}, "recipe trades: expected robustness_weight >= 0, got -1.0"),
    ],
    ids=["temperature", "weight", "epsilon", "robustness"],
)
def test_wrong_options(kind, options, message):
    with pytest.raises(UsageError, match=message):
        kind(**options)
