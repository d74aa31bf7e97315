"""What every attack shares: how it is called, what it returns, how its input is checked and cut into batches.

An attack is a frozen dataclass of its hyper-parameters, which it checks, and is called like a function:
``Pgd(epsilon=0.3)(graph, pixels, labels) -> AttackResult``. What it is given to attack, its victim, is a
`GradientGraph`, or for attacks that see decisions only a `Deployed` guard. It knows nothing of threats.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from calibration.attacks.norms import Budget
from calibration.gradients import GradientGraph, ValueAndGradient
from calibration.objectives import CROSS_ENTROPY, Objective
from runtime.errors import ModelError, UsageError

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

BATCH_SIZE = 128
"""How many images are attacked at a time; memory is bounded by it."""

Succeeded = Callable[[FloatArray, IntArray], BoolArray]
"""Told attacked pixels ``(n, C, H, W)`` and which images they are of, ``(n,)``; returns which need no more work."""

Report = Callable[[int, int], None]
"""Told of ``(done, total)`` images."""


def _ignore(done: int, total: int) -> None:
    pass


class Victim(Protocol):
    """What is attacked."""

    @property
    def shape(self) -> tuple[int | str | None, ...]:
        """The axes of its pixels behind the batch axis, ``(C, H, W)``."""

    @property
    def classes(self) -> Mapping[str, int]:
        """K of each logits tensor that can be read."""


V = TypeVar("V", bound=Victim)


@dataclass(frozen=True, kw_only=True, eq=False)
class AttackResult:
    """Adversarial examples and what they cost.

    Attributes:
        x_adv: ``(N, C, H, W)`` float32 in [0, 1].
        gradients: How many gradients each image took, ``(N,)`` int64. A Jacobian counts as its number of rows.
        queries: How many decisions each image took, ``(N,)`` int64.
        no_gradient: Where every gradient was zero in every pixel, ``(N,)`` bool: the image was not attacked, which is
            what gradient masking looks like. Whoever reports a rate over these images must say so.
        attack: Every hyper-parameter.
    """

    x_adv: FloatArray
    gradients: IntArray
    queries: IntArray
    no_gradient: BoolArray
    attack: Attack[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Images under attack.

    Attributes:
        rows: Where they lie in the whole set, ``(n,)`` int64.
        pixels: ``(n, C, H, W)`` float32 in [0, 1].
        classes: The integer labels the attack names in `Attack.inputs`, each ``(n,)``.
    """

    rows: IntArray
    pixels: FloatArray
    classes: dict[str, IntArray]

    def take(self, places: IntArray) -> Batch:
        """Return some of its images, ``(m,)`` integers in [0, n), as a batch of their own."""
        classes = {name: values[places] for name, values in self.classes.items()}
        return Batch(rows=self.rows[places], pixels=self.pixels[places], classes=classes)


@dataclass(frozen=True, kw_only=True, eq=False)
class Crafted:
    """What an attack made of one batch, ``n`` images; see `AttackResult`."""

    x: FloatArray
    gradients: IntArray | int = 0
    queries: IntArray | int = 0
    flat: BoolArray | bool = False


Keep = Callable[[Batch, Callable[[], Crafted]], Crafted]
"""Given a batch and what attacks it; returns what came of it, now or in an earlier run of the same attack."""


def craft_anew(batch: Batch, craft: Callable[[], Crafted]) -> Crafted:
    """Attack a batch, whatever an earlier run did."""
    del batch
    return craft()


