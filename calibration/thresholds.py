"""The acceptance threshold, set on held-out benign images through the exported graph itself.

Acceptance is the share of correctly classified images that are accepted. The hard rule (M[argmax Z*] = argmax Z')
rejects some of them whatever the threshold; no threshold can accept more than what it leaves.

The guarantee is that of split conformal prediction: if the next image is drawn as the held-out ones were, and is
classified correctly, it is accepted with at least the asked probability. The rank that gives it is one of n + 1, not of
n, since the next image counts too. It holds on average over held-out sets; the exact interval of the accepted share
says what one of them can be off.
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
from calibration.metrics import share
from calibration.plausibility import implausible
from calibration.stamping import set_threshold
from runtime.artifact import read_artifact
from runtime.errors import CmtError, UsageError
from runtime.guard import Guard

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.integer]
BoolArray = npt.NDArray[np.bool_]

LEAST_IMAGES = 100
"""Fewer held-out images than this say too little about a share of 99 %."""


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    """How a threshold is set.

    Attributes:
        acceptance: Share of correctly classified images to accept, in (0, 1); no sample guarantees 1.
        per_class: Whether the guarantee holds for each class by itself: the threshold is then the lowest that any of
            them needs.
        n: Size of the attack's sample of test images, which calibration leaves alone.
        seed: What that sample is drawn with.

    Raises:
        UsageError: A value is out of range.
    """

    acceptance: float
    per_class: bool = False
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
        interval: Its exact 95 % interval.
        reachable: The share that the hard rule alone leaves.
        images: How many held-out images it was measured on.
        right: How many of them are correctly classified.
        data: Their SHA-256.
    """

    model: bytes
    threshold: float
    reached: float
    interval: tuple[float, float]
    reachable: float
    images: int
    right: int
    data: str


def threshold_at_acceptance(
    confidence: FloatArray,
    correct: BoolArray,
    passes: BoolArray,
    *,
    acceptance: float,
    classes: IntArray | None = None,
) -> float:
    """Return the largest threshold that guarantees to accept the next correctly classified image often enough.

    Args:
        confidence: One float32 for each held-out benign image, ``(n,)``, in [0, 1]; higher means keep.
        correct: Whether that image is classified correctly, ``(n,)``.
        passes: Whether the hard rule passes it, ``(n,)``: its verdict at threshold 0.
        acceptance: Probability to accept it, in (0, 1).
        classes: Its class, ``(n,)``, where the guarantee is to hold for each class by itself; None for all together.

    Returns:
        A float32 value, one of the confidences: the comparison in the graph, made in float32, accepts it.

    Raises:
        UsageError: The shapes differ, `acceptance` is out of range, the images are too few for the guarantee, or the
            hard rule alone rejects more.

    Source: split conformal prediction, one-sided: Vovk et al. 2005, chapter 4, for classes ("Mondrian") section 4.5. Of
        m correctly classified images at least ``ceil((m + 1) * acceptance)`` have to be accepted.
    """
    check_acceptance(acceptance)
    if not confidence.shape == correct.shape == passes.shape or confidence.ndim != 1 or confidence.dtype != np.float32:
        raise UsageError(
            f"expected one float32 confidence, correctness and pass each, got {confidence.dtype} {confidence.shape}, "
            f"{correct.shape}, {passes.shape}"
        )
    if classes is None:
        return _threshold(confidence[correct], passes[correct], acceptance, "")
    groups = {int(label): correct & (classes == label) for label in np.unique(classes)}
    return min(_threshold(confidence[of], passes[of], acceptance, f" of class {label}") for label, of in groups.items())


def images_needed(acceptance: float) -> int:
    """Return how many correctly classified images a guarantee takes at least, whatever the file."""
    share = Fraction(str(acceptance))
    return math.ceil(share / (1 - share))


