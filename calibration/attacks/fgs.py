"""Fast gradient sign: one step to the edge of the L-infinity ball."""

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
    check_epsilon,
    is_flat,
)
from calibration.gradients import GradientGraph
from calibration.objectives import CROSS_ENTROPY, Objective


@dataclass(frozen=True, kw_only=True)
class FgsConfig:
    """Hyper-parameters of `fgs`.

    Attributes:
        epsilon: Length of the step in every pixel, in [0, 1].
        objective: What to ascend.

    Raises:
        UsageError: `epsilon` is out of range.
    """

    epsilon: float
    objective: Objective = CROSS_ENTROPY

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_epsilon(self.epsilon)


def fgs(
    graph: GradientGraph,
    pixels: FloatArray,
    labels: IntArray,
    *,
    epsilon: float,
    objective: Objective = FgsConfig.objective,
    targets: IntArray | None = None,
    batch_size: int = BATCH_SIZE,
) -> AttackResult:
    """Return clip(x + ε·sign(∇x loss), 0, 1).

    Args:
        graph: The network.
        pixels: ``(N, C, H, W)`` float32 in [0, 1].
        labels: True labels, ``(N,)`` integers in [0, K).
        epsilon: Length of the step in every pixel, in [0, 1].
        objective: What to ascend; cross-entropy of `labels` unless said otherwise.
        targets: Labels to reach, ``(N,)``, for a targeted objective.
        batch_size: Images at a time.

    Raises:
        UsageError: An argument is not what is said above.
        ModelError: A gradient is not finite.

    Source: Goodfellow et al. 2015; equations 1 and 6 of the paper.
    """
    config = FgsConfig(epsilon=epsilon, objective=objective)
    x_adv = np.empty_like(pixels)
    no_gradient = np.zeros(len(pixels), dtype=np.bool_)
    for batch in batches(graph, objective, pixels, labels, targets, batch_size=batch_size):
        gradient = ascend(graph, objective, batch.pixels, batch).gradient
        no_gradient[batch.rows] = is_flat(gradient)
        x_adv[batch.rows] = np.clip(batch.pixels + np.float32(epsilon) * np.sign(gradient), 0, 1)
    gradients = np.ones(len(pixels), dtype=np.int64)
    return AttackResult(x_adv=x_adv, gradients=gradients, no_gradient=no_gradient, config=config)
