"""`ccat`: the farther an attack moves an image, the less confident the answer shall be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmt_export.networks import Logits
from cmt_export.recipes.inner import InnerRecipe, evaluating, project
from cmt_export.recipes.recipe import Batch, option


@dataclass(frozen=True, kw_only=True)
class Ccat(InnerRecipe):
    """A single head; half of every batch is attacked, and its labels fade into the uniform distribution.

    The target of an attacked image is λ·onehot(y) + (1 − λ)/K with λ = (1 − min(1, ‖δ‖∞ / ε))^ρ.

    The attack ascends the largest confidence of a wrong class: signed gradients with momentum, a step that is kept only
    where it helps and shortened where it does not (backtracking). One forward and one backward pass a step are enough:
    the gradient at a point that is refused is thrown away.

    Attributes:
        transition: ρ, how fast labels fade.
        momentum: Share of the last direction that a step keeps, in [0, 1).
        backtracking: What the length of a step is divided by when it does not help, at least 1.

    Source: Stutz et al. 2020 (arXiv 1910.06259), sections 3 and 4: ρ = 10, half of a batch attacked. Momentum
        0.9, factor 1.5, 40 steps that begin at 0.005 for ε = 0.3, and the start, a random direction at a random radius,
        are those of the examples published with its code; the text of its algorithms could not be checked here.
    """

    name: ClassVar[str] = "ccat"
    source: ClassVar[str] = "Stutz et al. 2020"

    inner_step_size: float = option(1 / 60, "Length of such a step as a share of epsilon.")
    transition: float = option(10.0, "How fast labels fade into the uniform distribution.")
    momentum: float = option(0.9, "Share of the last direction that a step of the attack keeps.")
    backtracking: float = option(1.5, "What the length of a step is divided by when it does not help.")

    def __post_init__(self) -> None:
        """Raise `UsageError` for a value out of range."""
        super().__post_init__()
        self._expect(self.transition > 0, "transition > 0", self.transition)
        self._expect(0 <= self.momentum < 1, "momentum in [0, 1)", self.momentum)
        self._expect(self.backtracking >= 1, "backtracking >= 1", self.backtracking)

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the cross-entropy of both halves with their labels, sharp and faded, the mean over the batch."""
        # Rows of a batch may be sorted by class: which half is attacked is drawn.
        n = len(batch.labels)
        order = torch.randperm(n, generator=batch.generator, device=batch.pixels.device)
        clean, chosen = order[: n // 2], order[n // 2 :]
        middle, labels = batch.pixels[chosen], batch.labels[chosen]
        attacked = self._attack(network, middle, labels, batch)
        outputs: Logits = network(torch.cat([batch.pixels[clean], attacked]))
        logits = outputs.logits.float()
        benign_loss = F.cross_entropy(logits[: len(clean)], batch.labels[clean], reduction="sum")
        targets = self.fade(labels, attacked - middle, classes=logits.shape[1])
        return (benign_loss + F.cross_entropy(logits[len(clean) :], targets, reduction="sum")) / n

    def fade(self, labels: Tensor, change: Tensor, *, classes: int) -> Tensor:
        """Return the target distributions of attacked images, ``(B, K)``.

        Args:
            labels: y, int64 ``(B,)``.
            change: δ, ``(B, C, H, W)``.
            classes: K.
        """
        radius = change.abs().amax((1, 2, 3)) / self.epsilon
        kept = ((1 - radius.clamp(max=1)) ** self.transition)[:, None]
        return kept * F.one_hot(labels, classes) + (1 - kept) / classes

    def _attack(self, network: nn.Module, middle: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        epsilon = self.epsilon_at(batch.position)
        x = _start(middle, epsilon, batch.generator)
        length = torch.full((len(x), 1, 1, 1), self.inner_step_size * epsilon, device=x.device)
        with evaluating(network):
            best, gradient = _wrong_confidence(network, x, labels)
            direction = torch.zeros_like(x)
            for _ in range(self.inner_steps):
                direction = self.momentum * direction + (1 - self.momentum) * gradient.sign()
                trial = project(x + length * direction, middle, epsilon)
                reached, its_gradient = _wrong_confidence(network, trial, labels)
                better = reached >= best
                best = torch.where(better, reached, best)
                better = better[:, None, None, None]
                x, gradient = torch.where(better, trial, x), torch.where(better, its_gradient, gradient)
                length = torch.where(better, length, length / self.backtracking)
        return x


def _wrong_confidence(network: nn.Module, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return log max_{k≠y} p_k of each row, ``(B,)``, and its gradient, ``(B, C, H, W)``.

    The logarithm has the signs of the gradient of the confidence itself, and does not underflow.
    """
    x = x.detach().requires_grad_()
    outputs: Logits = network(x)
    log_p = F.log_softmax(outputs.logits.float(), 1)
    reached = log_p.scatter(1, labels[:, None], -torch.inf).amax(1)
    (gradient,) = torch.autograd.grad(reached.sum(), x)
    return reached.detach(), gradient


def _start(middle: Tensor, epsilon: float, generator: torch.Generator) -> Tensor:
    """Return points in random directions from `middle`, at random radii of up to epsilon in L∞."""
    direction = torch.empty_like(middle).uniform_(-1, 1, generator=generator)
    radius = torch.empty((len(middle), 1, 1, 1), device=middle.device).uniform_(0, epsilon, generator=generator)
    return (middle + radius * direction / direction.abs().amax((1, 2, 3), keepdim=True)).clamp_(0, 1)
