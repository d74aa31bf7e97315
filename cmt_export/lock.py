"""Gradient locks: how the robust logits Z' enter the deciding logits Z* (paper §3.3.3), and what could replace them.

Each holds the same g, two fully connected layers with a ReLU between them, and starts near Z* = Z: a g drawn around
zero, and left frozen, would scale every logit away.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Lock = Literal["trained", "frozen", "additive", "gated", "none"]
"""``trained``: Z ⊙ g(Z'), the paper's; ``frozen``: the same, g left as drawn; ``additive``: Z + g(Z'); ``gated``:
Z ⊙ sigmoid(g(Z')); ``none``: Z itself."""

_OPEN = 2.0
"""sigmoid(2) = 0.88: the gate starts nearly open, and not so far open that it has no gradient."""


class GradientLock(nn.Module):
    """Z* = Z ⊙ g(Z') (paper §3.3.3, Fig. 3, Eq. 12)."""

    def __init__(self, classes: int, *, width: int) -> None:
        """Make g with `width` hidden units for `classes` logits."""
        super().__init__()
        self.hidden = nn.Linear(classes, width)
        self.multiplier = nn.Linear(width, classes)
        nn.init.ones_(self.multiplier.bias)

    def forward(self, unlocked_logits: Tensor, robust_logits: Tensor) -> Tensor:
        """Return Z*, ``(N, K)``, of Z and Z', each ``(N, K)``."""
        multiplier: Tensor = self.multiplier(torch.relu(self.hidden(robust_logits)))
        return unlocked_logits * multiplier


class AdditiveLock(nn.Module):
    """Z* = Z + g(Z'): no factor that could shrink gradients; an ablation of ours."""

    def __init__(self, classes: int, *, width: int) -> None:
        """Make g with `width` hidden units for `classes` logits."""
        super().__init__()
        self.hidden = nn.Linear(classes, width)
        self.shift = nn.Linear(width, classes)
        nn.init.zeros_(self.shift.bias)

    def forward(self, unlocked_logits: Tensor, robust_logits: Tensor) -> Tensor:
        """Return Z*, ``(N, K)``, of Z and Z', each ``(N, K)``."""
        shift: Tensor = self.shift(torch.relu(self.hidden(robust_logits)))
        return unlocked_logits + shift


class GatedLock(nn.Module):
    """Z* = Z ⊙ σ(g(Z')): a factor in (0, 1), which can hold a logit back but not turn it round; an ablation of ours."""

    def __init__(self, classes: int, *, width: int) -> None:
        """Make g with `width` hidden units for `classes` logits."""
        super().__init__()
        self.hidden = nn.Linear(classes, width)
        self.gate = nn.Linear(width, classes)
        nn.init.constant_(self.gate.bias, _OPEN)

    def forward(self, unlocked_logits: Tensor, robust_logits: Tensor) -> Tensor:
        """Return Z*, ``(N, K)``, of Z and Z', each ``(N, K)``."""
        gate: Tensor = self.gate(torch.relu(self.hidden(robust_logits)))
        return unlocked_logits * torch.sigmoid(gate)


def build_lock(kind: Lock, classes: int, *, width: int) -> nn.Module | None:
    """Return a fresh lock for `classes` logits with `width` hidden units; None for ``none``."""
    if kind == "none":
        return None
    if kind == "additive":
        return AdditiveLock(classes, width=width)
    if kind == "gated":
        return GatedLock(classes, width=width)
    lock = GradientLock(classes, width=width)
    return lock.requires_grad_(kind == "trained")
