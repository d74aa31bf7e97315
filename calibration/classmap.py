"""Robust class pairs: which class an attacked image of each class is least likely to end in.

Source: section 3.2 and equation 7 of the paper; the departures from it are named at each option.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from calibration.attacks import Attack, Budget, Fgs, Igs
from calibration.attacks.attack import BATCH_SIZE, check_count
from calibration.attacks.carlini_wagner import CarliniWagner
from calibration.attacks.deepfool import DeepFool
from calibration.gradients import GradientGraph
from calibration.graphs.reading import Model
from calibration.pixels import to_pixels
from runtime.errors import UsageError

Matrix = npt.NDArray[np.float64]

AttackName = Literal["fgs", "igs", "deepfool", "cw"]
Epsilon = Literal["uniform", "fixed"]
Likelihood = Literal["least", "most"]
Shape = Literal["one-to-one", "per-row"]


@dataclass(frozen=True, kw_only=True)
class ClassmapConfig:
    """How a Classmap is estimated.

    Attributes:
        attack: What examples are made with. ``fgs`` and ``igs`` go as far as they may; ``deepfool`` (L-infinity) and
            ``cw`` (L2, one round, for only where an example ends counts) stop where the label changes.
        epsilon_max: Largest budget of FGS and IGS examples, in (0, 1]; the others have none.
        epsilon: ``uniform`` draws the budget of each batch from (0, epsilon_max], as training does; ``fixed`` takes
            epsilon_max.
        counts: Whether to count predictions instead of summing softmax mass. The paper counts, but counts tie at zero.
        likelihood: ``least`` pairs a class with one its examples are unlikely to end in, as the text of sections 1.2
            and 3.2 wants; ``most`` takes the most likely wrong label, as equation 7 prints.
        shape: ``one-to-one`` gives no two classes the same partner; ``per-row`` decides for each class alone, as in the
            paper.
        batch_size: Images per batch, and per drawn epsilon.
        seed: Seed of the drawn epsilons.

    Raises:
        UsageError: A value is out of range.
    """

    attack: AttackName = "fgs"
    epsilon_max: float = 0.3
    epsilon: Epsilon = "uniform"
    counts: bool = False
    likelihood: Likelihood = "least"
    shape: Shape = "one-to-one"
    batch_size: int = BATCH_SIZE
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if Budget(epsilon=self.epsilon_max).epsilon == 0:
            raise UsageError("expected epsilon_max in (0, 1], got 0; without a step there are no adversarial examples")
        check_count("batch_size", self.batch_size)
        _check_choice("attack", self.attack, get_args(AttackName))
        _check_choice("epsilon", self.epsilon, get_args(Epsilon))
        _check_choice("likelihood", self.likelihood, get_args(Likelihood))
        _check_choice("shape", self.shape, get_args(Shape))


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassmapEstimate:
    """A Classmap and what it was estimated from.

    Attributes:
        classmap: M, K labels with M[y] != y.
        confusion: Where examples of class i (row) ended, ``(K, K)`` float64; rows sum to 1.
        config: How it was estimated.
    """

    classmap: tuple[int, ...]
    confusion: Matrix
    config: ClassmapConfig


def estimate_classmap(
    model: Model,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[Any],
    *,
    config: ClassmapConfig | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> ClassmapEstimate:
    """Attack an exported undefended network and pair its classes.

    Args:
        model: Path, bytes or ModelProto of the exported oracle.
        images: uint8 ``(N, H, W, C)``; every class must occur.
        labels: True labels, ``(N,)`` integers in [0, K).
        config: How; the defaults of `ClassmapConfig` unless said otherwise.
        device: As for `Guard`.
        threads: As for `Guard`.

    Raises:
        UsageError: The images or labels are not what is said above.
        ModelError: The model cannot be differentiated.
    """
    config = config or ClassmapConfig()
    graph = GradientGraph(model, of=["logits"], device=device, threads=threads)
    ends = attacked_ends(graph, images, labels, config)
    matrix = confusion(ends, counts=config.counts)
    classmap = classmap_from_confusion(matrix, likelihood=config.likelihood, shape=config.shape)
    return ClassmapEstimate(classmap=classmap, confusion=matrix, config=config)


class Ends(NamedTuple):
    """Where attacked images end.

    Attributes:
        labels: Their true labels, ``(n,)``.
        shares: Softmax of the network on each of them, ``(n, K)`` float64.
    """

    labels: npt.NDArray[np.int64]
    shares: Matrix


def attacked_ends(
    graph: GradientGraph, images: npt.NDArray[np.uint8], labels: npt.NDArray[Any], config: ClassmapConfig
) -> Ends:
    """Attack images and return where they end, in the order in which they were attacked.

    Args:
        graph: The undefended network, with its `logits`.
        images: uint8 ``(N, H, W, C)``; every class must occur.
        labels: True labels, ``(N,)`` integers in [0, K).
        config: With what.

    Raises:
        UsageError: The images or labels are not what is said above, or a class does not occur.
    """
    k = graph.classes["logits"]
    absent = sorted(set(range(k)) - set(labels.tolist()))
    if absent or len(images) != len(labels):
        raise UsageError(
            f"expected a label for each of {len(images)} images and images of all {k} classes, got {len(labels)} labels"
            f" and none of class {', '.join(map(str, absent)) or '-'}"
        )
    rng = np.random.default_rng(config.seed)
    order = rng.permutation(len(images))
    shares = []
    for start in range(0, len(images), config.batch_size):
        rows = order[start : start + config.batch_size]
        step = config.epsilon_max * (1.0 - rng.random()) if config.epsilon == "uniform" else config.epsilon_max
        attack = _attack(config.attack, step)
        x_adv = attack(graph, to_pixels(images[rows]), labels[rows], batch_size=config.batch_size).x_adv
        shares.append(_softmax(graph.logits(x_adv)["logits"].astype(np.float64)))
    return Ends(labels[order], np.concatenate(shares))


def confusion(ends: Ends, *, counts: bool = ClassmapConfig.counts) -> Matrix:
    """Return how likely examples of class i (row) end in class j, ``(K, K)`` float64; rows sum to 1.

    Args:
        ends: Where examples ended; every class must occur.
        counts: The share of predictions instead of the mean softmax mass.
    """
    k = ends.shares.shape[1]
    mass = np.zeros((k, k))
    np.add.at(mass, ends.labels, np.eye(k)[ends.shares.argmax(axis=1)] if counts else ends.shares)
    return mass / np.bincount(ends.labels, minlength=k)[:, None]


def classmap_from_confusion(
    confusion: Matrix, *, likelihood: Likelihood = "least", shape: Shape = "one-to-one"
) -> tuple[int, ...]:
    """Return a partner for every class, never itself.

    Args:
        confusion: How likely examples of class i (row) end in class j, ``(K, K)``, K at least 2; the diagonal is
            ignored.
        likelihood: ``least`` likely partners, or ``most`` likely ones (equation 7 as printed).
        shape: ``one-to-one``: the derangement of least (or most) total likelihood; ``per-row``: each class its own
            extreme, the lowest number among equals.

    Returns:
        M as K labels with M[y] != y.

    Raises:
        UsageError: The matrix is not square and finite with K at least 2, or an option is unknown.
    """
    _check_choice("likelihood", likelihood, get_args(Likelihood))
    _check_choice("shape", shape, get_args(Shape))
    cost = np.array(confusion, dtype=np.float64)
    if cost.ndim != 2 or cost.shape[0] != cost.shape[1] or len(cost) < 2 or not np.isfinite(cost).all():
        raise UsageError(f"expected a finite confusion matrix (K, K) with K of at least 2, got shape {cost.shape}")
    if likelihood == "most":
        cost = -cost
    np.fill_diagonal(cost, np.inf)
    partners = cost.argmin(axis=1) if shape == "per-row" else linear_sum_assignment(cost)[1]
    return tuple(int(partner) for partner in partners)


def _attack(name: AttackName, epsilon: float) -> Attack[GradientGraph]:
    """Return an attack on the label, by somebody who knows of no rule."""
    if name == "fgs":
        return Fgs(epsilon=epsilon)
    if name == "igs":
        return Igs(epsilon=epsilon)
    return DeepFool() if name == "deepfool" else CarliniWagner(rounds=1)


def _softmax(z: Matrix) -> Matrix:
    powers = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"expected {name} to be {' or '.join(choices)}, got {value!r}")
