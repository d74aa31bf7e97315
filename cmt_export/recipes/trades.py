"""`trades`: a benign loss, plus how far the answer can be moved within the ball."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmt_export.networks import Logits
from cmt_export.recipes.inner import InnerRecipe, ascend, evaluating, project
from cmt_export.recipes.objectives import divergence
from cmt_export.recipes.recipe import Batch, option

_START = 1e-3
"""Standard deviation of the start: at x itself the divergence has no gradient. As in the published code."""


@dataclass(frozen=True, kw_only=True)
class Trades(InnerRecipe):
    """A single head, trained with CE(Z(x), y) + β·max KL(p(x) ‖ p(x')).

    Attributes:
        robustness_weight: β = 1/λ, the weight of the divergence; 6 is the paper's for
            CIFAR-10, 1 that of its code for MNIST.

    Source: Zhang et al. 2019 (arXiv 1901.08573), equation 5 and algorithm 1; defaults of the attack from the published
        code for MNIST: ε = 0.3, 40 steps of 0.01.
    """

    name: ClassVar[str] = "trades"
    source: ClassVar[str] = "Zhang et al. 2019"

    robustness_weight: float = option(6.0, "Weight of the divergence between benign and attacked answers.")

    def __post_init__(self) -> None:
        """Raise `UsageError` for a value out of range."""
        super().__post_init__()
        self._expect(self.robustness_weight >= 0, "robustness_weight >= 0", self.robustness_weight)

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return CE(Z(x), y) + β·KL(p(x) ‖ p(x_adv)); both answers are trained."""
        x_adv = self._attack(network, batch)
        clean: Logits = network(batch.pixels)
        attacked: Logits = network(x_adv)
        apart = divergence(clean.logits.float(), attacked.logits.float()).mean()
        return F.cross_entropy(clean.logits.float(), batch.labels) + self.robustness_weight * apart

    def _attack(self, network: nn.Module, batch: Batch) -> Tensor:
        epsilon = self.epsilon_at(batch.position)
        with evaluating(network), torch.no_grad():
            clean: Logits = network(batch.pixels)
        noise = torch.empty_like(batch.pixels).normal_(0, _START, generator=batch.generator)
        return ascend(
            network,
            project(batch.pixels + noise, batch.pixels, epsilon),
            batch,
            lambda outputs: divergence(clean.logits.float(), outputs.logits.float()),
            epsilon=epsilon,
            steps=self.inner_steps,
            step_size=self.inner_step_size * epsilon,
        )
