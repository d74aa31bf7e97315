"""What every attack shares: how it is called, what it returns, how its input is checked and cut into batches.

An attack is a function ``attack(graph, pixels, labels, *, targets=None, batch_size=128, **hyperparameters) ->
AttackResult``. Its keyword arguments are the fields of a frozen dataclass, which checks them and returns with the
result, so that a results file records every one. It knows the network and an objective, and nothing of threats, guards
and reject rules.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.gradients import GradientGraph, ValueAndGradient
from calibration.objectives import Objective
from runtime.errors import ModelError, UsageError

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

BATCH_SIZE = 128
"""How many images are attacked at a time; memory is bounded by it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class AttackResult:
    """Adversarial examples and what they cost.

    Attributes:
        x_adv: ``(N, C, H, W)`` float32 in [0, 1].
        gradients: How many gradients each image took, ``(N,)`` int64.
        no_gradient: Where every gradient was zero in every pixel, ``(N,)`` bool: the image was not attacked, which is
            what gradient masking looks like. Whoever reports a rate over these images must say so.
        config: Every hyper-parameter.
    """

    x_adv: FloatArray
    gradients: IntArray
    no_gradient: BoolArray
    config: Any


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Consecutive images under attack.

    Attributes:
        rows: Where they lie in the whole set, ``(n,)`` int64.
        pixels: ``(n, C, H, W)`` float32 in [0, 1].
        classes: The integer labels that the objective names, each ``(n,)``.
    """

    rows: IntArray
    pixels: FloatArray
    classes: dict[str, IntArray]

    def take(self, places: IntArray) -> Batch:
        """Return some of its images, ``(m,)`` integers in [0, n), as a batch of their own."""
        classes = {name: values[places] for name, values in self.classes.items()}
        return Batch(rows=self.rows[places], pixels=self.pixels[places], classes=classes)


def batches(
    graph: GradientGraph,
    objective: Objective,
    pixels: FloatArray,
    labels: IntArray,
    targets: IntArray | None,
    *,
    batch_size: int,
) -> Iterator[Batch]:
    """Check the arguments that all attacks share, then cut them into batches.

    Args:
        graph: The network.
        objective: Whose inputs are taken from `labels` and `targets`.
        pixels: ``(N, C, H, W)`` float32 in [0, 1].
        labels: True labels, ``(N,)`` integers in [0, K).
        targets: Labels to reach, ``(N,)`` integers in [0, K), where the objective has targets.
        batch_size: Images at a time, at least 1.

    Raises:
        UsageError: One of them is not what is said above.
    """
    check_batch_size(batch_size)
    _check_pixels(graph, pixels)
    given = {"labels": labels} | ({} if targets is None else {"targets": targets})
    missing = [name for name in objective.inputs if name not in given]
    if missing:
        raise UsageError(f"expected {' and '.join(missing)} for {objective}, got none; pass them")
    unknown = [name for name in objective.reads if name not in graph.classes]
    if unknown:
        raise UsageError(
            f"expected an objective on {', '.join(graph.of)}, got {', '.join(unknown)}; name it in the graph's `of`"
        )
    k = graph.classes[objective.reads[0]]
    for name, values in given.items():
        _check_labels(name, values, len(pixels), k)
    return _cut(pixels, {name: given[name] for name in objective.inputs}, batch_size)


def ascend(graph: GradientGraph, objective: Objective, x: FloatArray, batch: Batch) -> ValueAndGradient:
    """Return loss, gradient and logits at `x`, ``(n, C, H, W)``, for the labels of a batch.

    Raises:
        ModelError: A gradient is not finite.
    """
    result = graph.value_and_gradient(objective, x, **batch.classes)
    finite = np.isfinite(result.gradient).reshape(len(x), -1).all(axis=1)
    if not finite.all():
        raise ModelError(f"expected finite gradients, got NaN or infinity for {np.sum(~finite)} of {len(x)} images")
    return result


def is_flat(gradient: FloatArray) -> BoolArray:
    """Return which images, ``(n,)``, have a gradient of zero in every pixel."""
    return np.logical_not(gradient.reshape(len(gradient), -1).any(axis=1))


def check_batch_size(batch_size: int) -> None:
    """Check how many images are attacked at a time.

    Raises:
        UsageError: It is no whole number of at least 1.
    """
    check_count("batch_size", batch_size)


def check_count(name: str, value: int, *, least: int = 1) -> None:
    """Check a whole number.

    Raises:
        UsageError: It is none, or below `least`.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"expected {name} as a whole number of at least {least}, got {value!r}")


def check_epsilon(epsilon: float) -> None:
    """Check the radius of an L-infinity ball of pixels in [0, 1].

    Raises:
        UsageError: It is outside [0, 1].
    """
    if not 0 <= epsilon <= 1:
        raise UsageError(f"expected epsilon in [0, 1], got {epsilon}; pixels are in [0, 1], so 8 grey levels are 8/255")


def choose_step_size(step_size: float | None, *, epsilon: float, steps: int) -> float:
    """Return the length of a step in every pixel.

    Args:
        step_size: What was asked for, in [0, 1]; None takes 2.5 · epsilon / steps, which reaches every point of the
            ball from every other (Madry et al. 2018, section 5 and its published code).
        epsilon: Radius of the L-infinity ball.
        steps: Number of steps.

    Raises:
        UsageError: `step_size` is outside [0, 1].
    """
    if step_size is None:
        return min(1.0, 2.5 * epsilon / steps)
    if not 0 <= step_size <= 1:
        raise UsageError(f"expected step_size in [0, 1], got {step_size}; pixels are in [0, 1]")
    return step_size


def _cut(pixels: FloatArray, classes: dict[str, IntArray], size: int) -> Iterator[Batch]:
    for start in range(0, len(pixels), size):
        rows = np.arange(start, min(start + size, len(pixels)))
        yield Batch(rows=rows, pixels=pixels[rows], classes={name: values[rows] for name, values in classes.items()})


def _check_pixels(graph: GradientGraph, pixels: FloatArray) -> None:
    fits = pixels.ndim == 1 + len(graph.shape) and all(
        want == got or not isinstance(want, int) for want, got in zip(graph.shape, pixels.shape[1:], strict=True)
    )
    if pixels.dtype != np.float32 or not fits:
        shape = ", ".join(str(size) for size in graph.shape)
        raise UsageError(
            f"expected pixels as float32 (N, {shape}), got {pixels.dtype} {pixels.shape}; see calibration.pixels"
        )
    if pixels.size and not (pixels.min() >= 0 and pixels.max() <= 1):
        raise UsageError(f"expected pixels in [0, 1], got {pixels.min()} to {pixels.max()}; divide 8-bit images by 255")


def _check_labels(name: str, values: IntArray, count: int, k: int) -> None:
    if values.shape != (count,) or not np.issubdtype(values.dtype, np.integer):
        raise UsageError(f"expected {name} as integers ({count},), got {values.dtype} {values.shape}")
    if values.size and not (values.min() >= 0 and values.max() < k):
        raise UsageError(
            f"expected {name} in [0, {k}), got {values.min()} to {values.max()}; they are class numbers from 0"
        )