@dataclass(frozen=True, kw_only=True)
class Attack(ABC, Generic[V]):
    """An attack with all its hyper-parameters.

    Attributes:
        name: What it is called on the command line and in results.
        asks: Whether it sees decisions only: its victim is a `Deployed` guard, not a `GradientGraph`.
    """

    name: ClassVar[str]
    asks: ClassVar[bool] = False

    @property
    @abstractmethod
    def reads(self) -> tuple[str, ...]:
        """The logits tensors it needs of its victim."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """What it must be told of each image: ``labels``, ``targets`` or both."""
        return ("labels",)

    @property
    def budget(self) -> Budget | None:
        """The ball around an image that it stays in; None where it has none."""
        return None

    def __call__(
        self,
        victim: V,
        pixels: FloatArray,
        labels: IntArray,
        *,
        targets: IntArray | None = None,
        succeeded: Succeeded | None = None,
        report: Report = _ignore,
        keep: Keep = craft_anew,
        batch_size: int = BATCH_SIZE,
    ) -> AttackResult:
        """Attack images, batch by batch.

        The result does not depend on the batch size, but for float32 rounding.

        Args:
            victim: What is attacked.
            pixels: ``(N, C, H, W)`` float32 in [0, 1].
            labels: True labels, ``(N,)`` integers in [0, K).
            targets: Labels to reach, ``(N,)`` integers in [0, K), for a targeted attack.
            succeeded: What counts as success beyond what the attack sees for itself; asked by attacks that try more
                than once, which then leave those images alone.
            report: Told of ``(done, total)`` images after each batch.
            keep: Asked for each batch, see `Keep`.
            batch_size: Images at a time, at least 1.

        Raises:
            UsageError: An argument is not what is said above.
            ModelError: A gradient is not finite.
        """
        x_adv = np.empty_like(pixels)
        gradients, queries = np.zeros((2, len(pixels)), dtype=np.int64)
        no_gradient = np.zeros(len(pixels), dtype=np.bool_)
        for batch in self._batches(victim, pixels, labels, targets, batch_size):
            crafted = keep(batch, partial(self._craft, victim, batch, succeeded))
            x_adv[batch.rows], no_gradient[batch.rows] = crafted.x, crafted.flat
            gradients[batch.rows], queries[batch.rows] = crafted.gradients, crafted.queries
            report(int(batch.rows[-1]) + 1, len(pixels))
        return AttackResult(x_adv=x_adv, gradients=gradients, queries=queries, no_gradient=no_gradient, attack=self)

    @abstractmethod
    def _craft(self, victim: V, batch: Batch, succeeded: Succeeded | None) -> Crafted:
        """Attack one batch."""

    def _batches(
        self, victim: V, pixels: FloatArray, labels: IntArray, targets: IntArray | None, size: int
    ) -> Iterator[Batch]:
        check_count("batch_size", size)
        _check_pixels(victim, pixels)
        unknown = [name for name in self.reads if name not in victim.classes]
        if unknown:
            raise UsageError(
                f"{self.name}: expected logits among {', '.join(victim.classes)}, got {', '.join(unknown)}; "
                "name it in the graph's `of`"
            )
        given = {"labels": labels} | ({} if targets is None else {"targets": targets})
        missing = [name for name in self.inputs if name not in given]
        if missing:
            raise UsageError(f"{self.name}: expected {' and '.join(missing)}, got none; pass them")
        for name, values in given.items():
            _check_labels(name, values, len(pixels), victim.classes[self.reads[0]])
        return _cut(pixels, {name: given[name] for name in self.inputs}, size)


@dataclass(frozen=True, kw_only=True)
class LossAttack(Attack[GradientGraph]):
    """An attack that ascends the loss of an objective.

    Attributes:
        objective: What to ascend; the cross-entropy of the true labels unless said otherwise.
        needs_margin: Whether the objective has to be above 0 exactly where the attack has succeeded.
    """

    needs_margin: ClassVar[bool] = False
    objective: Objective = field(default=CROSS_ENTROPY)

    @property
    def reads(self) -> tuple[str, ...]:
        """The logits tensors it needs of its victim."""
        return self.objective.reads

    @property
    def inputs(self) -> tuple[str, ...]:
        """What it must be told of each image."""
        return self.objective.inputs

    @property
    def aims(self) -> bool:
        """Whether its objective has to be one of targets, which the attack then chooses itself."""
        return False

    def ascend(self, graph: GradientGraph, x: FloatArray, batch: Batch) -> ValueAndGradient:
        """Return loss, gradient and logits at `x`, ``(n, C, H, W)``, for the labels of a batch.

        Raises:
            ModelError: A gradient is not finite.
        """
        result = graph.value_and_gradient(self.objective, x, **batch.classes)
        check_finite(result.gradient)
        return result


def check_finite(gradient: FloatArray) -> None:
    """Check gradients or Jacobians, ``(n, ...)``.

    Raises:
        ModelError: One of them has a value that is not finite.
    """
    finite: BoolArray = np.all(np.isfinite(gradient).reshape(len(gradient), -1), axis=1)
    if not finite.all():
        raise ModelError(
            f"expected finite gradients, got NaN or infinity for {np.sum(~finite)} of {finite.size} images"
        )


def is_flat(gradient: FloatArray) -> BoolArray:
    """Return which images, ``(n,)``, have a gradient of zero in every pixel."""
    return np.logical_not(gradient.reshape(len(gradient), -1).any(axis=1))


def check_count(name: str, value: int, *, least: int = 1) -> None:
    """Check a whole number.

    Raises:
        UsageError: It is none, or below `least`.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"expected {name} as a whole number of at least {least}, got {value!r}")


def _cut(pixels: FloatArray, classes: dict[str, IntArray], size: int) -> Iterator[Batch]:
    for start in range(0, len(pixels), size):
        rows = np.arange(start, min(start + size, len(pixels)))
        yield Batch(rows=rows, pixels=pixels[rows], classes={name: values[rows] for name, values in classes.items()})


def _check_pixels(victim: Victim, pixels: FloatArray) -> None:
    fits = pixels.ndim == 1 + len(victim.shape) and all(
        want == got or not isinstance(want, int) for want, got in zip(victim.shape, pixels.shape[1:], strict=True)
    )
    if pixels.dtype != np.float32 or not fits:
        shape = ", ".join(str(size) for size in victim.shape)
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
