"""Losses that several recipes share, one number a row: what attacks inside the training loop ascend."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cmt_export.networks import Logits


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """Return log((1 − p_y) / p_y) = log Σ_{j≠y} exp(z_j) − z_y for each row, ``(B,)``.

    Its gradient is that of cross-entropy divided by 1 − p_y, a positive number: the same direction, the same sign in
    Eq. 1 and 6, but it does not underflow to zero where the network is sure, which would leave x_adv = x.

    Args:
        logits: ``(B, K)``.
        labels: y, int64 ``(B,)``.
    """
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return torch.logsumexp(others, 1) - logits.gather(1, labels[:, None])[:, 0]


def log_pair_confidence(outputs: Logits, classmap: Tensor) -> Tensor:
    """Return log p*(t) + log p'(M[t]) for each label t, ``(B, K)``: the logarithm of the rule's confidence in it.

    Args:
        outputs: Of a network with two heads.
        classmap: M, int64 ``(K,)``.
    """
    assert outputs.robust_logits is not None  # only recipes of the rule `pair` come here
    return F.log_softmax(outputs.logits.float(), 1) + F.log_softmax(outputs.robust_logits.float(), 1)[:, classmap]


def pair_log_odds(outputs: Logits, labels: Tensor, classmap: Tensor) -> Tensor:
    """Return the log-odds of all wrong pairs against the true one, ``(B,)``.

    logsumexp over t ≠ y of [log p*(t) + log p'(M[t])], minus [log p*(y) + log p'(M[y])]: above 0 the rule finds more
    confidence in wrong labels together than in y. The shares of both heads are normalised, so neither can pay for the
    other.

    Args:
        outputs: Of a network with two heads.
        labels: y, int64 ``(B,)``.
        classmap: M, int64 ``(K,)``.
    """
    return log_odds(log_pair_confidence(outputs, classmap), labels)


def divergence(logits: Tensor, others: Tensor) -> Tensor:
    """Return KL(p ‖ q) = Σ_k p_k·(log p_k − log q_k) for each row, ``(B,)``, p and q the softmax of both arguments.

    Args:
        logits: Of p, ``(B, K)``.
        others: Of q, ``(B, K)``.
    """
    log_p, log_q = F.log_softmax(logits, 1), F.log_softmax(others, 1)
    return (log_p.exp() * (log_p - log_q)).sum(1)
