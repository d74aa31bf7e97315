"""Where an attack starts: random points that depend on the image alone, not on its neighbours in a batch."""

from __future__ import annotations

import numpy as np

from calibration.attacks.attack import Batch, FloatArray
from calibration.attacks.norms import Budget


def generators(batch: Batch, *, seed: tuple[int, ...]) -> list[np.random.Generator]:
    """Return a random generator for each image of a batch, seeded with `seed` and its row."""
    return [np.random.default_rng([*seed, int(row)]) for row in batch.rows]


def random_points(batch: Batch, budget: Budget, *, seed: tuple[int, ...]) -> FloatArray:
    """Return a random point of the ball around each image, inside [0, 1], ``(n, C, H, W)`` float32."""
    shape = batch.pixels.shape[1:]
    changes = [budget.draw(rng, shape) for rng in generators(batch, seed=seed)]
    return budget.project(batch.pixels + np.stack(changes), batch.pixels)
