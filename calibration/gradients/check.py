"""A gradient graph checks itself: its derivatives against differences of its own logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runtime.errors import UsageError

FloatArray = npt.NDArray[np.float32]
WideArray = npt.NDArray[np.float64]

_STEPS = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
_JITTER = 0.05


@dataclass(frozen=True, kw_only=True)
class GradientCheck:
    """How far a gradient is from central differences, as written into every results file.

    Attributes:
        relative_error: L2 norm over all images of gradient minus difference quotient, over that of the quotient; the
            larger of two kinds of direction. float32 rounding and the kinks of ReLU and max-pooling leave 1e-5 to 1e-1,
            usually 1e-2; a wrong rule leaves about 1.
        images: How many images were used.
        step: Median length of the steps from the images, in the L2 norm.
        seed: Seed of the jitter, the cotangents and the directions.
    """

    relative_error: float
    images: int
    step: float
    seed: int


def check_gradient(
    logits: Callable[[FloatArray], dict[str, FloatArray]],
    vjp: Callable[[FloatArray, Mapping[str, FloatArray]], FloatArray],
    x: FloatArray,
    *,
    seed: int = 0,
) -> GradientCheck:
    """Compare directional derivatives with central differences of float32 logits, summed in float64.

    The inputs are moved by a little noise first: in a flat background max-pooling meets equal values, where no
    derivative exists. One random cotangent per image is then differentiated along a random direction, from which no
    error can hide, and along the gradient itself, where the signal is strongest. Of a few step lengths each image takes
    the one whose quotient agrees best with those of the steps beside it: too short a step drowns in rounding, too long
    a one crosses kinks. The gradient has no part in that choice.

    Args:
        logits: The logits of inputs ``(N, ...)``, each ``(N, K)``.
        vjp: The product of cotangents ``(N, K)`` and the Jacobian.
        x: Inputs, ``(N, ...)`` float32, at least one.
        seed: Seed of the jitter, the cotangents and the directions.

    Raises:
        UsageError: `x` holds no image.
    """
    if not len(x):
        raise UsageError("expected at least one image for the gradient's self-check, got none")
    rng = np.random.default_rng(seed)
    x = x + np.float32(_JITTER) * rng.standard_normal(x.shape, dtype=np.float32)
    here = logits(x)
    weights = {name: rng.standard_normal(z.shape, dtype=np.float32) for name, z in here.items()}
    terms = np.concatenate([weights[name] * here[name] for name in here], axis=1)
    rounding = np.finfo(np.float32).eps * np.linalg.norm(terms, axis=1) / np.array(_STEPS)[:, None]
    gradient = vjp(x, weights).astype(np.float64)
    errors, taken = [], list[float]()
    for direction in (rng.standard_normal(x.shape), gradient):
        unit = _unit(direction)
        quotients = np.stack([_quotient(logits, x, unit, step, weights) for step in _STEPS])
        gaps = np.abs(np.diff(quotients, axis=0))
        steadiest = np.argmin(gaps + np.stack([rounding[0], *gaps[:-1]]) + rounding[:-1], axis=0)
        taken.extend(np.take(_STEPS, steadiest))
        measured = quotients[steadiest, np.arange(len(x))]
        claimed = _per_image(gradient * unit).sum(axis=1)
        size = max(np.linalg.norm(measured), np.finfo(np.float32).tiny)
        errors.append(float(np.linalg.norm(measured - claimed) / size))
    return GradientCheck(relative_error=max(errors), images=len(x), step=float(np.median(taken)), seed=seed)


def _quotient(
    logits: Callable[[FloatArray], dict[str, FloatArray]],
    x: FloatArray,
    unit: WideArray,
    step: float,
    weights: Mapping[str, FloatArray],
) -> WideArray:
    """Return the central difference of the weighted logits along `unit`, ``(N,)``, over the step that float32 made."""
    ahead, behind = (x + step * unit).astype(np.float32), (x - step * unit).astype(np.float32)
    high, low = logits(ahead), logits(behind)
    rise = np.zeros(len(x))
    for name, weight in weights.items():
        rise += ((high[name].astype(np.float64) - low[name]) * weight).sum(axis=1)
    made = (_per_image(ahead.astype(np.float64) - behind) * _per_image(unit)).sum(axis=1)
    return np.asarray(np.divide(rise, made, out=np.zeros(len(x)), where=made > 0))


def _unit(direction: WideArray) -> WideArray:
    flat = _per_image(direction)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    unit = np.divide(flat, length, out=np.zeros_like(flat), where=length > 0)
    return np.asarray(unit.reshape(direction.shape))


def _per_image(values: WideArray) -> WideArray:
    return values.reshape(len(values), -1)
