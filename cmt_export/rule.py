"""PyTorch's own reading of the reject rule (paper §3.3.1), independent of the nodes in the exported graph."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cmt_export.networks import Logits


def hard_rule(outputs: Logits, classmap: Tensor | None) -> Tensor:
    """Return what the rule accepts without a threshold, bool ``(N,)``.

    Two heads have to agree on a pair; every detector has to stay within its limit; a single head accepts everything.

    Args:
        outputs: Of the network.
        classmap: M, int64 ``(K,)``, on the same device; None without a second head.
    """
    labels = outputs.logits.argmax(1)
    if outputs.anomalies is not None:
        return (outputs.anomalies <= 1).all(1)
    if outputs.robust_logits is None or classmap is None:
        return torch.ones_like(labels, dtype=torch.bool)
    return outputs.robust_logits.argmax(1) == classmap[labels]


def confidence(outputs: Logits, classmap: Tensor | None) -> Tensor:
    """Return the rule's confidence in the label, float32 ``(N,)`` in [0, 1].

    Args:
        outputs: Of the network.
        classmap: M, int64 ``(K,)``, on the same device; None without a second head.
    """
    labels = outputs.logits.argmax(1)
    found = _share(outputs.logits, labels)
    if outputs.robust_logits is None or classmap is None:
        return found
    return found * _share(outputs.robust_logits, classmap[labels])


def _share(logits: Tensor, labels: Tensor) -> Tensor:
    return F.softmax(logits, 1).gather(1, labels[:, None])[:, 0]
