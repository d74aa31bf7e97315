"""Confidences that a guard of two heads could have, for the comparison in ``results/confidences``.

Each is a number for an image and a label, the higher the likelier to be benign. The hard rule (M[argmax Z*] =
argmax Z') stands before all of them. Every one is written twice: in numpy, to judge, and as nodes, so that an attacker
can ascend the very one that judges.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp

from calibration.graphs.tape import Tape
from runtime.errors import UsageError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_HIDDEN = -1e30
_TEMPERATURES = (0.05, 20.0)


@dataclass(frozen=True, kw_only=True)
class Confidence(ABC):
    """A confidence of a label y and its partner M[y].

    Attributes:
        name: What tables call it.
    """

    name: ClassVar[str]

    @abstractmethod
    def of(self, z: FloatArray, robust: FloatArray, labels: IntArray, partners: IntArray) -> FloatArray:
        """Return it for one label of each image, ``(n,)``.

        Args:
            z: Z*, ``(n, K)``.
            robust: Z', ``(n, K)``.
            labels: y, ``(n,)`` in [0, K).
            partners: M[y], ``(n,)``.
        """

    @abstractmethod
    def append(self, tape: Tape, z: str, robust: str, classmap: tuple[int, ...]) -> str:
        """Append it for every label and return its name, ``(N, K)``.

        Args:
            tape: The tape that holds the network.
            z: Name of Z*, ``(N, K)``.
            robust: Name of Z', ``(N, K)``.
            classmap: M.
        """


@dataclass(frozen=True, kw_only=True)
class Product(Confidence):
    """log of softmax(Z*/T)[y] * softmax(Z'/T')[M[y]]: what is exported, with T = T' = 1; a logarithm never saturates.

    Attributes:
        temperatures: T and T', above 0.

    Raises:
        UsageError: A temperature is not above 0.

    Source: Guo et al. 2017 (On Calibration of Modern Neural Networks) for temperatures.
    """

    name: ClassVar[str] = "product"
    temperatures: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        """Check the temperatures."""
        if not all(0 < temperature < np.inf for temperature in self.temperatures):
            raise UsageError(f"expected temperatures as two numbers above 0, got {self.temperatures}")

    def of(self, z: FloatArray, robust: FloatArray, labels: IntArray, partners: IntArray) -> FloatArray:
        """Return it for one label of each image."""
        return np.asarray(
            _log_share(z / self.temperatures[0], labels) + _log_share(robust / self.temperatures[1], partners)
        )

    def append(self, tape: Tape, z: str, robust: str, classmap: tuple[int, ...]) -> str:
        """Append it for every label."""
        first, second = self.temperatures
        shares = _append_log_shares(tape, _cooled(tape, z, first), _cooled(tape, robust, second), classmap)
        return tape.op("Add", *shares)


@dataclass(frozen=True, kw_only=True)
class ScaledProduct(Product):
    """`Product` with temperatures fitted on benign images, see `fit_temperature`."""

    name: ClassVar[str] = "temperature-scaled product"


@dataclass(frozen=True, kw_only=True)
class Minimum(Confidence):
    """log of the smaller of softmax(Z*)[y] and softmax(Z')[M[y]]."""

    name: ClassVar[str] = "minimum"

    def of(self, z: FloatArray, robust: FloatArray, labels: IntArray, partners: IntArray) -> FloatArray:
        """Return it for one label of each image."""
        return np.minimum(_log_share(z, labels), _log_share(robust, partners))

    def append(self, tape: Tape, z: str, robust: str, classmap: tuple[int, ...]) -> str:
        """Append it for every label."""
        return tape.op("Min", *_append_log_shares(tape, z, robust, classmap))


@dataclass(frozen=True, kw_only=True)
class SmallerMargin(Confidence):
    """The smaller of both heads' margins, in logits: ``Z*_y - max_{j != y} Z*_j`` and the same of Z' and M[y]."""

    name: ClassVar[str] = "margin"

    def of(self, z: FloatArray, robust: FloatArray, labels: IntArray, partners: IntArray) -> FloatArray:
        """Return it for one label of each image."""
        return np.minimum(_margin(z, labels), _margin(robust, partners))

    def append(self, tape: Tape, z: str, robust: str, classmap: tuple[int, ...]) -> str:
        """Append it for every label, the largest other logit made soft: log-odds point the way from far off."""
        odds = [_append_log_odds(tape, head, len(classmap)) for head in (z, robust)]
        return tape.op("Min", odds[0], tape.op("Gather", odds[1], tape.ints(*classmap), axis=1))


@dataclass(frozen=True, kw_only=True)
class Energy(Confidence):
    """``log Σ exp Z* + log Σ exp Z'``: minus the energies of both heads, whatever the label.

    Source: Liu et al. 2020 (Energy-based Out-of-distribution Detection), equation 4 with T = 1.
    """

    name: ClassVar[str] = "energy"

    def of(self, z: FloatArray, robust: FloatArray, labels: IntArray, partners: IntArray) -> FloatArray:
        """Return it for each image."""
        return np.asarray(logsumexp(z, axis=1) + logsumexp(robust, axis=1))

    def append(self, tape: Tape, z: str, robust: str, classmap: tuple[int, ...]) -> str:
        """Append it, the same for every label."""
        both = [tape.op("ReduceLogSumExp", head, tape.ints(1), keepdims=1) for head in (z, robust)]
        total = tape.op("Add", *both)
        return tape.op("Mul", total, tape.constant(np.ones((1, len(classmap)))))


@dataclass(frozen=True, kw_only=True)
class WrongLabel:
    """What an attacker ascends who knows the confidence: a wrong label that the rule passes, as confident as can be.

    ``log Σ_{t != y} exp c_t`` with c_t the confidence of label t. What is no product of shares does not lead to where
    the hard rule passes a label; there c_t is that confidence plus the product, which leads to it softly. A penalty on
    the hard margin of the rule was tried instead: half as many fooled, but for energy, where it fooled twice as many.

    Attributes:
        confidence: Which one.
        classmap: M.

    Source: Stutz et al. 2020 (CCAT), section 4, with the confidence of the rule.
    """

    confidence: Confidence
    classmap: tuple[int, ...]

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the logits tensors it reads."""
        return ("logits", "robust_logits")

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of its inputs."""
        return ("labels",)

    def append(self, tape: Tape, logits: Mapping[str, str], classes: int) -> str:
        """Append its nodes and return the name of the loss ``(N,)``."""
        heads = logits["logits"], logits["robust_logits"]
        each = self.confidence.append(tape, *heads, self.classmap)
        if not isinstance(self.confidence, Product):
            each = tape.op("Add", each, Product().append(tape, *heads, self.classmap))
        hidden = tape.op("Mul", tape.input("labels", tape.batch, classes), tape.constant(_HIDDEN))
        return tape.op("ReduceLogSumExp", tape.op("Add", each, hidden), tape.ints(1), keepdims=0)


def fit_temperature(logits: FloatArray, labels: IntArray) -> float:
    """Return the temperature that makes softmax(logits / T) likeliest to say `labels`.

    Args:
        logits: ``(n, K)``.
        labels: ``(n,)`` in [0, K).

    Raises:
        UsageError: There are no images, or not as many labels.

    Source: Guo et al. 2017, section 4.2.
    """
    if not len(logits) or labels.shape != (len(logits),):
        raise UsageError(f"expected a label for each of one or more rows, got {labels.shape} for {logits.shape}")

    def loss(log_temperature: float) -> float:
        return float(-_log_share(logits / np.exp(log_temperature), labels).mean())

    low, high = np.log(_TEMPERATURES)
    return float(np.exp(minimize_scalar(loss, bounds=(low, high), method="bounded").x))


def _log_share(z: FloatArray, labels: IntArray) -> FloatArray:
    return np.asarray(log_softmax(z, axis=1)[np.arange(len(z)), labels])


def _margin(z: FloatArray, labels: IntArray) -> FloatArray:
    rows = np.arange(len(z))
    others = z.copy()
    others[rows, labels] = -np.inf
    return np.asarray(z[rows, labels] - others.max(axis=1))


def _cooled(tape: Tape, z: str, temperature: float) -> str:
    return z if temperature == 1 else tape.op("Div", z, tape.constant(temperature))


def _append_log_shares(tape: Tape, z: str, robust: str, classmap: tuple[int, ...]) -> tuple[str, str]:
    """Append log softmax(Z*)[t] and log softmax(Z')[M[t]] of every label t, ``(N, K)`` each."""
    partners = tape.op("Gather", tape.op("LogSoftmax", robust, axis=1), tape.ints(*classmap), axis=1)
    return tape.op("LogSoftmax", z, axis=1), partners


def _append_log_odds(tape: Tape, z: str, classes: int) -> str:
    """Append ``z_t - log Σ_{j != t} exp z_j`` of every label t, ``(N, K)``: one row of the sum for each t."""
    hidden = tape.constant(_HIDDEN * np.eye(classes)[None])
    others = tape.op("Add", tape.op("Unsqueeze", z, tape.ints(1)), hidden)
    return tape.op("Sub", z, tape.op("ReduceLogSumExp", others, tape.ints(2), keepdims=0))
