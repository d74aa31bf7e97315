"""Units that make networks: a training, which resumes from its own checkpoint, and the export of what it made."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

from calibration.classmap import ClassmapConfig
from cmt_export.checkpoint import Checkpoint, Execution, Schedule
from cmt_export.exporting import export
from cmt_export.pipeline import TrainingPlan, run_plan
from cmt_export.recipes import Recipe
from cmt_export.reproduction.pace import EXPORT_SECONDS, Pace
from cmt_export.reproduction.unit import Unit, Work
from cmt_export.training import OnStep, Step
from runtime.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class Train(Unit):
    """Train one network.

    Attributes:
        trunk: A built-in name.
        recipe: The objective.
        schedule: The optimisation.
        images: Training images, for the estimate of the time.
        classmap: How its Classmap is estimated; None for a recipe without one.
        oracle: The undefended network that it is estimated on; None for a recipe without one.
        execution: How the arithmetic runs; None measures.
    """

    kind: ClassVar[str] = "train"
    files: ClassVar[tuple[str, ...]] = ("model.pt",)
    trunk: str
    recipe: Recipe
    schedule: Schedule
    images: int
    classmap: ClassmapConfig | None = None
    oracle: Export | None = None
    execution: Execution | None = None

    @property
    def title(self) -> str:
        """Recipe, trunk, and every option that is not the default."""
        return f"train {self.name}, {self.schedule.epochs} epochs"

    @property
    def name(self) -> str:
        """What tables call the network."""
        usual = type(self.recipe)()
        changed = [
            f"{each.name} {getattr(self.recipe, each.name)}"
            for each in fields(self.recipe)
            if getattr(self.recipe, each.name) != getattr(usual, each.name)
        ]
        if self.classmap is not None and self.classmap.shape != ClassmapConfig().shape:
            changed.append(f"classmap {self.classmap.shape}")
        what = "undefended" if self.recipe.rule == "confidence" else self.recipe.name
        return f"{what} {self.trunk}{f' ({changes})' if (changes := ', '.join(changed)) else ''}"

    def run(self, work: Work) -> None:
        """Train, or go on where an interrupted training stopped."""
        path = work.folder / "model.pt"
        _remove_damaged(path)
        plan = TrainingPlan(
            output=path,
            recipe=self.recipe,
            schedule=self.schedule,
            trunk=self.trunk,
            classmap_file=None if self.oracle is None else work.of(self.oracle) / "guard.onnx",
            classmap_config=self.classmap,
            device=work.device,
            threads=work.threads,
            execution=self.execution,
            resume=True,
        )
        run_plan(plan, work.data, lambda what: _following(work))

    def seconds(self, pace: Pace) -> float:
        """Return the time of all its epochs."""
        return self.schedule.epochs * self.images * pace.training[f"{self.recipe.name} {self.trunk}"]


@dataclass(frozen=True, kw_only=True)
class Export(Unit):
    """Export one network, after comparing its verdicts with PyTorch's.

    Attributes:
        train: What made it.
    """

    kind: ClassVar[str] = "export"
    files: ClassVar[tuple[str, ...]] = ("guard.onnx",)
    train: Train

    @property
    def title(self) -> str:
        """The network's name."""
        return f"export {self.train.name}"

    def run(self, work: Work) -> None:
        """Write ``guard.onnx``."""
        export(Checkpoint.load(work.of(self.train) / "model.pt"), work.folder / "guard.onnx")

    def seconds(self, pace: Pace) -> float:
        """Return what torch.onnx takes."""
        return EXPORT_SECONDS


def _following(work: Work) -> OnStep:
    def on_step(step: Step) -> None:
        work.report(step.epoch * step.steps + step.step, step.epochs * step.steps)

    return on_step


def _remove_damaged(path: Path) -> None:
    """Remove a checkpoint that cannot be read: the training begins anew."""
    if path.exists():
        try:
            Checkpoint.load(path)
        except ModelError:
            path.unlink()
