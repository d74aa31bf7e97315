"""Running one attack on many images, and checking what it made without trusting it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.attacks import Attack, AttackResult, Budget
from calibration.attacks.attack import Keep, Report, Succeeded, Victim, craft_anew
from runtime.errors import CmtError

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

_ROUNDING = 1e-6


def craft(
    attack: Attack[Any],
    victim: Victim,
    pixels: FloatArray,
    labels: IntArray,
    *,
    targets: IntArray | None = None,
    succeeded: Succeeded,
    report: Report,
    keep: Keep = craft_anew,
) -> AttackResult:
    """Attack images, and check that the attack kept to its budget.

    Args:
        attack: Which attack, with every hyper-parameter.
        victim: What it differentiates or asks.
        pixels: ``(N, C, H, W)`` float32 in [0, 1], N at least 1.
        labels: True labels, ``(N,)`` integers in [0, K).
        targets: Labels to reach, ``(N,)``, for a targeted attack.
        succeeded: Told attacked pixels and the rows of `pixels` they come from; returns which succeeded, ``(n,)`` bool.
        report: Told of ``(done, total)`` images.
        keep: Asked for each batch, see `Keep`.

    Raises:
        UsageError: Pixels or labels are not what is said above.
        ModelError: A gradient is not finite.
        CmtError: The attack left its budget.
    """
    result = attack(victim, pixels, labels, targets=targets, succeeded=succeeded, report=report, keep=keep)
    check_budget(pixels, result.x_adv, budget=attack.budget)
    return result


def check_budget(pixels: FloatArray, x_adv: FloatArray, *, budget: Budget | None) -> None:
    """Check attacked pixels without trusting the attack.

    Args:
        pixels: Before, ``(N, C, H, W)``.
        x_adv: After, of the same shape.
        budget: The ball they had to stay in; None where the attack has none.

    Raises:
        CmtError: The shapes differ, or a value is not finite, outside [0, 1] or, but for float32 rounding, further than
            the radius from where it was.
    """
    if x_adv.shape != pixels.shape:
        raise CmtError(f"attack: expected as many pixels as before, {pixels.shape}, got {x_adv.shape}; it is defective")
    if not (x_adv.min() >= 0 and x_adv.max() <= 1):
        raise CmtError(f"attack: expected pixels in [0, 1], got {x_adv.min()} to {x_adv.max()}; it is defective")
    if budget is None:
        return
    change = (x_adv.astype(np.float64) - pixels).reshape(len(pixels), -1)
    furthest = float(np.linalg.norm(change, ord=np.inf if budget.norm == "linf" else 2, axis=1).max())
    if furthest > budget.epsilon + _ROUNDING * max(1, budget.epsilon):
        raise CmtError(f"attack: expected changes of at most {budget.epsilon}, got {furthest}; it is defective")
