"""Every recipe with options small enough to train in a test, and how to begin with it."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from calibration.datasets import Dataset
from cmt_export.checkpoint import Schedule
from cmt_export.recipes import (
    RECIPES,
    Adversarial,
    Ccat,
    Cmt,
    Distillation,
    Hardened,
    Magnet,
    PgdTraining,
    Recipe,
    Trades,
    Undefended,
)
from cmt_export.run import Run, start
from cmt_export.training import train
from tests.cmt_export.conftest import CLASSMAP, EXECUTION

TRUNK = "tests.cmt_export.residual:make_trunk"

QUICK: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Undefended(),
        Adversarial(epsilon=0.2),
        PgdTraining(epsilon=0.2, inner_steps=2, inner_step_size=0.6),
        Trades(epsilon=0.2, inner_steps=2, inner_step_size=0.6),
        Ccat(epsilon=0.2, inner_steps=2, inner_step_size=0.6),
        Cmt(epsilon=0.2),
        Distillation(temperature=5.0),
        Magnet(false_positives=0.05, held_out=0.25),
        Hardened(epsilon=0.2, inner_steps=2, inner_step_size=0.6, late_steps=3, squash=4.0, focus=0.5),
    )
}
assert QUICK.keys() == RECIPES.keys()


def begin_quickly(bars: Dataset, recipe: Recipe, *, epochs: int = 2) -> Run:
    """A run of few steps on the small residual trunk, after whatever has to be trained first."""
    options: dict[str, Any] = {"trunk": TRUNK, "execution": EXECUTION}
    schedule = Schedule(epochs=epochs, batch_size=128, learning_rate=2e-3)
    stage = recipe.first_stage
    if stage is not None:
        with TemporaryDirectory() as folder:
            run = start(bars, recipe=stage.recipe, schedule=schedule, **options)
            options["first_stage"] = train(run, Path(folder) / "stage.pt")
    classmap = CLASSMAP if recipe.needs_classmap else None
    return start(bars, recipe=recipe, schedule=schedule, classmap=classmap, **options)
