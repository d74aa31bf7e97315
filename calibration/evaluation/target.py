"""The file under attack, started, with the sample of images it is attacked on and what it says to them untouched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from calibration.attacks import Budget, Gallery
from calibration.attacks.attack import BoolArray, FloatArray, IntArray, Report
from calibration.datasets import Dataset
from calibration.evaluation.planning import EvaluationConfig
from calibration.evaluation.victims import Opened
from calibration.judge import Judge, classify, round_to_images
from calibration.metrics import judge_outcomes
from calibration.pixels import to_images, to_pixels
from calibration.results.image_columns import VerdictColumns
from runtime.guard import Guard
from runtime.verdicts import Verdicts

_GALLERY_IMAGES = 1000
"""Training images that an attacker who only asks has at hand."""


def _silent(done: int, total: int) -> None:
    pass


class Judged(NamedTuple):
    """Attacked images: as 8 bits, as the pixels that were judged, and the verdicts."""

    images: npt.NDArray[np.uint8]
    pixels: FloatArray
    verdicts: Verdicts


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """The file under attack, and the images.

    Attributes:
        guard: As it is deployed.
        judge: The same from its inner tensor ``pixels`` on.
        hard: That with the threshold 0; None where it is 0 anyway.
        sample: Where the images lie in the test split, ``(N,)``.
        images: uint8 ``(N, H, W, C)``.
        pixels: The same as float32 ``(N, C, H, W)`` in [0, 1].
        truth: True labels, ``(N,)``.
        benign: The verdicts on them.
        columns: The same, packed.
        gallery: What an attacker who only asks has at hand.
        eight_bit: Whether attacked images are rounded to 8 bits before they are judged.
    """

    guard: Guard
    judge: Judge
    hard: Judge | None
    sample: IntArray
    images: npt.NDArray[np.uint8]
    pixels: FloatArray
    truth: IntArray
    benign: Verdicts
    columns: VerdictColumns
    gallery: Gallery
    eight_bit: bool

    def judged(self, x_adv: FloatArray, rows: IntArray, *, budget: Budget | None) -> Judged:
        """Judge what was made of some images: the very pixels, or their 8-bit rounding by `Guard` itself.

        Args:
            x_adv: Attacked pixels, ``(n, C, H, W)`` float32 in [0, 1].
            rows: Which images they are of, ``(n,)``.
            budget: What the rounding has to keep; None where the attack has none.
        """
        if not self.eight_bit:
            return Judged(to_images(x_adv), x_adv, self.judge.verdicts(x_adv))
        images = round_to_images(x_adv, self.images[rows], budget=budget)
        return Judged(images, to_pixels(images), classify(self.guard, images))

    def pack(self, judged: Judged) -> VerdictColumns:
        """Return verdicts on attacked images as columns, the verdict of the hard rule among them."""
        return _packed(judged.verdicts, judged.pixels, self.hard)

    def fooled(self, x_adv: FloatArray, rows: IntArray, *, budget: Budget | None) -> BoolArray:
        """Return where attacked pixels are accepted under a wrong label, ``(n,)`` bool; see `judged`."""
        verdicts = self.judged(x_adv, rows, budget=budget).verdicts
        return judge_outcomes(verdicts.labels, verdicts.accepted, self.truth[rows]).fooled

    @property
    def runners_up(self) -> IntArray:
        """The wrong label that the file finds likeliest on each benign image, ``(N,)``: what to reach first."""
        logits = np.where(np.isfinite(self.benign.logits), self.benign.logits, -np.inf)
        logits[np.arange(len(logits)), self.truth] = -np.inf
        return np.asarray(logits.argmax(axis=1))

    @classmethod
    def open(
        cls, guard: Guard, opened: Opened, dataset: Dataset, config: EvaluationConfig, report: Report = _silent
    ) -> Target:
        """Draw the sample, and classify it.

        Args:
            guard: The file, started.
            opened: The same file, as it was read.
            dataset: Whose test split the images are taken from.
            config: Size and seed of the sample, and how files are started.
            report: Told of ``(done, total)`` images.
        """
        test = dataset.test
        sample = test.sample(config.n, seed=config.seed)
        images = np.ascontiguousarray(test.images[sample])
        pixels = to_pixels(images)
        shown = dataset.train.sample(_GALLERY_IMAGES, seed=config.seed)
        benign = classify(guard, images, lambda done: report(done, len(images)))
        hard = Judge(opened.artifact, hard=True, **config.running) if guard.spec.threshold else None
        return cls(
            guard=guard,
            judge=Judge(opened.artifact, **config.running),
            hard=hard,
            sample=sample,
            images=images,
            pixels=pixels,
            truth=test.labels[sample],
            benign=benign,
            columns=_packed(benign, pixels, hard),
            gallery=Gallery(
                images=np.ascontiguousarray(dataset.train.images[shown]), labels=dataset.train.labels[shown]
            ),
            eight_bit=config.eight_bit,
        )


def _packed(verdicts: Verdicts, pixels: FloatArray, hard: Judge | None) -> VerdictColumns:
    return VerdictColumns.of(verdicts, hard=verdicts if hard is None else hard.verdicts(pixels))
