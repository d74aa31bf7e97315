"""Running one attack on many images, and checking what it made without trusting it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.attacks import AttackResult, FgsConfig, IgsConfig, PgdConfig, fgs, igs, pgd
from calibration.attacks.attack import BATCH_SIZE
from calibration.attacks.pgd import Succeeded
from calibration.gradients import GradientGraph
from runtime.errors import CmtError

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
AttackConfig = FgsConfig | IgsConfig | PgdConfig

ATTACKS: Mapping[str, tuple[type[AttackConfig], Callable[..., AttackResult]]] = {
    "fgs": (FgsConfig, fgs),
    "igs": (IgsConfig, igs),
    "pgd": (PgdConfig, pgd),
}
"""Short name to configuration and function."""

_ROUNDING = 1e-6


def name_of(attack: AttackConfig) -> str:
    """Return the short name of an attack's configuration."""
    return next(name for name, (kind, _) in ATTACKS.items() if isinstance(attack, kind))


def craft(
    attack: AttackConfig,
    graph: GradientGraph,
    pixels: FloatArray,
    labels: IntArray,
    *,
    succeeded: Succeeded,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> AttackResult:
    """Attack images block by block, so that progress shows and Ctrl-C is heard.

    An attack that draws at random gets, for each block of `BATCH_SIZE` images, a seed one higher than for the block
    before.

    Args:
        attack: Which attack, with every hyper-parameter.
        graph: The network it differentiates.
        pixels: ``(N, C, H, W)`` float32 in [0, 1], N at least 1.
        labels: True labels, ``(N,)`` integers in [0, K).
        succeeded: Told attacked pixels and the rows of `pixels` they come from; returns which succeeded, ``(n,)`` bool.
            An attack that starts more than once leaves those alone.
        report: Told of ``(done, total)`` images.

    Raises:
        UsageError: Pixels or labels are not what is said above.
        ModelError: A gradient is not finite.
        CmtError: The attack left its budget.
    """
    run = ATTACKS[name_of(attack)][1]
    options = {field.name: getattr(attack, field.name) for field in fields(attack)}
    blocks = []
    for number, start in enumerate(range(0, len(labels), BATCH_SIZE)):
        rows = slice(start, start + BATCH_SIZE)
        own: dict[str, Any] = {"seed": options["seed"] + number} if "seed" in options else {}
        if isinstance(attack, PgdConfig):
            own["succeeded"] = lambda x, places, start=start: succeeded(x, places + start)
        blocks.append(run(graph, pixels[rows], labels[rows], batch_size=BATCH_SIZE, **options | own))
        report(min(start + BATCH_SIZE, len(labels)), len(labels))
    x_adv = np.concatenate([block.x_adv for block in blocks])
    check_budget(pixels, x_adv, epsilon=attack.epsilon)
    return AttackResult(
        x_adv=x_adv,
        gradients=np.concatenate([block.gradients for block in blocks]),
        no_gradient=np.concatenate([block.no_gradient for block in blocks]),
        config=attack,
    )


def check_budget(pixels: FloatArray, x_adv: FloatArray, *, epsilon: float | None) -> None:
    """Check attacked pixels without trusting the attack.

    Args:
        pixels: Before, ``(N, C, H, W)``.
        x_adv: After, of the same shape.
        epsilon: Radius of the L-infinity ball; None where the attack has none.

    Raises:
        CmtError: The shapes differ, or a value is not finite, outside [0, 1] or, but for float32 rounding, further than
            `epsilon` from where it was.
    """
    if x_adv.shape != pixels.shape:
        raise CmtError(f"attack: expected as many pixels as before, {pixels.shape}, got {x_adv.shape}; it is defective")
    if not (x_adv.min() >= 0 and x_adv.max() <= 1):
        raise CmtError(f"attack: expected pixels in [0, 1], got {x_adv.min()} to {x_adv.max()}; it is defective")
    furthest = float(np.abs(x_adv.astype(np.float64) - pixels).max())
    if epsilon is not None and furthest > epsilon + _ROUNDING:
        raise CmtError(f"attack: expected changes of at most {epsilon}, got {furthest}; it is defective")
