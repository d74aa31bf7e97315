"""What `cmt train` does around the loop: resume or start, and where the Classmap comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from calibration.classmap import ClassmapConfig, estimate_classmap
from calibration.datasets import Dataset, Split
from cmt_export.checkpoint import Checkpoint, Execution, Schedule
from cmt_export.exporting import export
from cmt_export.recipes import Recipe, Stage, Undefended
from cmt_export.run import check_same_data, resume, start
from cmt_export.training import OnStep, train
from runtime.artifact import read_artifact
from runtime.errors import CmtError, UsageError

Progress = Callable[[str], OnStep]
"""Announces a stage by name and returns what to tell of its steps."""

ORACLE = Stage("oracle", Undefended())
"""What the Classmap is estimated on where no file was given."""

_CLASSMAP_IMAGES = 10_000
"""The paper examines 10,000 FGS examples (§3.1)."""


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """One `cmt train`.

    Attributes:
        output: Where the checkpoint goes.
        recipe: The objective.
        schedule: The optimisation.
        trunk: A built-in name or ``package.module:factory``.
        classmap_file: Exported oracle to estimate the Classmap on; None trains one first.
        classmap_config: How it is estimated; None for a recipe without one.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``auto``, ``fp32`` or ``bf16``.
        memory_format: ``auto``, ``contiguous`` or ``channels-last``.
        threads: Of PyTorch; None takes all usable processors.
        execution: Taken instead of measuring, where given.
        resume: Continue what `output` holds.
        explicit: Names of the options the user gave; a resumed run must have been started with the same.
    """

    output: Path
    recipe: Recipe
    schedule: Schedule
    trunk: str = "oracle"
    classmap_file: Path | None = None
    classmap_config: ClassmapConfig | None = None
    device: str = "auto"
    precision: str = "auto"
    memory_format: str = "auto"
    threads: int | None = None
    execution: Execution | None = None
    resume: bool = False
    explicit: frozenset[str] = frozenset()

    def checkpoint_of(self, stage: Stage) -> Path:
        """Where the checkpoint of a stage goes that is trained first."""
        return self.output.with_suffix(f".{stage.name}.pt")

    @property
    def oracle_file(self) -> Path:
        """Where it is exported to."""
        return self.output.with_suffix(".oracle.onnx")


def run_plan(plan: TrainingPlan, data: Dataset, progress: Progress) -> Checkpoint:
    """Train what the plan says and return the finished checkpoint.

    Raises:
        UsageError: The data, the Classmap or an option does not fit, or `output` holds an unfinished run that the plan
            does not resume, or a run of other data or options that it does.
        CmtError: Training diverged, or a file cannot be written.
        KeyboardInterrupt: SIGINT or SIGTERM came; the state is saved.
    """
    begun = _begun(plan)
    if begun is not None:
        _check_same_options(plan, begun)
        check_same_data(data, begun)
        if begun.finished:
            return begun
        run = resume(data, begun, trunk=plan.trunk if "trunk" in plan.explicit else None)
        return train(run, plan.output, on_step=progress(f"resuming {plan.output.name}"))
    classmap, provenance = _find_classmap(plan, data, progress) if plan.recipe.needs_classmap else (None, {})
    stage = plan.recipe.first_stage
    run = start(
        data,
        recipe=plan.recipe,
        schedule=plan.schedule,
        trunk=plan.trunk,
        classmap=classmap,
        first_stage=None if stage is None else _train_stage(plan, stage, data, progress),
        provenance=provenance,
        device=plan.device,
        precision=plan.precision,
        memory_format=plan.memory_format,
        threads=plan.threads,
        execution=plan.execution,
    )
    return train(run, plan.output, on_step=progress(f"training {plan.output.name}"))


def _begun(plan: TrainingPlan) -> Checkpoint | None:
    """Return the run that `output` holds and that is to be resumed, finished or not."""
    if not plan.output.exists():
        return None
    if plan.resume:
        return Checkpoint.load(plan.output)
    try:
        finished = Checkpoint.load(plan.output).finished
    except CmtError:
        return None
    if not finished:
        raise UsageError(f"{plan.output}: expected no unfinished run there, got one; --resume it, or delete it")
    return None


def _check_same_options(plan: TrainingPlan, checkpoint: Checkpoint) -> None:
    for option, (wanted, began) in _differing(plan, checkpoint).items():
        if option in plan.explicit:
            raise UsageError(
                f"--resume: expected {_flag(option)} {began} as the run began, got {wanted}; "
                "leave it out, or train to another -o"
            )


def _differing(plan: TrainingPlan, checkpoint: Checkpoint) -> dict[str, tuple[object, object]]:
    """Return what the plan says and how the run began, of each option in which they differ, by its name."""
    wanted, began = _options(plan), _options(checkpoint)
    return {name: (wanted[name], began.get(name)) for name in sorted(wanted) if began.get(name) != wanted[name]}


def _options(one: TrainingPlan | Checkpoint) -> dict[str, object]:
    named = {"trunk": one.trunk, "network": one.trunk, "recipe": one.recipe.name}
    return vars(one.recipe) | vars(one.schedule) | named


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def _find_classmap(plan: TrainingPlan, data: Dataset, progress: Progress) -> tuple[tuple[int, ...], dict[str, object]]:
    """Estimate the Classmap on the exported oracle (paper §3.2), training the oracle first where none was given."""
    data.require_every_class("a Classmap")
    oracle = plan.classmap_file or _train_oracle(plan, data, progress)
    artifact = read_artifact(oracle)
    data.require_classes(artifact.spec.classes, owner=str(oracle))
    data.require_shape(artifact.spec.input_shape, owner=str(oracle))
    progress("estimating the Classmap")
    rows = _classmap_rows(data.train, seed=plan.schedule.seed)
    estimate = estimate_classmap(
        artifact.model,
        data.train.images[rows],
        data.train.labels[rows],
        config=plan.classmap_config,
        device="cpu",
        threads=plan.threads,
    )
    provenance: dict[str, object] = {
        "oracle": artifact.spec.digest,
        "classmap": {
            **vars(plan.classmap_config),
            "images": len(rows),
            "confusion": estimate.confusion.round(6).tolist(),
        },
    }
    return estimate.classmap, provenance


def _classmap_rows(split: Split, *, seed: int) -> npt.NDArray[np.int64]:
    """Return which images the Classmap is estimated on: a sample, and one of each class that it misses."""
    rows = split.sample(_CLASSMAP_IMAGES, seed=seed)
    classes, first = np.unique(split.labels, return_index=True)
    missed = ~np.isin(classes, split.labels[rows])
    return np.sort(np.concatenate([rows, first[missed]]))


def _train_oracle(plan: TrainingPlan, data: Dataset, progress: Progress) -> Path:
    checkpoint = _train_stage(plan, ORACLE, data, progress)
    progress("exporting the oracle")
    export(checkpoint, plan.oracle_file, trunk=plan.trunk if "trunk" in plan.explicit else None)
    return plan.oracle_file


def _train_stage(plan: TrainingPlan, stage: Stage, data: Dataset, progress: Progress) -> Checkpoint:
    """Train what comes before the recipe's own network, or take it finished from an earlier run that is resumed."""
    path = plan.checkpoint_of(stage)
    first = replace(plan, output=path, recipe=stage.recipe, explicit=plan.explicit & {"trunk", "network"})
    if plan.resume and path.exists():
        for option, (wanted, began) in _differing(first, Checkpoint.load(path)).items():
            raise UsageError(
                f"{path}: expected {_flag(option)} {wanted} as this run needs, got {began}; "
                "give the options it began with, or delete it"
            )
    return run_plan(first, data, progress)
