"""Whether a quantised guard is still the guard that was measured: the same verdicts, and as easy or hard to fool.

Its own gradients pass straight through its roundings, which can hide from an attack what is there to be found. So what
was crafted on the float file with the rule in mind is judged by the quantised one as well.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import numpy.typing as npt

from calibration.attacks import Fgs, Pgd
from calibration.attacks.attack import LossAttack
from calibration.attacks.catalogue import EPSILONS
from calibration.datasets import Dataset
from calibration.evaluation import EvaluationConfig, evaluate
from calibration.evaluation.crafting import craft
from calibration.gradients import GradientGraph
from calibration.judge import Judge, classify
from calibration.metrics import Interval, judge_outcomes, share
from calibration.pixels import to_pixels
from calibration.quantization.static import Stage, agreement
from calibration.results import Results
from calibration.results.pairs import Pair, surprising
from calibration.results.records import Cell
from calibration.threats import aim, choose_threats
from runtime.artifact import Artifact, read_artifact
from runtime.errors import GateFailed, UsageError
from runtime.guard import Guard
from runtime.verdicts import Verdicts

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

LEAST_AGREEMENT = 0.995
"""Share of benign images on which a quantised file has to decide as the float file does."""

_THREAT = "nearly-white-box"
"""The strongest attacker that follows gradients."""

_ATTACKS: tuple[LossAttack, ...] = tuple(
    attack for epsilon in EPSILONS for attack in (Fgs(epsilon=epsilon), Pgd(epsilon=epsilon, steps=20, restarts=2))
)


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """How a quantised file is compared with its float file.

    Attributes:
        n: Size of the sample of test images that verdicts are compared on, at least 1.
        attacked: How many of them are attacked; 0 attacks none.
        seed: What the sample is drawn with, at least 0.

    Raises:
        UsageError: A value is out of range.
    """

    n: int = 1000
    attacked: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        for option, value, least in (("-n", self.n, 1), ("--attacked", self.attacked, 0), ("--seed", self.seed, 0)):
            if value < least:
                raise UsageError(f"{option}: expected {least} or more, got {value}")


@dataclass(frozen=True, kw_only=True)
class Shift:
    """What one attack that knows the rule gets past both files.

    Attributes:
        attack: Its name.
        epsilon: Its budget, L-infinity.
        crafted_on: ``itself``, each file by its own gradients; ``fp32``, both by those of the float file.
        before: Share of attacked images that fool the float file, with its exact 95 % interval.
        after: The same of the quantised file.
        hidden: Whether by its own gradients the quantised file is fooled on fewer of the images than chance explains.
    """

    attack: str
    epsilon: float
    crafted_on: Literal["itself", "fp32"]
    before: Interval
    after: Interval
    hidden: bool = False

    @property
    def holds(self) -> bool:
        """Whether the quantised file is fooled no more than the float file's interval allows, and hides nothing."""
        return self.after.value <= self.before.high and not self.hidden


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """How a quantised file compares with its float file.

    Attributes:
        agreement: Share of benign test images with the same label and acceptance, with its exact 95 % interval.
        images: How many they were.
        accepted: Share of them that each file accepts.
        right: Share of them that each file labels right.
        shifts: What attacks do to both; empty where none were run.
        attacked: How many images were attacked.
    """

    agreement: Interval
    images: int
    accepted: tuple[float, float]
    right: tuple[float, float]
    shifts: tuple[Shift, ...]
    attacked: int

    def require(self) -> None:
        """Raise `GateFailed` when verdicts agree too seldom, or an attack result has moved out of its interval."""
        if self.agreement.value < LEAST_AGREEMENT:
            raise GateFailed(
                f"quantize: expected the verdicts of the float file on {LEAST_AGREEMENT:.1%} of {self.images} benign "
                f"images, got {self.agreement.value:.2%}; nothing is written, try more --images"
            )
        for shift in self.shifts:
            if not shift.holds:
                before = shift.before
                raise GateFailed(
                    f"quantize: expected {shift.attack} at {shift.epsilon:g} to fool {before.low:.3f} to "
                    f"{before.high:.3f} of {self.attacked} images as with the float file, got {shift.after.value:.3f} "
                    f"(crafted on {shift.crafted_on}); nothing is written, try more --images"
                )


