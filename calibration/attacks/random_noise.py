"""Random noise: what an attacker does who knows nothing. A defence that falls to it is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from calibration.attacks.attack import Attack, Batch, Crafted, Succeeded, check_count
from calibration.attacks.deployed import Deployed, check_images, round_within
from calibration.attacks.norms import Budget, Norm
from calibration.attacks.starts import generators


@dataclass(frozen=True, kw_only=True)
class RandomNoise(Attack[Deployed]):
    """The first of several uniformly random points of the ball that a deployed guard accepts under a wrong label.

    Where none does, the last of them is returned. It judges success by the verdicts alone, and does not ask
    `succeeded`.

    Attributes:
        epsilon: Radius of the ball, in [0, 1] for L-infinity, at least 0 for L2.
        norm: ``linf`` or ``l2``.
        draws: Most points tried per image, at least 1; each is one query.
        seed: Seed of the points, at least 0; each image draws the same ones whatever the batch size.

    Raises:
        UsageError: A value is out of range.

    Source: Carlini et al. 2019 (On evaluating adversarial robustness), section 5.3: random search must not beat an
        attack, and a defence must stand it.
    """

    name: ClassVar[str] = "noise"
    asks: ClassVar[bool] = True
    epsilon: float
    norm: Norm = "linf"
    draws: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_count("draws", self.draws)
        check_count("seed", self.seed, least=0)
        _ = self.budget

    @property
    def reads(self) -> tuple[str, ...]:
        """The logits tensor whose width is the number of classes."""
        return ("logits",)

    @property
    def budget(self) -> Budget:
        """The ball around an image that it stays in."""
        return Budget(epsilon=self.epsilon, norm=self.norm)

    def _craft(self, victim: Deployed, batch: Batch, succeeded: Succeeded | None) -> Crafted:
        check_images(batch.pixels)
        budget, shape = self.budget, batch.pixels.shape[1:]
        x = batch.pixels.copy()
        rngs = generators(batch, seed=(self.seed,))
        queries = np.zeros(len(x), dtype=np.int64)
        going = np.arange(len(x))
        for _ in range(self.draws):
            center = batch.pixels[going]
            noise = np.stack([budget.draw(rngs[place], shape) for place in going])
            x[going] = round_within(center + noise, center, budget)
            queries[going] += 1
            going = going[~victim.fooled(x[going], batch.classes["labels"][going])]
            if not len(going):
                break
        return Crafted(x=x, queries=queries)
