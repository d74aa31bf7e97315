"""Margins of logits: what Carlini & Wagner's attack solves for, above zero exactly where an attack has succeeded.

Unlike a cross-entropy, a margin says how far a decision is away, in logits, and where it lies: at zero. Margins follow
the decisions of a file to the last bit, for differences of float32 numbers have the sign of their comparison.

Each is written twice: as nodes, to be differentiated, and in numpy, for an attack that goes along its `guide`, which is
smoother, and reads the margin off the logits of the same run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from calibration.graphs.tape import Tape
from calibration.objectives.log_odds import LogOdds, PairLogOdds
from calibration.objectives.objective import Objective
from calibration.objectives.rows import HIDDEN, largest_but, own_of
from calibration.objectives.rule import Classmap, TargetConfidence, WrongConfidence, append_log_confidence
from runtime.errors import UsageError

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


class MarginObjective(Objective, Protocol):
    """An objective that says how far a decision is away, and what to go along to reach it."""

    def margin(self, logits: Mapping[str, FloatArray], classes: Mapping[str, IntArray]) -> FloatArray:
        """Return its values ``(n,)``, given the logits ``(n, K)`` it reads and its inputs as integers ``(n,)``."""

    def guide(self, confidence: float) -> Objective:
        """Return the objective to ascend on the way to a margin of `confidence`."""


@dataclass(frozen=True, kw_only=True)
class Margin:
    """How far one head is from its decision: ``max_{t != y} z_t - z_y``, or, targeted, ``z_t - max_{j != t} z_j``.

    It is above 0 exactly where the head says another label than `labels`, or, targeted, that of `targets`; at 0 two
    logits are equal.

    Attributes:
        of: The logits tensor; ``unlocked_logits`` reads it before the gradient lock.
        targeted: Whether to reach `targets` instead of leaving `labels`.

    Source: Carlini & Wagner 2017, section V-A, f6; equation 4 of the paper is minus this, cut off at κ.
    """

    of: str = "logits"
    targeted: bool = False

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the logits tensors it reads."""
        return (self.of,)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of its inputs."""
        return ("targets",) if self.targeted else ("labels",)

    def append(self, tape: Tape, logits: Mapping[str, str], classes: int) -> str:
        """Append its nodes and return the name of the loss ``(N,)``."""
        z, chosen = logits[self.of], tape.input(self.inputs[0], tape.batch, classes)
        own, others = own_of(tape, z, chosen), largest_but(tape, z, chosen)
        return tape.op("Sub", own, others) if self.targeted else tape.op("Sub", others, own)

    def margin(self, logits: Mapping[str, FloatArray], classes: Mapping[str, IntArray]) -> FloatArray:
        """Return its values ``(n,)``."""
        own, others = _split(logits[self.of], classes[self.inputs[0]])
        difference: FloatArray = own - others.max(axis=1)
        return difference if self.targeted else -difference

    def guide(self, confidence: float) -> Objective:
        """Return the log-odds of the same decision, whatever κ."""
        del confidence
        return LogOdds(of=self.of, targeted=self.targeted)


@dataclass(frozen=True, kw_only=True)
class PairMargin:
    """How far the rule that pairs two heads is from accepting a label: the worse of the margins of both heads.

    For a label t it is ``min(z*_t - max_{j != t} z*_j, z'_{M[t]} - max_{j != M[t]} z'_j)``, with a threshold τ also
    ``log p*(t) + log p'(M[t]) - log τ``, where z* are the logits, z' the robust logits and p their softmax. Targeted it
    is that of `targets`, else the largest over all wrong labels. It is above 0 exactly where the rule accepts the
    target, or some wrong label. Of the two heads only the worse one has a gradient: none can pay for the other.

    With a single head, ``classmap=None``, it is that head's margin, and the term of a threshold ``log p(t) - log τ``.

    Attributes:
        classmap: M of the file under attack, or None for a single head.
        threshold: τ of the file under attack, in [0, 1].
        targeted: Whether to reach `targets` instead of leaving `labels`.
        logits: The tensor that plays z*; ``unlocked_logits`` reads it before the gradient lock, where zero is no longer
            the rule's own boundary.

    Raises:
        UsageError: `threshold` is out of range.

    Source: the rule of section 3.3.1 of the paper; Carlini & Wagner 2017, section V-A, f6, for each head.
    """

    classmap: Classmap
    threshold: float = 0.0
    targeted: bool = False
    logits: str = "logits"

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"expected threshold in [0, 1], got {self.threshold}; it is that of the guard")

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the logits tensors it reads."""
        return (self.logits,) if self.classmap is None else (self.logits, "robust_logits")

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of its inputs."""
        return ("targets",) if self.targeted else ("labels",)

    def append(self, tape: Tape, logits: Mapping[str, str], classes: int) -> str:
        """Append its nodes and return the name of the loss ``(N,)``."""
        if self.classmap is None and not self.threshold:
            return Margin(of=self.logits, targeted=self.targeted).append(tape, logits, classes)
        terms = [_margins(tape, logits[self.logits], classes)]
        if self.classmap is not None:
            robust = _margins(tape, logits["robust_logits"], classes)
            terms.append(tape.op("Gather", robust, tape.ints(*self.classmap), axis=1))
        if self.threshold:
            confidence = append_log_confidence(tape, [logits[name] for name in self.reads], self.classmap)
            terms.append(tape.op("Sub", confidence, tape.constant(math.log(self.threshold))))
        worst = tape.op("Min", *terms)
        chosen = tape.input(self.inputs[0], tape.batch, classes)
        return own_of(tape, worst, chosen) if self.targeted else largest_but(tape, worst, chosen)

    def margin(self, logits: Mapping[str, FloatArray], classes: Mapping[str, IntArray]) -> FloatArray:
        """Return its values ``(n,)``."""
        if self.classmap is None and not self.threshold:
            return Margin(of=self.logits, targeted=self.targeted).margin(logits, classes)
        partners = [np.arange(logits[self.logits].shape[1])]
        if self.classmap is not None:
            partners.append(np.array(self.classmap))
        heads = list(zip((logits[name] for name in self.reads), partners, strict=True))
        worst = np.min([_all_margins(z)[:, partner] for z, partner in heads], axis=0)
        if self.threshold:
            confidence = np.sum([_log_softmax(z)[:, partner] for z, partner in heads], axis=0)
            worst = np.minimum(worst, confidence - np.float32(math.log(self.threshold)))
        own, others = _split(worst, classes[self.inputs[0]])
        return own if self.targeted else others.max(axis=1)

    def guide(self, confidence: float) -> Objective:
        """Return what both heads lack for κ log-odds."""
        if self.classmap is None and not self.threshold:
            return Margin(of=self.logits, targeted=self.targeted).guide(confidence)
        return PairLogOdds(classmap=self.classmap, confidence=confidence, targeted=self.targeted, logits=self.logits)


@dataclass(frozen=True, kw_only=True)
class SummedMargins:
    """The paper's attack on both heads at once: the weighted sum of their margins, for one target.

    ``η1 · (z*_t - max_{j != t} z*_j) + η2 · (z'_{M[t]} - max_{j != M[t]} z'_j)``. Above 0 it does not say that the rule
    accepts t, for one head can pay for the other: that is what `PairMargin` mends. It is here to reproduce.

    Attributes:
        classmap: M of the file under attack.
        weights: η1 and η2, each above 0.
        cap: Where each margin is cut off: with the κ of the attack, each head's loss is equation 4, and with weights
            that sum to 1 the sum reaches κ exactly where both heads do. None cuts off nothing.
        logits: The tensor that plays z*; ``unlocked_logits`` reads it before the gradient lock.

    Raises:
        UsageError: A weight is not above 0, or `cap` below 0.

    Source: equation 10 of the paper, with equation 4 as L1 and L2 (section 4.4: it is carried out with C&W).
    """

    classmap: tuple[int, ...]
    weights: tuple[float, float] = (0.5, 0.5)
    cap: float | None = None
    logits: str = "logits"

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not all(0 < weight < math.inf for weight in self.weights):
            raise UsageError(f"expected weights as two numbers above 0, got {self.weights}")
        if self.cap is not None and not 0 <= self.cap < math.inf:
            raise UsageError(f"expected cap as a number of at least 0, got {self.cap}")

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the logits tensors it reads."""
        return (self.logits, "robust_logits")

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of its inputs."""
        return ("targets",)

    def append(self, tape: Tape, logits: Mapping[str, str], classes: int) -> str:
        """Append its nodes and return the name of the loss ``(N,)``."""
        target = tape.input("targets", tape.batch, classes)
        partner = tape.op("MatMul", target, tape.constant(np.eye(classes)[list(self.classmap)]))
        terms = []
        for name, chosen, weight in zip(self.reads, (target, partner), self.weights, strict=True):
            z = logits[name]
            margin = tape.op("Sub", own_of(tape, z, chosen), largest_but(tape, z, chosen))
            if self.cap is not None:
                margin = tape.op("Min", margin, tape.constant(self.cap))
            terms.append(tape.op("Mul", margin, tape.constant(weight)))
        return tape.op("Add", *terms)

    def margin(self, logits: Mapping[str, FloatArray], classes: Mapping[str, IntArray]) -> FloatArray:
        """Return its values ``(n,)``."""
        targets = classes["targets"]
        total = np.zeros(len(targets), dtype=np.float32)
        partners = (targets, np.array(self.classmap)[targets])
        for name, label, weight in zip(self.reads, partners, self.weights, strict=True):
            own, others = _split(logits[name], label)
            margin = own - others.max(axis=1)
            total += np.float32(weight) * (margin if self.cap is None else np.minimum(margin, np.float32(self.cap)))
        return total

    def guide(self, confidence: float) -> Objective:
        """Return itself: it is here to reproduce."""
        del confidence
        return self


def decides(objective: Objective, logits: Mapping[str, FloatArray], classes: Mapping[str, IntArray]) -> BoolArray:
    """Return where two heads name the same wrong label, or the target, ``(n,)``: what `objective` is a means to.

    The point with the greatest confidence in all wrong labels together need not be one. Objectives that are not about
    two heads decide nothing beyond their value: nowhere.

    Args:
        objective: What is ascended.
        logits: What it reads, ``(n, K)`` each.
        classes: Its inputs, integers ``(n,)``.
    """
    if not isinstance(objective, WrongConfidence | TargetConfidence) or objective.classmap is None:
        return np.zeros(len(logits[objective.reads[0]]), dtype=np.bool_)
    targeted = isinstance(objective, TargetConfidence)
    hard = PairMargin(classmap=objective.classmap, logits=objective.logits, targeted=targeted)
    decided: BoolArray = hard.margin(logits, classes) > 0
    return decided


def _margins(tape: Tape, z: str, classes: int) -> str:
    """Append ``z_t - max_{j != t} z_j`` for every class t, ``(N, K)``.

    The largest other is the first of all, but for the first itself, whose largest other is the second. Of several that
    are equally large exactly one is hidden to find the second.
    """
    axis = tape.ints(1)
    top = tape.op("Equal", tape.op("ArgMax", z, axis=1, keepdims=1), tape.ints(*range(classes)))
    first = tape.op("ReduceMax", z, axis, keepdims=1)
    second = tape.op("ReduceMax", tape.op("Where", top, tape.constant(HIDDEN), z), axis, keepdims=1)
    return tape.op("Sub", z, tape.op("Where", top, second, first))


def _split(rows: FloatArray, labels: IntArray) -> tuple[FloatArray, FloatArray]:
    """Return the element of each row ``(n, K)`` that a label names, ``(n,)``, and the rows with that one hidden."""
    places = np.arange(len(rows))
    others = rows.copy()
    others[places, labels] = HIDDEN
    return rows[places, labels], others


def _all_margins(z: FloatArray) -> FloatArray:
    """Return what `_margins` appends."""
    top = z.argmax(axis=1)
    first, others = _split(z, top)
    largest_other = np.repeat(first[:, None], z.shape[1], axis=1)
    largest_other[np.arange(len(z)), top] = others.max(axis=1)
    return z - largest_other


def _log_softmax(z: FloatArray) -> FloatArray:
    shifted = z - z.max(axis=1, keepdims=True)
    logarithms: FloatArray = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logarithms
