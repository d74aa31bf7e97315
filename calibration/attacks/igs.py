"""Iterative gradient sign (basic iterative method): small steps inside the ball."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from calibration.attacks.attack import Batch, Crafted, LossAttack, Succeeded, check_count, is_flat
from calibration.attacks.norms import Budget, Norm, choose_step_size
from calibration.attacks.starts import random_points
from calibration.gradients import GradientGraph


@dataclass(frozen=True, kw_only=True)
class Igs(LossAttack):
    """Repeat x ← x + α·(steepest direction of the loss), brought back to the ball around the image and to [0, 1].

    Equation 2 prints a minus sign, which would help the classifier; as in its source the step ascends.

    Attributes:
        epsilon: Radius of the ball, in [0, 1] for L-infinity, at least 0 for L2.
        norm: ``linf`` steps along the sign of the gradient, ``l2`` along the gradient.
        step_size: α, the length of a step; None takes 2.5 · epsilon / steps.
        steps: Number of steps, at least 1; always all of them.
        random_start: Whether to start at a uniformly random point of the ball instead of the image; each image draws
            the same one whatever the batch size.
        seed: Seed of the random start, at least 0.

    Raises:
        UsageError: A value is out of range.

    Source: Kurakin et al. 2017 (Adversarial examples in the physical world), section 2.2; equation 2 of the paper.
    """

    name: ClassVar[str] = "igs"
    epsilon: float
    norm: Norm = "linf"
    step_size: float | None = None
    steps: int = 20
    random_start: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges and fill in the step size."""
        check_count("steps", self.steps)
        check_count("seed", self.seed, least=0)
        object.__setattr__(self, "step_size", choose_step_size(self.step_size, budget=self.budget, steps=self.steps))

    @property
    def budget(self) -> Budget:
        """The ball around an image that it stays in."""
        return Budget(epsilon=self.epsilon, norm=self.norm)

    def _craft(self, victim: GradientGraph, batch: Batch, succeeded: Succeeded | None) -> Crafted:
        budget, length = self.budget, np.float32(self.step_size)
        x = random_points(batch, budget, seed=(self.seed,)) if self.random_start else batch.pixels
        flat = np.ones(len(x), dtype=np.bool_)
        for _ in range(self.steps):
            gradient = self.ascend(victim, x, batch).gradient
            flat &= is_flat(gradient)
            x = budget.project(x + length * budget.steepest(gradient), batch.pixels)
        return Crafted(x=x, gradients=self.steps, flat=flat)
