"""Iterative gradient sign (basic iterative method): small steps inside the L-infinity ball."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from calibration.attacks.attack import (
    BATCH_SIZE,
    AttackResult,
    FloatArray,
    IntArray,
    ascend,
    batches,
    check_count,
    check_epsilon,
    choose_step_size,
    is_flat,
)
from calibration.gradients import GradientGraph
from calibration.objectives import CROSS_ENTROPY, Objective


@dataclass(frozen=True, kw_only=True)
class IgsConfig:
    """Hyper-parameters of `igs`.

    Attributes:
        epsilon: Radius of the ball, in [0, 1].
        step_size: Length of a step in every pixel, in [0, 1]; None takes 2.5 · epsilon / steps.
        steps: Number of steps, at least 1; always all of them.
        random_start: Whether to start at a uniformly random point of the ball instead of the image.
        objective: What to ascend.
        seed: Seed of the random start.

    Raises:
        UsageError: A value is out of range.
    """

    epsilon: float
    step_size: float | None = None
    steps: int = 20
    random_start: bool = False
    objective: Objective = CROSS_ENTROPY
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges and fill in the step size."""
        check_epsilon(self.epsilon)
        check_count("steps", self.steps)
        object.__setattr__(self, "step_size", choose_step_size(self.step_size, epsilon=self.epsilon, steps=self.steps))


def igs(
    graph: GradientGraph,
    pixels: FloatArray,
    labels: IntArray,
    *,
    epsilon: float,
    step_size: float | None = IgsConfig.step_size,
    steps: int = IgsConfig.steps,
    random_start: bool = IgsConfig.random_start,
    objective: Objective = IgsConfig.objective,
    seed: int = IgsConfig.seed,
    targets: IntArray | None = None,
    batch_size: int = BATCH_SIZE,
) -> AttackResult:
    """Repeat x ← clip(x + α·sign(∇x loss)) to the ball around the image and to [0, 1].

    Equation 2 prints a minus sign, which would help the classifier; as in its source the step ascends.

    Args:
        graph: The network.
        pixels: ``(N, C, H, W)`` float32 in [0, 1].
        labels: True labels, ``(N,)`` integers in [0, K).
        epsilon: Radius of the ball, in [0, 1].
        step_size: α; see `IgsConfig`.
        steps: Number of steps.
        random_start: Whether to start at a random point of the ball; each image draws the same one whatever the batch
            size.
        objective: What to ascend; cross-entropy of `labels` unless said otherwise.
        seed: Seed of the random start.
        targets: Labels to reach, ``(N,)``, for a targeted objective.
        batch_size: Images at a time.

    Raises:
        UsageError: An argument is not what is said above.
        ModelError: A gradient is not finite.

    Source: Kurakin et al. 2017 (Adversarial examples in the physical world), section 2.2; equation 2 of the paper.
    """
    config = IgsConfig(
        epsilon=epsilon, step_size=step_size, steps=steps, random_start=random_start, objective=objective, seed=seed
    )
    rng = np.random.default_rng(seed)
    radius, length = np.float32(epsilon), np.float32(config.step_size)
    x_adv = np.empty_like(pixels)
    no_gradient = np.ones(len(pixels), dtype=np.bool_)
    for batch in batches(graph, objective, pixels, labels, targets, batch_size=batch_size):
        low, high = np.maximum(batch.pixels - radius, 0), np.minimum(batch.pixels + radius, 1)
        x = batch.pixels.copy()
        if random_start:
            x += radius * (2 * rng.random(x.shape, dtype=np.float32) - 1)
            np.clip(x, low, high, out=x)
        for _ in range(steps):
            gradient = ascend(graph, objective, x, batch).gradient
            no_gradient[batch.rows] &= is_flat(gradient)
            x += length * np.sign(gradient)
            np.clip(x, low, high, out=x)
        x_adv[batch.rows] = x
    gradients = np.full(len(pixels), steps, dtype=np.int64)
    return AttackResult(x_adv=x_adv, gradients=gradients, no_gradient=no_gradient, config=config)