def compare(
    before: str | os.PathLike[str],
    model: bytes,
    dataset: Dataset,
    config: GateConfig,
    *,
    threads: int | None = None,
    stage: Stage = lambda what: lambda done, total: None,
) -> GateReport:
    """Judge and attack a float file and a quantised one, on the same test images.

    Args:
        before: The float file.
        model: The quantised file.
        dataset: Whose test images are taken.
        config: How many.
        threads: As for `Guard`.
        stage: Announces each piece of work.

    Raises:
        UsageError: The data does not fit a file.
        ModelError: A file is invalid, or cannot be differentiated.
    """
    rows = dataset.test.sample(config.n, seed=config.seed)
    images, truth = np.ascontiguousarray(dataset.test.images[rows]), dataset.test.labels[rows]
    stage("comparing verdicts")
    float_file, int8_file = (_verdicts(source, images, threads) for source in (before, model))
    shifts = _shifts(before, model, dataset, config, threads, stage) if config.attacked else ()
    return GateReport(
        agreement=agreement(float_file, int8_file),
        images=len(images),
        accepted=(float(float_file.accepted.mean()), float(int8_file.accepted.mean())),
        right=(float((float_file.labels == truth).mean()), float((int8_file.labels == truth).mean())),
        shifts=shifts,
        attacked=min(config.attacked, len(dataset.test)),
    )


def _verdicts(source: str | os.PathLike[str] | bytes, images: npt.NDArray[np.uint8], threads: int | None) -> Verdicts:
    with Guard(source, device="cpu", threads=threads) as guard:
        return classify(guard, images)


def _shifts(
    before: str | os.PathLike[str],
    model: bytes,
    dataset: Dataset,
    config: GateConfig,
    threads: int | None,
    stage: Stage,
) -> tuple[Shift, ...]:
    artifact = read_artifact(before)
    asked = EvaluationConfig(
        attacks=_ATTACKS,
        threats=(_THREAT,),
        n=config.attacked,
        seed=config.seed,
        device="cpu",
        threads=threads,
    )
    first = evaluate(asked, before, dataset, progress=_titled(stage, "fp32"))
    with tempfile.TemporaryDirectory(prefix="cmt-gate-") as folder:
        path = Path(folder) / "int8.onnx"
        path.write_bytes(model)
        second = evaluate(asked, path, dataset, progress=_titled(stage, "int8"))
    cells = _by_attack(first)
    own = [
        Shift(
            attack=name,
            epsilon=epsilon,
            crafted_on="itself",
            before=cells[name, epsilon].rates.fooled,
            after=cell.rates.fooled,
            # Much less by its own gradients means that quantisation hides them.
            hidden=surprising(Pair(cells[name, epsilon], cell, "fooled"), first.data.truth),
        )
        for (name, epsilon), cell in _by_attack(second).items()
    ]
    return (*own, *_transferred(cells, artifact, read_artifact(model), dataset, asked, stage))


def _by_attack(results: Results) -> dict[tuple[str, float], Cell]:
    return {(cell.attack, cell.parameters["epsilon"]): cell for cell in results.cells}


def _titled(stage: Stage, precision: str) -> Stage:
    return lambda what: stage(f"{precision}: {what}")


def _transferred(
    first: dict[tuple[str, float], Cell],
    before: Artifact,
    after: Artifact,
    dataset: Dataset,
    asked: EvaluationConfig,
    stage: Stage,
) -> Iterator[Shift]:
    """Yield what the iterative attacks, led by the float file, get past the quantised one."""
    rows = dataset.test.sample(asked.n, seed=asked.seed)
    pixels, truth = to_pixels(dataset.test.images[rows]), dataset.test.labels[rows]
    judge = Judge(after, device="cpu", threads=asked.threads)
    (threat,) = choose_threats(asked.threats, (), rule=before.spec.rule, locked=False)

    def fooled(x_adv: FloatArray, places: IntArray) -> BoolArray:
        verdicts = judge.verdicts(x_adv)
        return judge_outcomes(verdicts.labels, verdicts.accepted, truth[places]).fooled

    for attack in (one for one in _ATTACKS if isinstance(one, Pgd)):
        aimed = cast(LossAttack, aim(attack, threat, before.spec))
        graph = GradientGraph(before.model, of=aimed.reads, device="cpu", threads=asked.threads)
        report = stage(f"fp32 to int8: {attack.name}, epsilon {attack.epsilon:g}")
        x_adv = craft(aimed, graph, pixels, truth, succeeded=fooled, report=report).x_adv
        hits = int(fooled(x_adv, np.arange(len(truth))).sum())
        yield Shift(
            attack=attack.name,
            epsilon=attack.epsilon,
            crafted_on="fp32",
            before=first[attack.name, attack.epsilon].rates.fooled,
            after=share(hits, len(truth)),
        )
