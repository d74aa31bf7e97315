"""How much a Classmap owes to the way it was estimated: which attack, which count, how classes are paired.

Source: the paper names the attack as the weak point of its Classmap (section 7), and assumes that confusion between
classes is symmetric (section 3.1). Both are measured here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
from scipy.special import gammaincc

from calibration.attacks.attack import check_count
from calibration.classmap import (
    AttackName,
    ClassmapConfig,
    Ends,
    Likelihood,
    Shape,
    attacked_ends,
    classmap_from_confusion,
    confusion,
)
from calibration.gradients import GradientGraph
from calibration.graphs.reading import Model

Classmap = tuple[int, ...]

Stage = Callable[[str], Callable[[int, int], None]]
"""Announces a piece of work by name and returns what to tell of ``(done, total)``."""


@dataclass(frozen=True, kw_only=True)
class Symmetry:
    """Bowker's test of symmetry on how often class i ended in class j.

    Attributes:
        statistic: Σ over i < j of (n_ij - n_ji)² / (n_ij + n_ji).
        degrees: Pairs of classes that were confused at all.
        p_value: Probability of a larger statistic if confusion were symmetric; 1 where nothing was confused.
        symmetric_share: Share of the confusions that has its counterpart, in [0, 1]: 1 is symmetric, 0 one-way.

    Source: Bowker 1948 (A Test for Symmetry in Contingency Tables).
    """

    statistic: float
    degrees: int
    p_value: float
    symmetric_share: float


@dataclass(frozen=True, kw_only=True)
class Estimated:
    """One Classmap.

    Attributes:
        config: How it was estimated.
        classmap: M.
        ties: Classes whose best partner had an equal rival, so that their order decided.
        stability: Mean share of classes that keep their partner when the examples are drawn again, with replacement.
    """

    config: ClassmapConfig
    classmap: Classmap
    ties: int
    stability: float


@dataclass(frozen=True, kw_only=True)
class ClassmapStudy:
    """All ways of estimating on one network.

    Attributes:
        maps: One for each way, the default first.
        symmetry: By attack.
        moved: Share of examples that ended in another class, by attack.
    """

    maps: tuple[Estimated, ...]
    symmetry: dict[str, Symmetry]
    moved: dict[str, float]


def study_classmaps(
    model: Model,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[Any],
    *,
    attacks: tuple[AttackName, ...] = get_args(AttackName),
    config: ClassmapConfig | None = None,
    draws: int = 200,
    threads: int | None = None,
    stage: Stage = lambda what: lambda done, total: None,
) -> ClassmapStudy:
    """Estimate the Classmap of a network in every way there is.

    Args:
        model: Path, bytes or ModelProto of the exported oracle.
        images: uint8 ``(N, H, W, C)``; every class must occur.
        labels: True labels, ``(N,)`` integers in [0, K).
        attacks: Which attacks.
        config: Budget, batch size and seed of all; the defaults of `ClassmapConfig` unless said otherwise.
        draws: How often the examples are drawn again, at least 1.
        threads: As for `Guard`.
        stage: Announces each piece of work.

    Raises:
        UsageError: The images or labels are not what is said above, or `draws` is below 1.
        ModelError: The model cannot be differentiated.
    """
    check_count("draws", draws)
    config = config or ClassmapConfig()
    graph = GradientGraph(model, of=["logits"], device="cpu", threads=threads)
    maps, symmetry, moved = [], dict[str, Symmetry](), dict[str, float]()
    for attack in attacks:
        stage(f"attacking with {attack}")
        ends = attacked_ends(graph, images, labels, replace(config, attack=attack))
        symmetry[attack] = bowker_test(ended_counts(ends))
        moved[attack] = float((ends.shares.argmax(axis=1) != ends.labels).mean())
        for counts in (False, True):
            matrices = [confusion(drawn, counts=counts) for drawn in _drawn_again(ends, draws, config.seed)]
            maps += _every_map(replace(config, attack=attack, counts=counts), confusion(ends, counts=counts), matrices)
    return ClassmapStudy(maps=tuple(maps), symmetry=symmetry, moved=moved)


def ended_counts(ends: Ends) -> npt.NDArray[np.int64]:
    """Return how many examples of class i ended in class j, ``(K, K)``."""
    k = ends.shares.shape[1]
    counts = np.zeros((k, k), dtype=np.int64)
    np.add.at(counts, (ends.labels, ends.shares.argmax(axis=1)), 1)
    return counts


def bowker_test(counts: npt.NDArray[np.int64]) -> Symmetry:
    """Return Bowker's test of a square table of counts, ``(K, K)``; its diagonal does not matter."""
    upper = np.triu_indices(len(counts), 1)
    there, back = counts[upper].astype(np.float64), counts.T[upper].astype(np.float64)
    confused = there + back > 0
    total = (there + back)[confused]
    statistic = float(((there - back)[confused] ** 2 / total).sum())
    degrees = int(confused.sum())
    return Symmetry(
        statistic=statistic,
        degrees=degrees,
        p_value=float(gammaincc(degrees / 2, statistic / 2)) if degrees else 1.0,
        symmetric_share=float(1 - np.abs(there - back).sum() / total.sum()) if degrees else 1.0,
    )


def same_partners(first: Classmap, second: Classmap) -> float:
    """Return the share of classes that have the same partner in both."""
    return float(np.mean(np.array(first) == np.array(second)))


def _drawn_again(ends: Ends, draws: int, seed: int) -> list[Ends]:
    """Return the same examples drawn with replacement, class by class, so that none goes missing."""
    rng = np.random.default_rng(seed)
    rows = [np.flatnonzero(ends.labels == label) for label in range(ends.shares.shape[1])]
    found = []
    for _ in range(draws):
        drawn = np.concatenate([rng.choice(own, len(own)) for own in rows])
        found.append(Ends(ends.labels[drawn], ends.shares[drawn]))
    return found


def _every_map(
    config: ClassmapConfig, matrix: npt.NDArray[np.float64], again: list[npt.NDArray[np.float64]]
) -> list[Estimated]:
    found = []
    for likelihood, shape in product(get_args(Likelihood), get_args(Shape)):
        classmap = classmap_from_confusion(matrix, likelihood=likelihood, shape=shape)
        others = (classmap_from_confusion(other, likelihood=likelihood, shape=shape) for other in again)
        found.append(
            Estimated(
                config=replace(config, likelihood=likelihood, shape=shape),
                classmap=classmap,
                ties=_ties(matrix, likelihood),
                stability=float(np.mean([same_partners(classmap, other) for other in others])),
            )
        )
    return found


def _ties(matrix: npt.NDArray[np.float64], likelihood: Likelihood) -> int:
    cost = matrix.copy() if likelihood == "least" else -matrix
    np.fill_diagonal(cost, np.inf)
    return int(((cost == cost.min(axis=1, keepdims=True)).sum(axis=1) > 1).sum())
