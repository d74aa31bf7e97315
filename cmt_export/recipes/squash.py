"""A fixed contrast curve in front of a trunk."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Squash(nn.Module):
    """p -> (σ(s·(p − ½)) − σ(−s/2)) / (σ(s/2) − σ(−s/2)): 0 stays 0, ½ stays ½, 1 stays 1.

    The steeper it is, the less small changes near black and white pass. It is differentiable everywhere and part of the
    exported graph, so attacks go through it: nothing is hidden from them.
    """

    def __init__(self, slope: float) -> None:
        """Make a curve of slope parameter s > 0."""
        super().__init__()
        self._slope = slope
        self._low = 1 / (1 + math.exp(slope / 2))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the squashed pixels, float32 of the same shape, in [0, 1]."""
        return (torch.sigmoid(self._slope * (pixels - 0.5)) - self._low) / (1 - 2 * self._low)
