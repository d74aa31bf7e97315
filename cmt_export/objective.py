"""The multi-task objective (paper Eq. 8 and 9) and the FGS inside the training loop (Eq. 6), with all their options."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmt_export.networks import Lock, Logits
from runtime.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Every choice that shapes the objective; written whole into the checkpoint and the exported file.

    Attributes:
        name: ``cmt``, the paper's defence, or ``none``, an undefended single head trained with cross-entropy.
        alpha: Weight of CE(Z*(x), y) in Eq. 8.
        beta: Weight of CE(Z*(x_adv), y).
        gamma: Weight of J', Eq. 9.
        robust_loss: How Z' is driven off its pair on x_adv: ``bounded``, −log(1 − p(M[y])); or ``literal``, the paper's
            negative cross-entropy, clamped at `literal_clamp` because it has no lower bound.
        literal_clamp: Largest cross-entropy, in nats, that the literal form rewards.
        epsilon: Largest L∞ step of the training FGS, in units of [0, 1].
        epsilon_sampling: ``uniform``, drawn from (0, epsilon] for each batch; or ``fixed``.
        differentiated: Which logits that FGS differentiates: ``logits`` (Z*) or ``unlocked_logits`` (Z).
        lock: The gradient lock: ``trained``, ``frozen`` or ``none``.
        lock_width: Hidden units of g.
    """

    name: Literal["cmt", "none"] = "cmt"
    alpha: float = 0.4
    beta: float = 0.4
    gamma: float = 0.2
    robust_loss: Literal["bounded", "literal"] = "bounded"
    literal_clamp: float = 10.0
    epsilon: float = 0.3
    epsilon_sampling: Literal["uniform", "fixed"] = "uniform"
    differentiated: Literal["logits", "unlocked_logits"] = "logits"
    lock: Lock = "trained"
    lock_width: int = 64

    def __post_init__(self) -> None:
        """Raise `UsageError` for a value out of range."""
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UsageError(
                    f"recipe: expected {name} to be one of {', '.join(allowed)}, got {getattr(self, name)!r}"
                )
        if min(self.alpha, self.beta, self.gamma) < 0 or abs(self.alpha + self.beta + self.gamma - 1) > 1e-6:
            raise UsageError(
                "recipe: expected alpha, beta, gamma >= 0 that add up to 1, "
                f"got {self.alpha}, {self.beta}, {self.gamma}"
            )
        if not 0 < self.epsilon <= 1:
            raise UsageError(f"recipe: expected epsilon in (0, 1], got {self.epsilon}")
        if self.lock_width < 1 or self.literal_clamp <= 0:
            raise UsageError("recipe: expected lock_width >= 1 and literal_clamp > 0")

    @property
    def defended(self) -> bool:
        """Whether the network has two heads."""
        return self.name != "none"

    def to_json(self) -> dict[str, Any]:
        """Return the options that have a meaning under this name."""
        return asdict(self) if self.defended else {"name": self.name}


CHOICES = {
    "name": ("cmt", "none"),
    "robust_loss": ("bounded", "literal"),
    "epsilon_sampling": ("uniform", "fixed"),
    "differentiated": ("logits", "unlocked_logits"),
    "lock": ("trained", "frozen", "none"),
}
"""What each option of `Recipe` that is a word may be."""


def training_loss(
    network: nn.Module, recipe: Recipe, pixels: Tensor, labels: Tensor, *, classmap: Tensor | None, epsilon: float
) -> Tensor:
    """Return the objective of one batch, a scalar ready for ``backward``.

    The clean forward pass is shared: FGS differentiates it once with respect to the pixels alone, and the objective
    differentiates it again with respect to the weights.

    Args:
        network: Maps pixels to `Logits`.
        recipe: The options.
        pixels: float32 ``(B, C, H, W)`` in [0, 1].
        labels: int64 ``(B,)``.
        classmap: M, int64 ``(K,)``; None only for the recipe ``none``.
        epsilon: This batch's FGS step.
    """
    if not recipe.defended or classmap is None:
        undefended: Logits = network(pixels)
        return F.cross_entropy(undefended.logits.float(), labels)
    pixels = pixels.detach().requires_grad_()
    clean: Logits = network(pixels)
    differentiated = clean.unlocked_logits if recipe.differentiated == "unlocked_logits" else None
    attacked_logits = clean.logits if differentiated is None else differentiated
    (gradient,) = torch.autograd.grad(log_odds(attacked_logits.float(), labels).sum(), pixels, retain_graph=True)
    adversarial: Logits = network(fgs_step(pixels.detach(), gradient, epsilon))
    return multi_task_loss(recipe, clean, adversarial, labels, classmap)


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """Return log((1 − p_y) / p_y) = log Σ_{j≠y} exp(z_j) − z_y for each row, ``(B,)``.

    Its gradient is that of cross-entropy divided by 1 − p_y, a positive number: the same direction, the same sign in
    Eq. 1 and 6, but it does not underflow to zero where the network is sure, which would leave x_adv = x.
    """
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return torch.logsumexp(others, 1) - logits.gather(1, labels[:, None])[:, 0]


def fgs_step(pixels: Tensor, gradient: Tensor, epsilon: float) -> Tensor:
    """Return x + ε·sign(∇x L), clipped to [0, 1] (Eq. 1 and 6)."""
    return (pixels + epsilon * gradient.sign()).clamp_(0, 1)


def multi_task_loss(recipe: Recipe, clean: Logits, adversarial: Logits, labels: Tensor, classmap: Tensor) -> Tensor:
    """Return α·CE(Z*(x), y) + β·CE(Z*(x_adv), y) + γ·½{CE(Z'(x), M[y]) + J(x_adv, M[y])} (Eq. 8 and 9).

    J(x_adv, M[y]) is −CE(Z'(x_adv), M[y]) clamped (``literal``) or −log(1 − p(M[y] given x_adv)) (``bounded``).
    """
    partners = classmap[labels]
    assert clean.robust_logits is not None  # a defended network has two heads
    assert adversarial.robust_logits is not None
    accuracy = recipe.alpha * F.cross_entropy(clean.logits.float(), labels)
    robustness = recipe.beta * F.cross_entropy(adversarial.logits.float(), labels)
    paired = F.cross_entropy(clean.robust_logits.float(), partners)
    unpaired = _unpairing_loss(recipe, adversarial.robust_logits.float(), partners)
    return accuracy + robustness + recipe.gamma * 0.5 * (paired + unpaired)


def _unpairing_loss(recipe: Recipe, robust_logits: Tensor, partners: Tensor) -> Tensor:
    if recipe.robust_loss == "literal":
        cross_entropy = F.cross_entropy(robust_logits, partners, reduction="none")
        return -cross_entropy.clamp(max=recipe.literal_clamp).mean()
    return F.softplus(-log_odds(robust_logits, partners)).mean()
