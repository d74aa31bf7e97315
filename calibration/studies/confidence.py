"""Which confidence of two heads holds best when the attacker ascends the very one that judges.

Every candidate gets the threshold that keeps 99 % of the correctly classified images. Then it is attacked by each
objective in turn, its own among them, and of all attacked copies of an image the one that suits the attacker best
counts: a confidence is not better for having an objective that is harder to ascend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from calibration.attacks import Fgs, Pgd
from calibration.attacks.attack import check_count
from calibration.availability import CHANGES
from calibration.datasets import Dataset
from calibration.detection import BENIGN_ACCEPTANCE, Scores, roc
from calibration.gradients import GradientGraph
from calibration.metrics import Interval, share
from calibration.pixels import to_pixels
from calibration.studies.candidates import (
    Confidence,
    Energy,
    Minimum,
    Product,
    ScaledProduct,
    SmallerMargin,
    WrongLabel,
    fit_temperature,
)
from calibration.thresholds import held_out_images, threshold_at_acceptance
from runtime.artifact import PathOrBytes, read_artifact
from runtime.errors import UsageError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

_BATCH = 128
_NAIVE = "naive"

Stage = Callable[[str], Callable[[int, int], None]]
"""Announces a piece of work by name and returns what to tell of ``(done, total)``."""


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """What is attacked, and how.

    Attributes:
        n: Test images that are attacked, at least 1.
        held_out: Most of the other test images that thresholds and temperatures are set on, at least 1.
        epsilons: L-infinity budgets, in (0, 1].
        steps: Of PGD, at least 1.
        restarts: Of PGD, at least 1.
        seed: Of samples, noise and random starts, at least 0.

    Raises:
        UsageError: A value is out of range.
    """

    n: int = 200
    held_out: int = 2000
    epsilons: tuple[float, ...] = (0.1, 0.2, 0.3)
    steps: int = 20
    restarts: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("n", "held_out", "steps", "restarts"):
            check_count(name, getattr(self, name))
        check_count("seed", self.seed, least=0)
        if not self.epsilons or not all(0 < epsilon <= 1 for epsilon in self.epsilons):
            raise UsageError(f"expected epsilons as one or more numbers in (0, 1], got {self.epsilons}")


@dataclass(frozen=True, kw_only=True)
class UnderAttack:
    """What one confidence makes of the images attacked with one budget.

    Attributes:
        epsilon: The budget.
        own: Share that fools it, attacked by its own objective.
        worst: The same for the copy of each image, by any objective, that suits the attacker best.
        naive: The same by one step along the sign of the gradient of Z*, by somebody who does not know the rule.
        area: AUROC of benign images against those worst copies; None where all attacks were in vain.
    """

    epsilon: float
    own: Interval
    worst: Interval
    naive: Interval
    area: float | None


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One confidence.

    Attributes:
        name: What it is called.
        temperatures: T and T', where it has them.
        threshold: Its threshold, in its own units.
        attacks: One record for each budget.
        accepted: Share of benign images that are accepted after each harmless change.
    """

    name: str
    temperatures: tuple[float, float] | None
    threshold: float
    attacks: tuple[UnderAttack, ...]
    accepted: dict[str, Interval]


class _Answers(NamedTuple):
    """Logits of both heads, ``(n, K)``, and what follows from them, ``(n,)``."""

    z: FloatArray
    robust: FloatArray
    labels: IntArray
    partners: IntArray
    truth: IntArray

    @property
    def passes(self) -> BoolArray:
        """Whether the hard rule passes the label."""
        passes: BoolArray = self.robust.argmax(axis=1) == self.partners
        return passes

    @property
    def right(self) -> BoolArray:
        """Whether the label is right."""
        right: BoolArray = self.labels == self.truth
        return right


class _Classifier:
    """The two heads of a guard, without its rule."""

    def __init__(self, guard: PathOrBytes, threads: int | None) -> None:
        artifact = read_artifact(guard)
        if artifact.spec.classmap is None:
            raise UsageError(f"expected a guard with the rule pair, got the rule {artifact.spec.rule}; it has one head")
        self.spec, self.classmap = artifact.spec, artifact.spec.classmap
        self.graph = GradientGraph(artifact.model, of=("logits", "robust_logits"), device="cpu", threads=threads)

    def answers(self, pixels: npt.NDArray[np.float32], truth: IntArray) -> _Answers:
        rows = [self.graph.logits(pixels[start : start + _BATCH]) for start in range(0, len(pixels), _BATCH)]
        z, robust = (
            np.concatenate([row[name] for row in rows]).astype(np.float64) for name in ("logits", "robust_logits")
        )
        labels = z.argmax(axis=1)
        return _Answers(z, robust, labels, np.array(self.classmap)[labels], truth)


