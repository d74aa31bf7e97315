"""Robust class pairs: which class an attacked image of each class is least likely to end in.

Source: section 3.2 and equation 7 of the paper; the departures from it are named at each option.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from calibration.attacks import Budget, Fgs
from calibration.attacks.attack import BATCH_SIZE, check_count
from calibration.gradient_reading import Model
from calibration.gradients import GradientGraph
from calibration.pixels import to_pixels
from runtime.errors import UsageError

Matrix = npt.NDArray[np.float64]

Epsilon = Literal["uniform", "fixed"]
Likelihood = Literal["least", "most"]
Shape = Literal["one-to-one", "per-row"]


@dataclass(frozen=True, kw_only=True)
class ClassmapConfig:
    """How a Classmap is estimated.

    Attributes:
        epsilon_max: Largest step of the FGS examples, in (0, 1].
        epsilon: ``uniform`` draws the step of each batch from (0, epsilon_max], as training does; ``fixed`` takes
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
        _check_choice("epsilon", self.epsilon, get_args(Epsilon))
        _check_choice("likelihood", self.likelihood, get_args(Likelihood))
        _check_choice("shape", self.shape, get_args(Shape))


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassmapEstimate:
    """A Classmap and what it was estimated from.

    Attributes:
        classmap: M, K labels with M[y] != y.
        confusion: Where FGS examples of class i (row) ended, ``(K, K)`` float64; rows sum to 1.
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
    """Attack an exported undefended network with FGS and pair its classes.

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
    matrix = confusion(
        graph,
        images,
        labels,
        epsilon_max=config.epsilon_max,
        epsilon=config.epsilon,
        counts=config.counts,
        batch_size=config.batch_size,
        seed=config.seed,
    )
    classmap = classmap_from_confusion(matrix, likelihood=config.likelihood, shape=config.shape)
    return ClassmapEstimate(classmap=classmap, confusion=matrix, config=config)


def confusion(
    graph: GradientGraph,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[Any],
    *,
    epsilon_max: float = ClassmapConfig.epsilon_max,
    epsilon: Epsilon = ClassmapConfig.epsilon,
    counts: bool = ClassmapConfig.counts,
    batch_size: int = ClassmapConfig.batch_size,
    seed: int = ClassmapConfig.seed,
) -> Matrix:
    """Return the mean softmax mass of class j on FGS examples of class i, ``(K, K)`` float64.

    Args:
        graph: The undefended network, with its `logits`.
        images: uint8 ``(N, H, W, C)``; every class must occur.
        labels: True labels, ``(N,)`` integers in [0, K).
        epsilon_max: See `ClassmapConfig`, also for the rest.
        epsilon: Drawn or fixed.
        counts: The share of predictions instead of the mean mass.
        batch_size: Images per batch, and per drawn epsilon.
        seed: Seed of the order of the images and of the drawn epsilons.

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
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(images))
    mass = np.zeros((k, k))
    for start in range(0, len(images), batch_size):
        rows = order[start : start + batch_size]
        step = epsilon_max * (1.0 - rng.random()) if epsilon == "uniform" else epsilon_max
        x_adv = Fgs(epsilon=step)(graph, to_pixels(images[rows]), labels[rows], batch_size=batch_size).x_adv
        z = graph.logits(x_adv)["logits"].astype(np.float64)
        np.add.at(mass, labels[rows], np.eye(k)[z.argmax(axis=1)] if counts else _softmax(z))
    return mass / np.bincount(labels, minlength=k)[:, None]


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


def _softmax(z: Matrix) -> Matrix:
    powers = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"expected {name} to be {' or '.join(choices)}, got {value!r}")