def _threshold(confidence: FloatArray, passes: BoolArray, acceptance: float, whose: str) -> float:
    """Return the threshold for correctly classified images alone, ``(m,)``."""
    right, least = len(confidence), images_needed(acceptance)
    if right < least:
        raise UsageError(
            f"--accept {acceptance}: expected at least {least} correctly classified held-out images{whose}, got {right}"
            "; bring more images, ask for less, or is this data of other classes?"
        )
    keep = np.sort(confidence[passes])[::-1]
    needed = math.ceil(Fraction(str(acceptance)) * (right + 1))
    if len(keep) < needed:
        # Rounded down, so that the share it names can really be asked for.
        reachable = math.floor(10_000 * len(keep) / (right + 1)) / 10_000
        raise UsageError(
            f"--accept: expected at most {reachable:.4f}, which {right} correctly classified images{whose} and the "
            f"rule without a threshold can guarantee, got {acceptance}; ask for less, or train with less --epsilon"
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
    warn: Callable[[str], None] = lambda sentence: None,
) -> Calibrated:
    """Set a file's threshold on the test images that the attack's sample leaves.

    Args:
        guard: The guard file, its old threshold stale or not; it is not changed.
        dataset: Whose test split is used.
        config: How.
        device: As for `Guard`.
        threads: As for `Guard`.
        progress: Told of ``(done, total)`` images.
        warn: Given a sentence for each figure that is far from the one in the training record, see `implausible`.

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
    if config.per_class:
        _require_every_class(held_out, dataset.classes)
    record: dict[str, Any] = {
        "data": held_out.digest,
        "images": len(held_out),
        "acceptance": config.acceptance,
        "per_class": config.per_class,
    }

    total = 2 * len(held_out)
    open_file = set_threshold(artifact.model, 0.0, **record, reached=1.0, interval=(0.0, 1.0))
    hard_rule = Judge(read_artifact(open_file), source="images", device=device, threads=threads)
    verdicts = hard_rule.verdicts(held_out.images, lambda done: progress(done, total))
    correct = verdicts.labels == held_out.labels
    rejected = int((~verdicts.accepted).sum())
    for sentence in implausible(artifact.spec, images=len(held_out), right=int(correct.sum()), rejected=rejected):
        warn(sentence)
    threshold = threshold_at_acceptance(
        verdicts.confidence,
        correct,
        verdicts.accepted,
        acceptance=config.acceptance,
        classes=held_out.labels if config.per_class else None,
    )
    accepted = verdicts.accepted & (verdicts.confidence >= np.float32(threshold))
    reached = share(int(accepted[correct].sum()), int(correct.sum()))
    model = with_golden(
        set_threshold(open_file, threshold, **record, reached=reached.value, interval=(reached.low, reached.high)),
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
        reached=reached.value,
        interval=(reached.low, reached.high),
        reachable=float(verdicts.accepted[correct].mean()),
        images=len(held_out),
        right=int(correct.sum()),
        data=held_out.digest,
    )


def _require_every_class(held_out: Split, classes: tuple[str, ...]) -> None:
    """Refuse to promise something of a class that was never seen."""
    absent = [name for label, name in enumerate(classes) if not (held_out.labels == label).any()]
    if absent:
        raise UsageError(
            f"--per-class: expected held-out images of every class, got none of {', '.join(absent)}; bring some, or "
            "calibrate for all classes together"
        )


def held_out_images(dataset: Dataset, *, n: int, seed: int) -> Split:
    """Return the test images outside the attack's sample of `n`, so that no image both sets a threshold and tests it.

    Raises:
        UsageError: Fewer than `LEAST_IMAGES` are left.
    """
    test = dataset.test
    rows = np.setdiff1d(np.arange(len(test)), test.sample(n, seed=seed))
    if len(rows) < LEAST_IMAGES:
        most = len(test) - LEAST_IMAGES
        fewer = f"attack and calibrate with -n {most} or less, or " if most > 0 else ""
        raise UsageError(
            f"{dataset.name}: expected at least {LEAST_IMAGES} test images beside the attack's -n {n}, got {len(rows)} "
            f"of {len(test)}; {fewer}bring more test images"
        )
    part = (test.images[rows], test.labels[rows])
    return make_dataset(dataset.name, dataset.classes, part, part).test


def check_acceptance(acceptance: float) -> None:
    """Check a share of images to accept.

    Raises:
        UsageError: It is outside (0, 1).
    """
    if not 0 < acceptance < 1:
        raise UsageError(f"--accept: expected a share in (0, 1), got {acceptance}; 0.99 keeps 99 %")
