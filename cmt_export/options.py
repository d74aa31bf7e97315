"""Options of `cmt train` that are made from dataclasses, where defaults and help texts stand."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import Field, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click

from calibration.options import number
from cmt_export.checkpoint import Schedule
from cmt_export.recipes import RECIPES, Recipe
from runtime.errors import UsageError

Command = Callable[..., Any]

TRUNK = click.option(
    "--trunk", metavar="MODULE:FACTORY", help="Your own trunk; imported only because you name it here."
)

SCHEDULE_HELP = {
    "epochs": "Passes over the training images.",
    "batch_size": "Images a step.",
    "learning_rate": "Peak of the one-cycle schedule, Adam.",
    "seed": "Of weights, order, dropout and everything a recipe draws.",
    "flip": "Mirror half of the images left to right, drawn anew in every step.",
    "crop": "Move each image by up to so many pixels, drawn anew in every step.",
    "affine": "Turn, stretch and slant each image: largest change of an entry of the 2x2 matrix.",
}


def schedule_options(command: Command) -> Command:
    """Add an option for every field of `Schedule`."""
    for name, text in reversed(SCHEDULE_HELP.items()):
        default = getattr(Schedule(), name)
        kind: dict[str, Any] = {"is_flag": True} if default is False else {"type": type(default), "show_default": True}
        command = click.option(_flag(name), default=default, help=text, **kind)(command)
    return command


def recipe_options(command: Command) -> Command:
    """Add an option for every field of any recipe; where recipes share one, it is one option with several defaults."""
    for name, owners in reversed(owners_of_options().items()):
        text = next(iter(owners.values())).metadata["help"]
        shown = f"{text}  [{_shown_defaults(owners)}]"
        command = click.option(_flag(name), help=shown, **_kind(name))(command)
    return command


def owners_of_options() -> dict[str, dict[str, Field[Any]]]:
    """Return each option's field in every recipe that has it, by option and by recipe."""
    owners: dict[str, dict[str, Field[Any]]] = {}
    for recipe, kind in RECIPES.items():
        for each in fields(kind):
            owners.setdefault(each.name, {})[recipe] = each
    return owners


def read_recipe_options(name: str, options: Mapping[str, Any], explicit: Collection[str]) -> Recipe:
    """Return the recipe `name` with the options that were given.

    Args:
        name: One of `RECIPES`.
        options: Every option of the command by its name.
        explicit: Those the user gave.

    Raises:
        UsageError: One of them belongs to other recipes only, or a value is out of range.
    """
    owners = owners_of_options()
    given = sorted(owners.keys() & set(explicit))
    for option in given:
        if name not in owners[option]:
            raise UsageError(
                f"{_flag(option)}: expected one of the recipes that have it ({', '.join(owners[option])}), "
                f"got --recipe {name}; leave it out"
            )
    return RECIPES[name](**{option: options[option] for option in given})


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _kind(name: str) -> dict[str, Any]:
    """Return what click is told of an option's values; recipes that share an option share its type."""
    owner = next(owner for owner in RECIPES.values() if name in {each.name for each in fields(owner)})
    hint = get_type_hints(owner)[name]
    if get_origin(hint) is Literal:
        return {"type": click.Choice(get_args(hint))}
    kind = next((each for each in get_args(hint) if each is not type(None)), hint)
    return {"callback": number, "metavar": "NUMBER"} if kind is float else {"type": kind}


def _shown_defaults(owners: Mapping[str, Field[Any]]) -> str:
    """Return the defaults as the help shows them, those of several recipes together where they agree."""
    recipes: dict[str, list[str]] = {}
    for recipe, each in owners.items():
        shown = f"{each.default:.4g}" if isinstance(each.default, float) else str(each.default).lower()
        recipes.setdefault(shown, []).append(recipe)
    if len(owners) == len(RECIPES) and len(recipes) == 1:
        return f"default: {next(iter(recipes))}"
    return "; ".join(f"{', '.join(names)}: {default}" for default, names in recipes.items())
