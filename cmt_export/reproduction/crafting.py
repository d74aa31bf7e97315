"""Units that make adversarial examples: a part of a set, crafted once and stored as the float pixels it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from calibration.attacks import Attack, AttackResult
from calibration.attacks.attack import BoolArray, FloatArray, IntArray
from calibration.attacks.carlini_wagner import CarliniWagner
from calibration.datasets import Dataset
from calibration.evaluation.crafting import check_budget, craft
from calibration.gradients import GradientGraph
from calibration.judge import Judge
from calibration.metrics import judge_outcomes
from calibration.pixels import to_pixels
from cmt_export.reproduction.goals import Goal, Targets, aimed, choose_targets
from cmt_export.reproduction.pace import Pace
from cmt_export.reproduction.training_units import Export
from cmt_export.reproduction.unit import Unit, Work
from runtime.artifact import Artifact, read_artifact
from runtime.atomic import atomic_output


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Test images, the same for every attack.

    Attributes:
        n: How many; None takes all.
        seed: Of the sample.
    """

    n: int | None
    seed: int = 0

    def rows(self, data: Dataset) -> IntArray:
        """Return where they lie in the test split, ascending."""
        return data.test.sample(len(data.test) if self.n is None else self.n, seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class Craft(Unit):
    """Attack a part of a sample.

    Attributes:
        source: What is differentiated.
        attack: With every hyper-parameter but the objective.
        gradients: About how many of them an image takes, for the estimate of the time.
        goal: What the attacker is after.
        targets: Labels to reach.
        pairs: The file whose Classmap gives the targets ``partner``; None for the others.
        kappas: κ of C&W, ascending; for every other attack none.
        sample: Which test images.
        first: Where in the sample the part begins.
        last: Where it ends.
    """

    kind: ClassVar[str] = "craft"
    files: ClassVar[tuple[str, ...]] = ("examples.npz",)
    source: Export
    attack: Attack[Any]
    gradients: float
    goal: Goal = "label"
    targets: Targets = "none"
    pairs: Export | None = None
    kappas: tuple[float, ...] = ()
    sample: Sample
    first: int
    last: int

    @property
    def title(self) -> str:
        """Attack, source and part."""
        epsilon = "" if self.attack.budget is None else f" ε = {self.attack.budget.epsilon:.4g}"
        goal = "" if self.goal == "label" else f" ({self.goal})"
        targets = "" if self.targets == "none" else f" to {self.targets} targets"
        what = f"{self.attack.name}{epsilon}{goal}{targets}"
        return f"craft {what} on {self.source.train.name}, images {self.first}-{self.last - 1}"

    def run(self, work: Work) -> None:
        """Write ``examples.npz``; see `Examples`."""
        artifact = read_artifact(work.of(self.source) / "guard.onnx")
        rows = self.sample.rows(work.data)[self.first : self.last]
        pixels, labels = to_pixels(work.data.test.images[rows]), work.data.test.labels[rows]
        # An attacker who knows no rule reads one head; one who does reads both.
        heads = ("logits", "robust_logits") if self.goal != "label" and artifact.spec.rule == "pair" else ("logits",)
        graph = GradientGraph(artifact.model, of=heads, **work.running)
        classmap = None if self.pairs is None else read_artifact(work.of(self.pairs) / "guard.onnx").spec.classmap
        targets = choose_targets(
            self.targets, graph.logits(pixels)["logits"], labels, classmap=classmap, rows=rows, seed=self.sample.seed
        )
        results = list(self._results(work, artifact, graph, pixels, labels, targets))
        told = None if (self.goal, self.targets) == ("eq-10", "likeliest") else targets
        with atomic_output(work.folder / "examples.npz") as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                x_adv=np.stack([result.x_adv for result in results]),
                gradients=np.stack([result.gradients for result in results]),
                no_gradient=np.stack([result.no_gradient for result in results]),
                rows=rows,
                targets=np.full(len(rows), -1) if told is None else told,
            )

    def seconds(self, pace: Pace) -> float:
        """Return the time of its gradients."""
        return (self.last - self.first) * self.gradients * pace.gradient

    def _results(
        self,
        work: Work,
        artifact: Artifact,
        graph: GradientGraph,
        pixels: FloatArray,
        labels: IntArray,
        targets: IntArray | None,
    ) -> Iterator[AttackResult]:
        attacks = [
            aimed(self.attack, self.goal, targeted=targets is not None, kappa=kappa, spec=artifact.spec)
            for kappa in self.kappas or (None,)
        ]
        first = attacks[0]
        if isinstance(first, CarliniWagner) and self.goal != "eq-10":
            for done, result in enumerate(first.sweep(graph, pixels, labels, self.kappas, targets=targets), start=1):
                check_budget(pixels, result.x_adv, budget=None)
                work.report(done, len(self.kappas))
                yield result
            return
        judge = Judge(artifact, **work.running)

        def succeeded(x_adv: FloatArray, places: IntArray) -> BoolArray:
            if self.goal == "label":
                return np.zeros(len(places), dtype=np.bool_)  # such an attacker cannot know
            verdicts = judge.verdicts(x_adv)
            return judge_outcomes(verdicts.labels, verdicts.accepted, labels[places]).fooled

        for attack in attacks:
            yield craft(attack, graph, pixels, labels, targets=targets, succeeded=succeeded, report=work.report)


class Examples(NamedTuple):
    """What a part of a set is.

    Attributes:
        x_adv: Pixels, ``(S, n, C, H, W)`` float32 in [0, 1], for S values of κ or one attack.
        rows: Where their originals lie in the test split, ``(n,)``.
        targets: Labels to reach, ``(n,)``; -1 where any wrong label will do.
    """

    x_adv: FloatArray
    rows: IntArray
    targets: IntArray


def load_examples(folder: Path) -> Examples:
    """Read the file of a finished `Craft`."""
    with np.load(folder / "examples.npz", allow_pickle=False) as archive:
        return Examples(archive["x_adv"], archive["rows"], archive["targets"])