def study_confidences(
    guard: PathOrBytes,
    dataset: Dataset,
    config: StudyConfig,
    *,
    threads: int | None = None,
    stage: Stage = lambda what: lambda done, total: None,
) -> tuple[Compared, ...]:
    """Compare confidences of a guard of two heads, on benign, changed and attacked images.

    Args:
        guard: The guard file; its own threshold plays no part.
        dataset: Whose test images are taken.
        config: How many, and how they are attacked.
        threads: As for `Guard`.
        stage: Announces each piece of work.

    Raises:
        UsageError: The guard has one head, the data does not fit it, or too few images are left for a threshold.
        ModelError: The file is invalid.
    """
    classifier = _Classifier(guard, threads)
    dataset.require_classes(classifier.spec.classes, owner="the guard")
    dataset.require_shape(classifier.spec.input_shape, owner="the guard")
    others = held_out_images(dataset, n=config.n, seed=config.seed)
    rows = others.sample(config.held_out, seed=config.seed)
    held_out = classifier.answers(to_pixels(others.images[rows]), others.labels[rows])
    kinds = _candidates(held_out, classifier.classmap)
    thresholds = {kind.name: _threshold(kind, held_out) for kind in kinds}
    sample = dataset.test.sample(config.n, seed=config.seed)
    images, truth = np.ascontiguousarray(dataset.test.images[sample]), dataset.test.labels[sample]
    benign = classifier.answers(to_pixels(images), truth)
    accepted: dict[str, dict[str, Interval]] = {kind.name: {} for kind in kinds}
    for change, changed in CHANGES.items():
        moved = changed(images, np.random.default_rng(config.seed))
        answers = classifier.answers(to_pixels(moved), truth)
        for kind in kinds:
            accepted[kind.name][change] = share(int(_accepts(kind, answers, thresholds[kind.name]).sum()), len(truth))
    attacked: dict[str, list[UnderAttack]] = {kind.name: [] for kind in kinds}
    for epsilon in config.epsilons:
        copies = dict(_attacks(classifier, kinds, to_pixels(images), truth, config, epsilon, stage))
        for kind in kinds:
            attacked[kind.name].append(_under_attack(kind, thresholds[kind.name], benign, copies, epsilon))
    return tuple(
        Compared(
            name=kind.name,
            temperatures=kind.temperatures if isinstance(kind, Product) else None,
            threshold=thresholds[kind.name],
            attacks=tuple(attacked[kind.name]),
            accepted=accepted[kind.name],
        )
        for kind in kinds
    )


def _candidates(held_out: _Answers, classmap: tuple[int, ...]) -> tuple[Confidence, ...]:
    """Return what is compared; temperatures are fitted to the true labels and their partners."""
    temperatures = (
        fit_temperature(held_out.z, held_out.truth),
        fit_temperature(held_out.robust, np.array(classmap)[held_out.truth]),
    )
    return Product(), ScaledProduct(temperatures=temperatures), Minimum(), SmallerMargin(), Energy()


def _confidence(kind: Confidence, answers: _Answers) -> npt.NDArray[np.float32]:
    return kind.of(answers.z, answers.robust, answers.labels, answers.partners).astype(np.float32)


def _threshold(kind: Confidence, held_out: _Answers) -> float:
    return threshold_at_acceptance(
        _confidence(kind, held_out), held_out.right, held_out.passes, acceptance=BENIGN_ACCEPTANCE
    )


def _accepts(kind: Confidence, answers: _Answers, threshold: float) -> BoolArray:
    accepted: BoolArray = answers.passes & (_confidence(kind, answers) >= np.float32(threshold))
    return accepted


def _attacks(
    classifier: _Classifier,
    kinds: tuple[Confidence, ...],
    pixels: npt.NDArray[np.float32],
    truth: IntArray,
    config: StudyConfig,
    epsilon: float,
    stage: Stage,
) -> Iterator[tuple[str, _Answers]]:
    """Yield the answers to one attacked copy of all images for each objective, by its name."""
    for kind in kinds:
        attack = Pgd(
            epsilon=epsilon,
            steps=config.steps,
            restarts=config.restarts,
            seed=config.seed,
            objective=WrongLabel(confidence=kind, classmap=classifier.classmap),
        )
        report = stage(f"epsilon {epsilon:g}, ascending: {kind.name}")
        yield kind.name, classifier.answers(attack(classifier.graph, pixels, truth, report=report).x_adv, truth)
    yield _NAIVE, classifier.answers(Fgs(epsilon=epsilon)(classifier.graph, pixels, truth).x_adv, truth)


def _under_attack(
    kind: Confidence, threshold: float, benign: _Answers, copies: dict[str, _Answers], epsilon: float
) -> UnderAttack:
    fooled = {name: _accepts(kind, copy, threshold) & ~copy.right for name, copy in copies.items()}
    worst = _worst([_scores(kind, copy) for copy in copies.values()])
    together = np.concatenate([_confidence(kind, benign), worst.confidence])
    found = roc(_ranked(_scores(kind, benign), together), _ranked(worst, together))
    return UnderAttack(
        epsilon=epsilon,
        own=_share(fooled[kind.name]),
        worst=_share(np.any(list(fooled.values()), axis=0)),
        naive=_share(fooled[_NAIVE]),
        area=None if found is None else found.area.value,
    )


def _scores(kind: Confidence, answers: _Answers) -> Scores:
    return Scores(confidence=_confidence(kind, answers), passes=answers.passes, right=answers.right)


def _worst(copies: list[Scores]) -> Scores:
    """Return of each image the copy that suits the attacker best: wrong, then passed by the rule, then confident."""
    wrong, passes, confidence = (
        np.stack(rows) for rows in zip(*((~copy.right, copy.passes, copy.confidence) for copy in copies), strict=True)
    )
    best = np.lexsort((confidence, wrong & passes, wrong), axis=0)[-1]
    chosen = best, np.arange(len(best))
    return Scores(confidence=confidence[chosen], passes=passes[chosen], right=~wrong[chosen])


def _ranked(scores: Scores, together: npt.NDArray[np.floating]) -> Scores:
    """Return the same order with confidences in (0, 1], as `Scores` wants them: their ranks in all of them together."""
    ranks = np.searchsorted(np.sort(together), scores.confidence, side="right") / len(together)
    return Scores(confidence=ranks, passes=scores.passes, right=scores.right)


def _share(hits: BoolArray) -> Interval:
    return share(int(hits.sum()), len(hits))
