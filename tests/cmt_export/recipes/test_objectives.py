import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp

from cmt_export.networks import Logits
from cmt_export.recipes.objectives import divergence, log_odds, log_pair_confidence, pair_log_odds
from tests.cmt_export.recipes.batches import CLASSMAP, LABELS


def _random_logits(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, (4, 3))


def _outputs() -> tuple[Logits, np.ndarray]:
    z, robust = _random_logits(1), _random_logits(2)
    pairs = log_softmax(z, axis=1) + log_softmax(robust, axis=1)[:, CLASSMAP]
    return Logits(logits=torch.from_numpy(z).float(), robust_logits=torch.from_numpy(robust).float()), pairs


def test_log_odds():
    z = _random_logits(0)
    p = np.exp(log_softmax(z, axis=1))[np.arange(4), LABELS]
    got = log_odds(torch.from_numpy(z), torch.from_numpy(LABELS))
    np.testing.assert_allclose(got, np.log((1 - p) / p))


def test_log_odds_keep_their_gradient_where_cross_entropy_loses_it():
    z = torch.tensor([[200.0, 0.0, 1.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(log_odds(z, torch.tensor([0])).sum(), z)
    assert gradient.abs().min() > 0.1


def test_the_pair_confidence_is_that_of_the_rule():
    outputs, pairs = _outputs()
    np.testing.assert_allclose(log_pair_confidence(outputs, torch.from_numpy(CLASSMAP)), pairs, rtol=1e-5)


def test_the_pair_objective_is_the_log_odds_of_all_wrong_pairs():
    outputs, pairs = _outputs()
    wrong = np.arange(3)[None, :] != LABELS[:, None]
    expected = [logsumexp(row[keep]) - row[~keep][0] for row, keep in zip(pairs, wrong, strict=True)]
    got = pair_log_odds(outputs, torch.from_numpy(LABELS), torch.from_numpy(CLASSMAP))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_divergence_is_that_of_kullback_and_leibler():
    p, q = (torch.from_numpy(_random_logits(seed)) for seed in (3, 4))
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=p), torch.distributions.Categorical(logits=q)
    )
    torch.testing.assert_close(divergence(p, q), expected)
    assert divergence(p, p).abs().max() == pytest.approx(0, abs=1e-12)
