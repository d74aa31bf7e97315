"""Whether a guard still accepts what it promised to accept: a test that may be run every day, for as long as one likes.

A fixed test repeated daily finds a drift sooner or later by chance alone. Here the evidence is a bet against the
promise: its value multiplies with every image, and while the promise holds it ever reaches 1/α with probability α at
most.

Source: Ville 1939; the mixture over the alternative is Robbins 1970. The promise is one-sided, at least p0, and so are
the alternatives, below p0: for them every factor has an expectation of at most 1 under all promises that hold.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import betainc, betaln, xlog1py, xlogy

from calibration.datasets import Dataset
from calibration.judge import classify
from calibration.plausibility import implausible
from calibration.records import from_json
from runtime.atomic import atomic_output
from runtime.errors import UsageError
from runtime.guard import Guard

ALARM = 1000.0
"""Evidence at which a drift is reported: while the promise holds, once in a thousand lives of a guard at most."""


@dataclass(frozen=True, kw_only=True)
class DriftState:
    """What was seen since the threshold was set.

    Attributes:
        digest: Digest of the guard it was seen with.
        acceptance: Share of correctly classified images that it promised to accept, in (0, 1).
        right: Correctly classified images so far.
        accepted: How many of them were accepted.
        data: Digests of the sets they came from, in order.

    Raises:
        UsageError: A number is out of range.
    """

    digest: str
    acceptance: float
    right: int = 0
    accepted: int = 0
    data: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 < self.acceptance < 1:
            raise UsageError(f"expected an acceptance in (0, 1), got {self.acceptance}")
        if not 0 <= self.accepted <= self.right:
            raise UsageError(f"expected accepted images among the right ones, got {self.accepted} of {self.right}")

    def seen(self, *, right: int, accepted: int, data: str) -> DriftState:
        """Return the state after another set of images.

        Raises:
            UsageError: The set was counted before.
        """
        if data in self.data:
            raise UsageError(
                f"--check: expected new images, got a set that was counted before, {data[:12]}; bring others"
            )
        return replace(self, right=self.right + right, accepted=self.accepted + accepted, data=(*self.data, data))

    @property
    def log_evidence(self) -> float:
        """Natural logarithm of the evidence against the promise; see `log_evidence`."""
        return log_evidence(self.accepted, self.right - self.accepted, acceptance=self.acceptance)

    @property
    def drifted(self) -> bool:
        """Whether the evidence has reached `ALARM`."""
        return self.log_evidence >= math.log(ALARM)


class DriftCheck(NamedTuple):
    """What one set of images did.

    Attributes:
        state: Everything seen so far, this set included.
        right: How many images of this set get the right label.
    """

    state: DriftState
    right: int


def log_evidence(accepted: int, rejected: int, *, acceptance: float) -> float:
    """Return log of the mean over p in (0, p0) of ``(p / p0)^accepted * ((1 - p) / (1 - p0))^rejected``.

    Args:
        accepted: Correctly classified images that were accepted.
        rejected: Those that were not.
        acceptance: The promise p0, in (0, 1).
    """
    mass = betainc(accepted + 1, rejected + 1, acceptance)
    if mass == 0:
        return -math.inf
    mixture = betaln(accepted + 1, rejected + 1) + math.log(mass) - math.log(acceptance)
    promised = xlogy(accepted, acceptance) + xlog1py(rejected, -acceptance)
    return float(mixture - promised)


def check_drift(
    guard: Guard,
    dataset: Dataset,
    state: Path | None,
    *,
    progress: Callable[[int], None] = lambda done: None,
    warn: Callable[[str], None] = lambda sentence: None,
) -> DriftCheck:
    """Count the test images of `dataset` as new benign ones, and keep the count.

    Args:
        guard: A calibrated guard.
        dataset: Benign images with their labels.
        state: Where the count is kept, and was kept before; None starts anew and keeps nothing.
        progress: Told of images done.
        warn: Given a sentence where far fewer, or more, images get the right label than in training: wrong labels say
            nothing about the promise, so that hardly any evidence may mean that hardly anything is recognised.

    Raises:
        UsageError: The guard is not calibrated, the data does not fit it, or the state is not its own.
        CmtError: The state cannot be written.
    """
    calibration = guard.spec.calibration
    if calibration is None:
        raise UsageError(
            "--check: expected a calibrated guard, got one without a calibration record; calibrate it first"
        )
    dataset.require_classes(guard.spec.classes, owner="the guard")
    dataset.require_shape(guard.spec.input_shape, owner="the guard")
    test = dataset.test
    before = _load(state, digest=guard.digest, acceptance=calibration.acceptance)
    verdicts = classify(guard, test.images, progress)
    right = verdicts.labels == test.labels
    after = before.seen(right=int(right.sum()), accepted=int(np.sum(right & verdicts.accepted)), data=test.digest)
    for sentence in implausible(guard.spec, images=len(test), right=int(right.sum()), rejected=None):
        warn(sentence)
    if state is not None:
        with atomic_output(state) as temporary:
            temporary.write_text(json.dumps(asdict(after), indent=1) + "\n", encoding="utf-8")
    return DriftCheck(after, int(right.sum()))


def _load(path: Path | None, *, digest: str, acceptance: float) -> DriftState:
    if path is None or not path.exists():
        return DriftState(digest=digest, acceptance=acceptance)
    try:
        state = from_json(DriftState, json.loads(path.read_text(encoding="utf-8")), "state")
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    except (OSError, ValueError, RecursionError):
        raise UsageError(f"{path}: expected a file that `cmt calibrate --check` wrote, got something else") from None
    if (state.digest, state.acceptance) != (digest, acceptance):
        raise UsageError(
            f"{path}: expected the state of guard {digest[:12]}, got that of {state.digest[:12]}; name another --state"
        )
    return state
