"""Fast gradient sign: one step to the edge of the L-infinity ball."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from calibration.attacks.attack import Batch, Crafted, FloatArray, LossAttack, Succeeded, is_flat
from calibration.attacks.norms import Budget
from calibration.gradients import GradientGraph


@dataclass(frozen=True, kw_only=True)
class Fgs(LossAttack):
    """clip(x + ε·sign(∇x loss), 0, 1).

    Attributes:
        epsilon: Length of the step in every pixel, in [0, 1].

    Raises:
        UsageError: `epsilon` is out of range.

    Source: Goodfellow et al. 2015; equations 1 and 6 of the paper.
    """

    name: ClassVar[str] = "fgs"
    epsilon: float

    def __post_init__(self) -> None:
        """Check the ranges."""
        _ = self.budget

    @property
    def budget(self) -> Budget:
        """The ball around an image that it stays in."""
        return Budget(epsilon=self.epsilon)

    def _craft(self, victim: GradientGraph, batch: Batch, succeeded: Succeeded | None) -> Crafted:
        gradient = self.ascend(victim, batch.pixels, batch).gradient
        x: FloatArray = np.clip(batch.pixels + np.float32(self.epsilon) * np.sign(gradient), 0, 1)
        return Crafted(x=x, gradients=1, flat=is_flat(gradient))
