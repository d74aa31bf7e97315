"""The inner maximisation in an L2 ball, entered from outside.

Steps that stay inside see a plateau where a network was trained in an L-infinity ball (docs/hardened.md), and would
train on nothing. These begin in a ball of three times the radius, which shrinks to its own while they climb.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cmt_export.recipes.inner import RowLoss, evaluating, pixel_gradient
from cmt_export.recipes.recipe import Batch

_WIDEST = 3.0
"""Radius of the first ball, as a multiple of epsilon."""

_SHRUNK = 0.75
"""Share of the steps after which the ball has its own radius."""


def ascend(
    network: nn.Module,
    start: Tensor,
    batch: Batch,
    loss: RowLoss,
    *,
    epsilon: float,
    steps: int,
    step_size: float,
) -> Tensor:
    """Return x_adv, ``(B, C, H, W)``, after `steps` steps along the gradient, in a ball that shrinks to epsilon.

    A pixel at 0 or 1 takes no part in a step that would leave [0, 1].

    Args:
        network: Maps pixels to `Logits`.
        start: Where to begin, ``(B, C, H, W)``.
        batch: The middle of the ball is its `pixels`.
        loss: What to ascend.
        epsilon: L2 radius of the last ball, in units of pixels in [0, 1].
        steps: How many.
        step_size: Their L2 length in the last ball; in a wider one they are longer in proportion.
    """
    x = start
    with evaluating(network):
        for width in _widths(steps):
            direction = _feasible(pixel_gradient(network, x, loss), x)
            length = _norms(direction).clamp_min(torch.finfo(x.dtype).tiny)
            x = project(x + width * step_size * direction / length, batch.pixels, width * epsilon)
    return x


def random_start(batch: Batch, epsilon: float) -> Tensor:
    """Return points in random directions, at distances of up to three times epsilon, clipped to [0, 1]."""
    direction = torch.empty_like(batch.pixels).normal_(generator=batch.generator)
    distance = torch.empty_like(_norms(direction)).uniform_(0, _WIDEST * epsilon, generator=batch.generator)
    return (batch.pixels + distance * direction / _norms(direction)).clamp_(0, 1)


def project(x: Tensor, middle: Tensor, epsilon: float) -> Tensor:
    """Return a point of the L2 ball around `middle` and of [0, 1]: clipped, then drawn towards `middle`."""
    change = x.clamp(0, 1) - middle
    return middle + change * (epsilon / _norms(change).clamp_min(epsilon))


def _widths(steps: int) -> list[float]:
    """Return the radius of the ball after each step, as a multiple of epsilon; one step alone stays inside."""
    shrinking = max(1, round(_SHRUNK * steps) - 1)
    return [1 + (_WIDEST - 1) * max(0.0, 1 - step / shrinking) if steps > 1 else 1.0 for step in range(steps)]


def _feasible(gradient: Tensor, x: Tensor) -> Tensor:
    leaves = ((x <= 0) & (gradient < 0)) | ((x >= 1) & (gradient > 0))
    return gradient.masked_fill(leaves, 0)


def _norms(x: Tensor) -> Tensor:
    return x.square().sum((1, 2, 3), keepdim=True).sqrt()
