"""Every defence as a recipe: one file, one frozen dataclass, one entry in the table below."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from cmt_export.recipes.adversarial import Adversarial
from cmt_export.recipes.ccat import Ccat
from cmt_export.recipes.cmt import Cmt
from cmt_export.recipes.distillation import Distillation
from cmt_export.recipes.hardened import Hardened
from cmt_export.recipes.magnet import Magnet
from cmt_export.recipes.pair import PairRecipe
from cmt_export.recipes.pgd_training import PgdTraining
from cmt_export.recipes.recipe import Batch, Recipe, Stage
from cmt_export.recipes.staged import StagedRecipe
from cmt_export.recipes.trades import Trades
from cmt_export.recipes.undefended import Undefended
from runtime.errors import UsageError

__all__ = [
    "RECIPES",
    "Adversarial",
    "Batch",
    "Ccat",
    "Cmt",
    "Distillation",
    "Hardened",
    "Magnet",
    "PairRecipe",
    "PgdTraining",
    "Recipe",
    "Stage",
    "StagedRecipe",
    "Trades",
    "Undefended",
    "read_recipe",
]

RECIPES: dict[str, type[Recipe]] = {
    recipe.name: recipe
    for recipe in (Undefended, Adversarial, Distillation, Magnet, PgdTraining, Trades, Ccat, Cmt, Hardened)
}
"""Every recipe by the name that ``--recipe`` takes and a checkpoint records."""


def read_recipe(document: Mapping[str, Any], *, version: int) -> Recipe:
    """Return the recipe that a checkpoint records.

    Args:
        document: Its name and its options.
        version: Of the checkpoint: version 1 wrote the options of `cmt` for every name.

    Raises:
        UsageError: There is no recipe of this name, or a value is out of range.
        TypeError: An option is not one of the recipe's.
    """
    name = document["name"]
    if name not in RECIPES:
        raise UsageError(f"recipe: expected one of {', '.join(RECIPES)}, got {name!r}")
    kind = RECIPES[name]
    known = {each.name for each in fields(kind)}
    return kind(**{key: value for key, value in document.items() if key in known or (version > 1 and key != "name")})
