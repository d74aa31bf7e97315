"""`adversarial`: training on single-step adversarial examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmt_export.networks import Logits
from cmt_export.recipes.inner import fgs_step
from cmt_export.recipes.objectives import log_odds
from cmt_export.recipes.recipe import Batch, Recipe, option


@dataclass(frozen=True, kw_only=True)
class Adversarial(Recipe):
    """A single head, trained on benign images and their FGS examples.

    One forward pass of the benign images serves their loss and FGS, dropout included, as in the recipe `cmt`. The paper
    takes an epsilon of 0.25 on MNIST; 0.3 is the default here because every recipe is measured at one radius. A network
    trained on single steps can learn to fool FGS alone (catastrophic overfitting): attack it with several steps.

    Attributes:
        clean_weight: α, the weight of the benign cross-entropy, in [0, 1].
        epsilon: L∞ step of FGS, in units of [0, 1].

    Source: Goodfellow et al. 2015 (arXiv 1412.6572), section 6: α·J(x) + (1 − α)·J(x + ε·sign(∇x J)), α = 0.5.
    """

    name: ClassVar[str] = "adversarial"
    source: ClassVar[str] = "Goodfellow et al. 2015"

    clean_weight: float = option(0.5, "Weight of the benign images; attacked ones have the rest.")
    epsilon: float = option(0.3, "Largest change of a pixel in the attack of the training, in units of [0, 1].")

    def __post_init__(self) -> None:
        """Raise `UsageError` for a value out of range."""
        super().__post_init__()
        self._expect(0 <= self.clean_weight <= 1, "clean_weight in [0, 1]", self.clean_weight)
        self._expect(0 < self.epsilon <= 1, "epsilon in (0, 1]", self.epsilon)

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return α·CE(Z(x), y) + (1 − α)·CE(Z(x_adv), y)."""
        pixels = batch.pixels.detach().requires_grad_()
        clean: Logits = network(pixels)
        odds = log_odds(clean.logits.float(), batch.labels).sum()
        (gradient,) = torch.autograd.grad(odds, pixels, retain_graph=True)
        attacked: Logits = network(fgs_step(pixels.detach(), gradient, self.epsilon))
        benign_loss = F.cross_entropy(clean.logits.float(), batch.labels)
        attacked_loss = F.cross_entropy(attacked.logits.float(), batch.labels)
        return self.clean_weight * benign_loss + (1 - self.clean_weight) * attacked_loss
