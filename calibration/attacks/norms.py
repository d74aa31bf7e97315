"""Balls around an image: what may be changed, which way is steepest, how a step is brought back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args, overload

import numpy as np
import numpy.typing as npt

from runtime.errors import UsageError

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
Norm = Literal["linf", "l2"]

_TINY = np.float32(1e-12)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How far attacked pixels may lie from the image.

    Attributes:
        epsilon: Radius of the ball: in [0, 1] for L-infinity, at least 0 for L2, in units of pixels in [0, 1].
        norm: Which distance.

    Raises:
        UsageError: The radius is out of range, or the norm unknown.
    """

    epsilon: float
    norm: Norm = "linf"

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.norm not in get_args(Norm):
            raise UsageError(f"expected norm as {' or '.join(get_args(Norm))}, got {self.norm!r}")
        if self.norm == "linf" and not 0 <= self.epsilon <= 1:
            raise UsageError(
                f"expected epsilon in [0, 1], got {self.epsilon}; pixels are in [0, 1], so 8 grey levels are 8/255"
            )
        if not 0 <= self.epsilon < np.inf:
            raise UsageError(f"expected epsilon as a finite number of at least 0, got {self.epsilon}")

    def project(self, x: FloatArray, center: FloatArray) -> FloatArray:
        """Return the points of the ball around `center` and of [0, 1] that stand for `x`, all ``(n, C, H, W)``.

        For L-infinity it is the nearest point. For L2 the ball comes first, [0, 1] second: clipping moves no pixel
        away from `center`, so both hold.
        """
        radius = np.float32(self.epsilon)
        if self.norm == "linf":
            return np.clip(x, np.maximum(center - radius, 0), np.minimum(center + radius, 1))
        change = x - center
        shrink = np.minimum(1, radius / np.maximum(lengths(change), _TINY))
        return np.clip(center + change * per_image(shrink), 0, 1)

    def steepest(self, gradient: FloatArray) -> FloatArray:
        """Return the direction of length 1 along which a loss of that gradient, ``(n, C, H, W)``, grows fastest."""
        if self.norm == "linf":
            return np.sign(gradient)
        # Scaled first: the squares of tiny gradients underflow.
        largest = np.abs(gradient).max(axis=tuple(range(1, gradient.ndim)), initial=0)
        scaled = gradient / per_image(np.where(largest > 0, largest, 1).astype(np.float32))
        direction: FloatArray = scaled / per_image(np.maximum(lengths(scaled), _TINY))
        return direction

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
        """Return one change drawn uniformly from the ball, of an image's `shape`, float32."""
        radius = np.float32(self.epsilon)
        if self.norm == "linf":
            return radius * (2 * rng.random(shape, dtype=np.float32) - 1)
        direction = rng.standard_normal(shape, dtype=np.float32)
        share = np.float32(rng.random() ** (1 / direction.size))
        return radius * share * direction / max(np.float32(np.linalg.norm(direction)), _TINY)


def lengths(change: FloatArray) -> FloatArray:
    """Return the L2 length of each image's change ``(n, ...)``, ``(n,)`` float32."""
    flat = change.reshape(len(change), math.prod(change.shape[1:]))
    found: FloatArray = np.sqrt(np.einsum("ij,ij->i", flat, flat))
    return found


@overload
def per_image(values: FloatArray) -> FloatArray: ...
@overload
def per_image(values: BoolArray) -> BoolArray: ...
def per_image(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return one value per image, ``(n,)``, as ``(n, 1, 1, 1)``, to go with pixels."""
    return values[:, None, None, None]


def choose_step_size(step_size: float | None, *, budget: Budget, steps: int) -> float:
    """Return the length of a step, in the norm of the budget.

    Args:
        step_size: What was asked for, at least 0 and for L-infinity at most 1; None takes 2.5 · epsilon / steps, which
            reaches every point of the ball from every other (Madry et al. 2018, section 5 and its published code).
        budget: The ball.
        steps: Number of steps.

    Raises:
        UsageError: `step_size` is out of range.
    """
    largest = 1.0 if budget.norm == "linf" else np.inf
    if step_size is None:
        return float(min(largest, 2.5 * budget.epsilon / steps))
    if not 0 <= step_size <= largest or not np.isfinite(step_size):
        raise UsageError(f"expected step_size in [0, {largest:g}], got {step_size}; pixels are in [0, 1]")
    return step_size
