"""What rows of a comparison and kinds of attacks are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from calibration.results.phrasing import amount, attack_name
from calibration.results.records import Cell, ModelRecord
from runtime.terminal import printable

_KNOWS = "nearly-white-box"


def row_names(rows: Sequence[Sequence[ModelRecord]]) -> list[str]:
    """Return one name for each row, all different.

    It is the recipe, or the file where there is none, with as few options as tell rows of one recipe apart; a pool is
    named by its members.

    Args:
        rows: The file of each row; of a pool, all members.
    """
    bases = [_base(models) for models in rows]
    names = []
    for base, models in zip(bases, rows, strict=True):
        alike = [other for found, other in zip(bases, rows, strict=True) if found == base]
        names.append(_told_apart(base, models[0].recipe, [other[0].recipe for other in alike]))
    files = [" + ".join(model.file for model in models) for models in rows]
    named = [f"{name}, {file}" if names.count(name) > 1 else name for name, file in zip(names, files, strict=True)]
    return [
        f"{name}, {models[0].digest[:8]}" if named.count(name) > 1 else name
        for name, models in zip(named, rows, strict=True)
    ]


def kind_of(cell: Cell) -> str:
    """Return who attacks with what, whatever the rule, budget and settings: what every defence can be asked for."""
    who = cell.threat if cell.threat != "black-box" else f"{cell.threat} {cell.reading}"
    targets = ", every target" if cell.parameters.get("all_targets") else ""
    return f"{who} {attack_name(cell.attack)}{targets}"


def applies(kind: str, models: Sequence[ModelRecord]) -> bool:
    """Return whether a kind of attack can be made on a row: a lock, two heads or a margin are not everywhere."""
    rules = {model.rule for model in models}
    if kind.startswith(("pre-lock", "eq-10")):
        locked = all(model.recipe.get("lock", "none") != "none" for model in models)
        return len(models) == 1 and rules == {"pair"} and (locked or kind.startswith("eq-10"))
    if kind.startswith(f"{_KNOWS} {attack_name('cw')}"):
        return "detector" not in rules
    return True


def _base(models: Sequence[ModelRecord]) -> str:
    names = [str(model.recipe.get("name") or PurePath(model.file).stem) for model in models]
    names = [printable(name) for name in names]  # chosen by whoever wrote the results
    return names[0] if len(names) == 1 else f"ensemble of {', '.join(names)}"


def _told_apart(base: str, own: Mapping[str, Any], all_: Sequence[Mapping[str, Any]]) -> str:
    chosen = _telling(all_)
    return f"{base} ({', '.join(f'{key} = {amount(own.get(key))}' for key in chosen)})" if chosen else base


def _telling(recipes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return few options that tell the recipes apart as well as all do; one that some lack only where others fail."""
    keys = sorted({key for recipe in recipes for key in recipe})
    keys.sort(key=lambda key: any(key not in recipe for recipe in recipes))

    def kinds(chosen: Sequence[str]) -> int:
        return len({tuple(str(recipe.get(key)) for key in chosen) for recipe in recipes})

    chosen: list[str] = []
    while kinds(chosen) < kinds(keys):
        chosen.append(max(keys, key=lambda key: kinds([*chosen, key])))
    return sorted(chosen)
