"""The inner maximisation: signed gradient steps on any loss, inside the training loop.

The network is in evaluation mode while an attack is made, and back in its own mode afterwards: dropout would have the
attack climb another function at every step than the one that is deployed, and batch normalisation would learn its
statistics from half-made attacks. Only the gradient with respect to the pixels is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cmt_export.networks import Logits
from cmt_export.recipes.recipe import Batch, Recipe, option

RowLoss = Callable[[Logits], Tensor]
"""Maps the network's outputs to one number a row, ``(B,)``."""


@dataclass(frozen=True, kw_only=True)
class InnerRecipe(Recipe):
    """A recipe that attacks its own batch with several steps.

    Attributes:
        epsilon: Radius of the L∞ ball, in units of [0, 1].
        inner_steps: Gradient steps of the attack.
        inner_step_size: Length of a step as a share of epsilon.
        ramp: Share of the training over which epsilon grows from 0 to its value.
    """

    epsilon: float = option(0.3, "Largest change of a pixel in the attack of the training, in units of [0, 1].")
    inner_steps: int = option(40, "Gradient steps of the attack inside the training loop.")
    inner_step_size: float = option(1 / 30, "Length of such a step as a share of epsilon.")
    ramp: float = option(0.0, "Share of the training over which epsilon grows from 0 to its value.")

    def __post_init__(self) -> None:
        """Raise `UsageError` for a value out of range."""
        super().__post_init__()
        self._expect(0 < self.epsilon <= 1, "epsilon in (0, 1]", self.epsilon)
        self._expect(self.inner_steps >= 1, "inner_steps >= 1", self.inner_steps)
        self._expect(0 < self.inner_step_size <= 2, "inner_step_size in (0, 2]", self.inner_step_size)
        self._expect(0 <= self.ramp <= 1, "ramp in [0, 1]", self.ramp)

    def epsilon_at(self, position: float) -> float:
        """Return the radius when a share `position` of the training is done."""
        return self.epsilon * min(1.0, position / self.ramp) if self.ramp else self.epsilon


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
    """Return x_adv, ``(B, C, H, W)``, after `steps` signed gradient steps that ascend a loss within the ball.

    Args:
        network: Maps pixels to `Logits`.
        start: Where to begin, ``(B, C, H, W)``.
        batch: The middle of the ball is its `pixels`.
        loss: What to ascend.
        epsilon: Radius of the L∞ ball.
        steps: How many.
        step_size: Their length, in units of [0, 1].

    Source: Madry et al. 2018 (arXiv 1706.06083), section 2.1.
    """
    x = start
    with evaluating(network):
        for _ in range(steps):
            x = project(x + step_size * pixel_gradient(network, x, loss).sign(), batch.pixels, epsilon)
    return x


def pixel_gradient(network: nn.Module, x: Tensor, loss: RowLoss) -> Tensor:
    """Return d/dx of the sum of a loss over its rows, ``(B, C, H, W)``; the weights gather nothing."""
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(network(x)).sum(), x)
    return gradient


def project(x: Tensor, middle: Tensor, epsilon: float) -> Tensor:
    """Return the nearest point of the L∞ ball around `middle` and of [0, 1]."""
    return torch.minimum(torch.maximum(x, middle - epsilon), middle + epsilon).clamp_(0, 1)


def random_start(batch: Batch, epsilon: float) -> Tensor:
    """Return a point drawn uniformly from the L∞ ball, clipped to [0, 1]."""
    noise = torch.empty_like(batch.pixels).uniform_(-epsilon, epsilon, generator=batch.generator)
    return noise.add_(batch.pixels).clamp_(0, 1)


def fgs_step(pixels: Tensor, gradient: Tensor, epsilon: float) -> Tensor:
    """Return x + ε·sign(∇x L), clipped to [0, 1] (Eq. 1 and 6)."""
    return (pixels + epsilon * gradient.sign()).clamp_(0, 1)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, and back into the mode it was in."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)
