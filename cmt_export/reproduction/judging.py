"""Units that judge: what one exported file says to an adversarial set, and to the benign test images."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from calibration.attacks.attack import BoolArray, FloatArray, IntArray
from calibration.availability import measure_availability
from calibration.gradients import GradientGraph
from calibration.judge import BATCH, Judge, classify
from calibration.pixels import to_pixels
from cmt_export.reproduction.crafting import Craft, Sample, load_examples
from cmt_export.reproduction.pace import Pace
from cmt_export.reproduction.training_units import Export
from cmt_export.reproduction.unit import Unit, Work
from runtime.artifact import read_artifact
from runtime.atomic import atomic_output
from runtime.guard import Guard

_CHANGES = 13
"""About how many harmless changes are tried."""


@dataclass(frozen=True, kw_only=True)
class JudgeSet(Unit):
    """Judge an adversarial set, on the very pixels that were made.

    Attributes:
        judge: The file.
        parts: The set.
    """

    kind: ClassVar[str] = "judge"
    files: ClassVar[tuple[str, ...]] = ("verdicts.npz",)
    judge: Export
    parts: tuple[Craft, ...]

    @property
    def title(self) -> str:
        """The set and the file."""
        made = self.parts[0].title.partition(", images")[0].removeprefix("craft ")
        return f"judge {made} with {self.judge.train.name}"

    def run(self, work: Work) -> None:
        """Write ``verdicts.npz``; see `Judged`."""
        judge = Judge(read_artifact(work.of(self.judge) / "guard.onnx"), **work.running)
        found: dict[str, list[Any]] = {name: [] for name in Judged._fields}
        for done, part in enumerate(self.parts, start=1):
            examples = load_examples(work.of(part))
            benign = to_pixels(work.data.test.images[examples.rows])
            verdicts = [judge.verdicts(x_adv) for x_adv in examples.x_adv]
            changes = (examples.x_adv.astype(np.float64) - benign).reshape(*examples.x_adv.shape[:2], -1)
            found["labels"].append(np.stack([one.labels for one in verdicts]).astype(np.int64))
            found["accepted"].append(np.stack([one.accepted for one in verdicts]))
            found["l2"].append(np.linalg.norm(changes, axis=2))
            found["linf"].append(np.abs(changes).max(axis=2))
            found["rows"].append(examples.rows)
            found["targets"].append(examples.targets)
            found["truth"].append(work.data.test.labels[examples.rows])
            work.report(done, len(self.parts))
        with atomic_output(work.folder / "verdicts.npz") as temporary, temporary.open("wb") as file:
            joined: dict[str, Any] = {name: np.concatenate(parts, axis=-1) for name, parts in found.items()}
            np.savez(file, **joined)

    def seconds(self, pace: Pace) -> float:
        """Return the time of its verdicts."""
        return sum((part.last - part.first) * max(1, len(part.kappas)) for part in self.parts) * pace.forward


class Judged(NamedTuple):
    """What a file says to N adversarial examples, for each of S values of κ or one attack.

    Attributes:
        labels: Argmax Z*, ``(S, N)``; -1 where logits were not finite.
        accepted: Its verdicts, ``(S, N)``.
        l2: L2 length of each change, ``(S, N)``.
        linf: Largest change of a pixel, ``(S, N)``.
        rows: Where the originals lie in the test split, ``(N,)``.
        targets: Labels the attacker was to reach, ``(N,)``; -1 where any wrong one will do.
        truth: True labels, ``(N,)``.
    """

    labels: IntArray
    accepted: BoolArray
    l2: FloatArray
    linf: FloatArray
    rows: IntArray
    targets: IntArray
    truth: IntArray

    @property
    def right(self) -> BoolArray:
        """Whether the label is the true one, ``(S, N)``."""
        return np.asarray(self.labels == self.truth)

    @property
    def generated(self) -> BoolArray:
        """Whether an attack succeeded, ``(S, N)``: accepted, and the target or, without one, any wrong label."""
        reached = np.where(self.targets >= 0, self.labels == self.targets, ~self.right)
        return np.asarray(reached & ~self.right & self.accepted)


def load_judged(folder: Path) -> Judged:
    """Read the file of a finished `JudgeSet`."""
    with np.load(folder / "verdicts.npz", allow_pickle=False) as archive:
        return Judged(**{name: archive[name] for name in Judged._fields})


@dataclass(frozen=True, kw_only=True)
class JudgeBenign(Unit):
    """Judge all test images as they are, and a sample after harmless changes.

    Attributes:
        judge: The file.
        images: How many test images there are, for the estimate of the time.
        sample: Those that are changed.
    """

    kind: ClassVar[str] = "benign"
    files: ClassVar[tuple[str, ...]] = ("verdicts.npz", "availability.json")
    judge: Export
    images: int
    sample: Sample

    @property
    def title(self) -> str:
        """The file."""
        return f"judge benign images with {self.judge.train.name}"

    def run(self, work: Work) -> None:
        """Write ``verdicts.npz``, see `Benign`, and ``availability.json``."""
        path, test = work.of(self.judge) / "guard.onnx", work.data.test
        with Guard(path, **work.running) as guard:
            verdicts = classify(guard, test.images, lambda done: work.report(done, len(test)))
            rows = self.sample.rows(work.data)
            harmless = list(measure_availability(guard, test.images[rows], test.labels[rows]))
        unlocked = _unlocked_labels(work, path)
        with atomic_output(work.folder / "verdicts.npz") as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                labels=verdicts.labels.astype(np.int64),
                accepted=verdicts.accepted,
                unlocked=verdicts.labels.astype(np.int64) if unlocked is None else unlocked,
                truth=test.labels,
            )
        with atomic_output(work.folder / "availability.json") as temporary:
            text = json.dumps([dataclasses.asdict(one) for one in harmless], indent=1)
            temporary.write_text(text + "\n", encoding="utf-8")

    def seconds(self, pace: Pace) -> float:
        """Return the time of its verdicts."""
        return (2 * self.images + _CHANGES * (self.sample.n or self.images)) * pace.forward


class Benign(NamedTuple):
    """What a file says to the N benign test images.

    Attributes:
        labels: Argmax Z*, ``(N,)``.
        accepted: Its verdicts, ``(N,)``.
        unlocked: Argmax Z, ``(N,)``; of a file without a lock the same as `labels`.
        truth: True labels, ``(N,)``.
        available: Share of the sample accepted after each harmless change, by its name.
    """

    labels: IntArray
    accepted: BoolArray
    unlocked: IntArray
    truth: IntArray
    available: dict[str, float]


def load_benign(folder: Path) -> Benign:
    """Read the files of a finished `JudgeBenign`."""
    available = json.loads((folder / "availability.json").read_text(encoding="utf-8"))
    with np.load(folder / "verdicts.npz", allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in ("labels", "accepted", "unlocked", "truth")}
    return Benign(**arrays, available={one["change"]: one["accepted"][0] for one in available})


def _unlocked_labels(work: Work, path: Path) -> IntArray | None:
    """Return argmax Z on all test images, ``(N,)``; None for a file without a lock."""
    artifact = read_artifact(path)
    if artifact.spec.recipe.get("lock", "none") == "none":
        return None
    graph, images = GradientGraph(artifact.model, of=("unlocked_logits",), **work.running), work.data.test.images
    parts = [
        graph.logits(to_pixels(images[start : start + BATCH]))["unlocked_logits"].argmax(axis=1)
        for start in range(0, len(images), BATCH)
    ]
    return np.concatenate(parts).astype(np.int64)
