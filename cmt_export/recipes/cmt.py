"""`cmt`: collaborative multi-task training, the paper's defence (Eq. 6, 8 and 9), with all its options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calibration.classmap import Epsilon
from cmt_export.networks import Logits
from cmt_export.recipes.inner import fgs_step
from cmt_export.recipes.objectives import log_odds
from cmt_export.recipes.pair import PairRecipe
from cmt_export.recipes.recipe import Batch, option


@dataclass(frozen=True, kw_only=True)
class Cmt(PairRecipe):
    """Two heads: Z* learns the label, benign and attacked; Z' learns its partner, and to leave it under attack.

    Attributes:
        alpha: Weight of CE(Z*(x), y) in Eq. 8.
        beta: Weight of CE(Z*(x_adv), y).
        gamma: Weight of J', Eq. 9.
        robust_loss: How Z' is driven off its pair on x_adv: ``bounded``, −log(1 − p(M[y])); or ``literal``, the paper's
            negative cross-entropy, clamped at `literal_clamp` because it has no lower bound.
        literal_clamp: Largest cross-entropy, in nats, that the literal form rewards.
        epsilon: Largest L∞ step of the training FGS, in units of [0, 1].
        epsilon_sampling: ``uniform``, drawn from (0, epsilon] for each batch; or ``fixed``.
        differentiated: Which logits that FGS differentiates: ``logits`` (Z*) or ``unlocked_logits`` (Z).

    Source: Wang et al. 2018 (arXiv 1803.05123), sections 3.2 and 3.3.
    """

    name: ClassVar[str] = "cmt"
    source: ClassVar[str] = "Wang et al. 2018"

    alpha: float = option(0.4, "Weight of the clean cross-entropy, Eq. 8.")
    beta: float = option(0.4, "Weight of the attacked cross-entropy, Eq. 8.")
    gamma: float = option(0.2, "Weight of the robust head's loss, Eq. 9.")
    robust_loss: Literal["bounded", "literal"] = option("bounded", "How Z' leaves its pair on attacked images.")
    literal_clamp: float = option(10.0, "Largest cross-entropy, in nats, that the literal form rewards.")
    epsilon: float = option(0.3, "Largest change of a pixel in the attack of the training, in units of [0, 1].")
    epsilon_sampling: Epsilon = option("uniform", "Draw it from (0, epsilon] for each batch, or take epsilon.")  # noqa: RUF009
    differentiated: Literal["logits", "unlocked_logits"] = option("logits", "What it differentiates: Z* or Z.")

    def __post_init__(self) -> None:
        """Raise `UsageError` for a value out of range."""
        super().__post_init__()
        weights = self.alpha, self.beta, self.gamma
        fits = min(weights) >= 0 and abs(sum(weights) - 1) <= 1e-6
        self._expect(fits, "alpha, beta, gamma >= 0 that add up to 1", ", ".join(map(str, weights)))
        self._expect(0 < self.epsilon <= 1, "epsilon in (0, 1]", self.epsilon)
        self._expect(self.literal_clamp > 0, "literal_clamp > 0", self.literal_clamp)

    @property
    def classmap_steps(self) -> tuple[float, Epsilon]:
        """The steps of the training FGS."""
        return self.epsilon, self.epsilon_sampling

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return Eq. 8 on the batch and its FGS examples.

        The clean forward pass is shared: FGS differentiates it once with respect to the pixels alone, and the objective
        differentiates it again with respect to the weights.
        """
        epsilon = self.epsilon * batch.draw if self.epsilon_sampling == "uniform" else self.epsilon
        pixels = batch.pixels.detach().requires_grad_()
        clean: Logits = network(pixels)
        differentiated = clean.unlocked_logits if self.differentiated == "unlocked_logits" else None
        attacked = clean.logits if differentiated is None else differentiated
        (gradient,) = torch.autograd.grad(log_odds(attacked.float(), batch.labels).sum(), pixels, retain_graph=True)
        adversarial: Logits = network(fgs_step(pixels.detach(), gradient, epsilon))
        return self.multi_task_loss(clean, adversarial, batch.labels, batch.partners)

    def multi_task_loss(self, clean: Logits, adversarial: Logits, labels: Tensor, partners: Tensor) -> Tensor:
        """Return α·CE(Z*(x), y) + β·CE(Z*(x_adv), y) + γ·½{CE(Z'(x), M[y]) + J(x_adv, M[y])} (Eq. 8 and 9).

        J(x_adv, M[y]) is −CE(Z'(x_adv), M[y]) clamped (``literal``) or −log(1 − p(M[y] given x_adv)) (``bounded``).

        Args:
            clean: Outputs of benign images.
            adversarial: Outputs of the attacked ones.
            labels: y, int64 ``(B,)``.
            partners: M[y], int64 ``(B,)``.
        """
        assert clean.robust_logits is not None  # a network of this recipe has two heads
        assert adversarial.robust_logits is not None
        accuracy = self.alpha * F.cross_entropy(clean.logits.float(), labels)
        robustness = self.beta * F.cross_entropy(adversarial.logits.float(), labels)
        paired = F.cross_entropy(clean.robust_logits.float(), partners)
        unpaired = self._unpairing_loss(adversarial.robust_logits.float(), partners)
        return accuracy + robustness + self.gamma * 0.5 * (paired + unpaired)

    def _unpairing_loss(self, robust_logits: Tensor, partners: Tensor) -> Tensor:
        if self.robust_loss == "literal":
            cross_entropy = F.cross_entropy(robust_logits, partners, reduction="none")
            return -cross_entropy.clamp(max=self.literal_clamp).mean()
        return F.softplus(-log_odds(robust_logits, partners)).mean()
