"""The acceptance threshold, set on held-out benign images through the exported graph itself.

Acceptance is the share of correctly classified images that are accepted. The hard rule (M[argmax Z*] = argmax Z')
rejects some of them whatever the threshold; no threshold can accept more than what it leaves.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.datasets import Dataset, Split, make_dataset
from calibration.golden import choose_golden, with_golden
from calibration.judge import Judge, classify
from calibration.stamping import set_threshold
from runtime.artifact import read_artifact
from runtime.errors import CmtError, UsageError
from runtime.guard import Guard

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

LEAST_IMAGES = 100
"""Fewer held-out images than this say too little about a share of 99 %."""


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    """How a threshold is set.

    Attributes:
        acceptance: Share of correctly classified images to accept, in (0, 1].
        n: Size of the attack's sample of test images, which calibration leaves alone.
        seed: What that sample is drawn with.

    Raises:
        UsageError: A value is out of range.
    """

    acceptance: float
    n: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_acceptance(self.acceptance)
        if self.n < 0:
            raise UsageError(f"-n: expected the number of images that the attack takes, 0 or more, got {self.n}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibrated:
    """A file with its new threshold.

    Attributes:
        model: The file.
        threshold: Smallest confidence that is accepted; a float32.
        reached: Share of the correctly classified images that it accepts.
        reachable: The share that the hard rule alone leaves.
        images: How many held-out images it was measured on.
        right: How many of them are correctly classified.
        data: Their SHA-256.
    """

    model: bytes
    threshold: float
    reached: float
    reachable: float
    images: int
    right: int
    data: str


def threshold_at_acceptance(
    confidence: FloatArray, correct: BoolArray, passes: BoolArray, *, acceptance: float
) -> float:
    """Return the largest threshold that accepts at least `acceptance` of the correctly classified images.

    Args:
        confidence: One float32 for each held-out benign image, ``(n,)``, in [0, 1]; higher means keep.
        correct: Whether that image is classified correctly, ``(n,)``.
        passes: Whether the hard rule passes it, ``(n,)``: its verdict at threshold 0.
        acceptance: Share to accept, in (0, 1].

    Returns:
        A float32 value, one of the confidences: the comparison in the graph, made in float32, accepts it.

    Raises:
        UsageError: The shapes differ, nothing is correct, `acceptance` is out of range, or the hard rule alone rejects
            more.

    Source: Stutz et al. 2020 (confidence-calibrated adversarial training), section 4: the threshold at 99 % true
    positive rate, here with a rule that no threshold switches off.
    """
    check_acceptance(acceptance)
    if not confidence.shape == correct.shape == passes.shape or confidence.ndim != 1 or confidence.dtype != np.float32:
        raise UsageError(
            f"expected one float32 confidence, correctness and pass each, got {confidence.dtype} {confidence.shape}, "
            f"{correct.shape}, {passes.shape}"
        )
    right = int(correct.sum())
    if not right:
        raise UsageError("expected correctly classified images, got none; is this data of the same classes?")
    keep = np.sort(confidence[correct & passes])[::-1]
    needed = math.ceil(Fraction(str(acceptance)) * right)
    if len(keep) < needed:
        # Rounded down, so that the share it names can really be asked for.
        reachable = math.floor(10_000 * len(keep) / right) / 10_000
        raise UsageError(
            f"--accept: expected at most {reachable:.4f}, the share of {right} correctly classified images "
            f"that the rule accepts without a threshold, got {acceptance}; ask for less, or train with less --epsilon"
        )
    return float(keep[needed - 1])


def calibrate(
    guard: str | os.PathLike[str] | bytes,
    dataset: Dataset,
    config: CalibrationConfig,
    *,
    device: str = "auto",
    threads: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Calibrated:
    """Set a file's threshold on the test images that the attack's sample leaves.

    Args:
        guard: The guard file, its old threshold stale or not; it is not changed.
        dataset: Whose test split is used.
        config: How.
        device: As for `Guard`.
        threads: As for `Guard`.
        progress: Told of ``(done, total)`` images.

    Returns:
        The new file, which was started and has accepted the share it claims.

    Raises:
        UsageError: The data does not fit the file, too few images are left, or the share cannot be reached.
        ModelError: The file is not a valid guard.
    """
    artifact = read_artifact(guard, stale=True)
    owner = "the file" if isinstance(guard, bytes) else os.fspath(guard)
    dataset.require_classes(artifact.spec.classes, owner=owner)
    dataset.require_shape(artifact.spec.input_shape, owner=owner)
    held_out = held_out_images(dataset, n=config.n, seed=config.seed)
    record: dict[str, Any] = {"data": held_out.digest, "images": len(held_out), "acceptance": config.acceptance}

    total = 2 * len(held_out)
    open_file = set_threshold(artifact.model, 0.0, **record, reached=1.0)
    hard_rule = Judge(read_artifact(open_file), source="images", device=device, threads=threads)
    verdicts = hard_rule.verdicts(held_out.images, lambda done: progress(done, total))
    correct = verdicts.labels == held_out.labels
    threshold = threshold_at_acceptance(verdicts.confidence, correct, verdicts.accepted, acceptance=config.acceptance)
    accepted = verdicts.accepted & (verdicts.confidence >= np.float32(threshold))
    reached = float(accepted[correct].mean())
    model = with_golden(
        set_threshold(open_file, threshold, **record, reached=reached),
        choose_golden(held_out.images, verdicts, threshold=threshold),
    )
    with Guard(model, device=device, threads=threads) as calibrated:
        again = classify(calibrated, held_out.images, lambda done: progress(len(held_out) + done, total))
    if not np.array_equal(again.accepted, accepted):
        raise CmtError(
            f"calibrate: expected the new file to accept the same {accepted.sum()} images, got {again.accepted.sum()}; "
            "this device does not compute the same twice, use --device cpu"
        )
    return Calibrated(
        model=model,
        threshold=threshold,
        reached=reached,
        reachable=float(verdicts.accepted[correct].mean()),
        images=len(held_out),
        right=int(correct.sum()),
        data=held_out.digest,
    )


def held_out_images(dataset: Dataset, *, n: int, seed: int) -> Split:
    """Return the test images outside the attack's sample of `n`, so that no image both sets a threshold and tests it.

    Raises:
        UsageError: Fewer than `LEAST_IMAGES` are left.
    """
    test = dataset.test
    rows = np.setdiff1d(np.arange(len(test)), test.sample(n, seed=seed))
    if len(rows) < LEAST_IMAGES:
        most = max(len(test) - LEAST_IMAGES, 0)
        raise UsageError(
            f"{dataset.name}: expected at least {LEAST_IMAGES} test images beside the attack's -n {n}, got {len(rows)} "
            f"of {len(test)}; attack and calibrate with -n {most} or less, or bring more test images"
        )
    part = (test.images[rows], test.labels[rows])
    return make_dataset(dataset.name, dataset.classes, part, part).test


def check_acceptance(acceptance: float) -> None:
    """Check a share of images to accept.

    Raises:
        UsageError: It is outside (0, 1].
    """
    if not 0 < acceptance <= 1:
        raise UsageError(f"--accept: expected a share in (0, 1], got {acceptance}; 0.99 keeps 99 %")
