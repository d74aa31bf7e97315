"""Jacobian-based saliency map attack: two pixels at a time, those that serve the target most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, get_args

import numpy as np

from calibration.attacks.attack import (
    Attack,
    Batch,
    BoolArray,
    Crafted,
    FloatArray,
    IntArray,
    Succeeded,
    check_finite,
    is_flat,
)
from calibration.attacks.saliency import best_pairs
from calibration.gradients import GradientGraph
from calibration.graphs.tape import Tape
from calibration.objectives import one_hot
from runtime.errors import UsageError

_GREY_LEVEL = 1 / 255

SaliencyOf = Literal["probabilities", "logits"]


@dataclass(frozen=True, kw_only=True)
class _LogOdds:
    """log(p / (1 − p)) of the class ``own``: its gradient is that of p over p·(1 − p), and does not vanish with it."""

    of: str

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.of,)

    @property
    def inputs(self) -> tuple[str, ...]:
        return ("own",)

    def append(self, tape: Tape, logits: Mapping[str, str], classes: int) -> str:
        z, chosen, last = logits[self.of], tape.input("own", tape.batch, classes), tape.ints(1)
        own = tape.op("ReduceSum", tape.op("Mul", z, chosen), last, keepdims=0)
        # Far below every logit, yet finite: infinity times a zero cotangent would be NaN.
        hidden = tape.op("Mul", chosen, tape.constant(-1e30))
        return tape.op("Sub", own, tape.op("ReduceLogSumExp", tape.op("Add", z, hidden), last, keepdims=0))


@dataclass(frozen=True, kw_only=True)
class _Along:
    """The sum of the logits weighted with ``directions``: its gradient is their product with the Jacobian."""

    of: str

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.of,)

    @property
    def inputs(self) -> tuple[str, ...]:
        return ("directions",)

    def append(self, tape: Tape, logits: Mapping[str, str], classes: int) -> str:
        weighted = tape.op("Mul", logits[self.of], tape.input("directions", tape.batch, classes))
        return tape.op("ReduceSum", weighted, tape.ints(1), keepdims=0)


class _Slopes(NamedTuple):
    """Logits ``(n, K)``, and what one class gains along each pixel, and all others together, ``(n, D)`` each."""

    logits: FloatArray
    own: FloatArray
    others: FloatArray


@dataclass(frozen=True, kw_only=True)
class Jsma(Attack[GradientGraph]):
    """Adds θ to the two pixels of greatest saliency until the label is the target, or γ of all pixels have changed.

    The saliency of pixels p and q for a target t is −(α_p + α_q)·(β_p + β_q) with α = ∂F_t/∂x and
    β = Σ_{j ≠ t} ∂F_j/∂x, where the pair has α > 0 and β < 0. A pixel is one channel of one place. Pixels that already
    lie where θ leads are out of the search. With θ < 0 pixels are lowered, and the signs of α and β turn.

    F are the probabilities, as the source's algorithms state: then β is −α, and the best pair are the two pixels that
    raise the target's probability most. Their slopes are divided by p_t·(1 − p_t), so that the map does not vanish
    where the network is confident. ``saliency="logits"`` takes F before the softmax, as the source's experiments do. On
    the network of Table 1 that reaches fewer targets (81 of 100 instead of 97), with 1.6 times the pixels.

    Non-targeted, the true label takes the place of the target and the signs of α and β turn: the pair takes most from
    it. Only pixels that have changed already may change once γ leaves no room for two more. An image without a pair of
    the right signs stops.

    Attributes:
        theta: θ, what is added to a pixel, in [−1, 1] and at least 1/255 in size; the source takes 1.
        gamma: γ, largest share of pixels that may change, in (0, 1]; the source takes 14.5 %.
        targeted: Whether to reach ``targets`` instead of any label but ``labels``.
        saliency: What F is; ``logits`` takes two gradients a step, ``probabilities`` one.
        of: The logits tensor under attack.

    Raises:
        UsageError: A value is out of range.

    Source: Papernot et al. 2016 (The limitations of deep learning in adversarial settings), algorithms 2 and 3,
        equations 8 and 9. Non-targeted: Wiyatno and Xu 2018 (Maximal Jacobian-based saliency map attack).
    """

    name: ClassVar[str] = "jsma"
    theta: float = 1.0
    gamma: float = 0.145
    targeted: bool = False
    saliency: SaliencyOf = "probabilities"
    of: str = "logits"

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not _GREY_LEVEL <= abs(self.theta) <= 1:
            raise UsageError(
                f"expected theta of at least one grey level, 1/255, and at most 1, up or down, got {self.theta}; "
                "pixels are in [0, 1]"
            )
        if not 0 < self.gamma <= 1:
            raise UsageError(f"expected gamma in (0, 1], got {self.gamma}; it is a share of the pixels")
        if self.saliency not in get_args(SaliencyOf):
            raise UsageError(f"expected saliency as {' or '.join(get_args(SaliencyOf))}, got {self.saliency!r}")

    @property
    def reads(self) -> tuple[str, ...]:
        """The logits tensors it needs of its victim."""
        return (self.of,)

    @property
    def inputs(self) -> tuple[str, ...]:
        """What it must be told of each image."""
        return ("targets",) if self.targeted else ("labels",)

    def _craft(self, victim: GradientGraph, batch: Batch, succeeded: Succeeded | None) -> Crafted:
        pixels, classes = batch.pixels, batch.classes[self.inputs[0]]
        x = pixels.copy()
        gradients = np.zeros(len(x), dtype=np.int64)
        flat = np.zeros(len(x), dtype=np.bool_)
        # A step that raises the target or lowers the true label is the same for both, but for the sign of the slopes.
        toward = np.sign(np.float32(self.theta)) * (1 if self.targeted else -1)
        going = np.arange(len(x))
        while len(going):
            slopes = self._slopes(victim, x[going], classes[going])
            short = (slopes.logits.argmax(axis=1) == classes[going]) != self.targeted
            flat[going] = short & is_flat(slopes.own) & (gradients[going] == 0)
            gradients[going] += 1 if self.saliency == "probabilities" else 2
            pairs = best_pairs(toward * slopes.own, toward * slopes.others, self._free(x[going], pixels[going]))
            more = short & pairs.found
            going = going[more]
            places = np.stack([pairs.first, pairs.second], axis=1)[more]
            flattened, rows = x.reshape(len(x), -1), going[:, None]
            flattened[rows, places] = np.clip(flattened[rows, places] + np.float32(self.theta), 0, 1)
        return Crafted(x=x, gradients=gradients, flat=flat)

    def _slopes(self, victim: GradientGraph, x: FloatArray, classes: IntArray) -> _Slopes:
        """Return the slopes of one class and of all others, but for a positive factor per image."""
        own = one_hot(classes, victim.classes[self.of])
        if self.saliency == "probabilities":
            run = victim.value_and_gradient(_LogOdds(of=self.of), x, own=own)
            slope = run.gradient.reshape(len(x), -1)
            check_finite(slope)
            return _Slopes(run.logits[self.of], slope, -slope)
        both = np.concatenate([own, 1 - own])
        run = victim.value_and_gradient(_Along(of=self.of), np.concatenate([x, x]), directions=both)
        check_finite(run.gradient)
        slope, others = run.gradient.reshape(2, len(x), -1)
        return _Slopes(run.logits[self.of][: len(x)], slope, others)

    def _free(self, x: FloatArray, pixels: FloatArray) -> BoolArray:
        """Return which pixels may be changed next, ``(n, D)``."""
        now, before = x.reshape(len(x), -1), pixels.reshape(len(x), -1)
        most = int(self.gamma * now.shape[1] + 1e-9)
        changed = now != before
        room = now < 1 if self.theta > 0 else now > 0
        free: BoolArray = room & (changed | (changed.sum(axis=1, keepdims=True) + 2 <= most))
        return free
