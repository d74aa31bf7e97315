import pytest
import torch

from cmt_export.lock import build_lock
from cmt_export.networks import build_network
from tests.cmt_export import residual

FORMULAS = {
    "trained": lambda z, g: z * g,
    "frozen": lambda z, g: z * g,
    "additive": lambda z, g: z + g,
    "gated": lambda z, g: z / (1 + torch.exp(-g)),
}


@pytest.mark.parametrize("kind", FORMULAS)
def test_the_lock_combines_z_with_a_function_of_z_prime(kind):
    network = build_network(residual.make_trunk, input_shape=(1, 8, 8), classes=3, dual=True, lock=kind).eval()
    pixels = torch.rand(4, 1, 8, 8)
    outputs = network(pixels)
    features = network.trunk(pixels)
    z, robust = network.head(features), network.robust_head(features)
    first, second = network.lock.children()
    hidden = (robust @ first.weight.T + first.bias).clamp(min=0)
    torch.testing.assert_close(outputs.logits, FORMULAS[kind](z, hidden @ second.weight.T + second.bias))
    torch.testing.assert_close(outputs.unlocked_logits, z)
    torch.testing.assert_close(outputs.robust_logits, robust)


@pytest.mark.parametrize("kind", FORMULAS)
def test_only_a_frozen_lock_is_not_trained(kind):
    lock = build_lock(kind, 3, width=8)
    assert {weight.requires_grad for weight in lock.parameters()} == {kind != "frozen"}


@pytest.mark.parametrize("kind", FORMULAS)
def test_every_lock_starts_near_z(kind):
    torch.manual_seed(0)
    z = torch.randn(64, 10)
    locked = build_lock(kind, 10, width=64)(z, torch.randn(64, 10))
    assert (locked.argmax(1) == z.argmax(1)).float().mean() > 0.7


def test_no_lock():
    assert build_lock("none", 3, width=8) is None
