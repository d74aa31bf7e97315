"""What an earlier run left in the output folder: a run that is asked for other sections keeps the figures of these.

A figure is known by its name and by the key of the unit it was counted on, so that nothing is kept that other options
would change. The pages of such a section are left as they are.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cmt_export.reproduction.cell import Cell, Count
from cmt_export.reproduction.found import Found
from cmt_export.reproduction.judging import JudgeBenign, JudgeSet
from cmt_export.reproduction.sections import SECTIONS

Name = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Figures of an earlier outcome.

    Attributes:
        finding: Its first line; empty where there is none.
        cells: Its figures as `Cell.to_json` wrote them, by section, key of the unit, name and option.
        networks: What it says of each network that no section of this run judges, by key of the unit that exported it.
        complete: Sections of which nothing was missing.
        runs: Command and environment of every run that something is kept of.
    """

    finding: str = ""
    cells: Mapping[Name, dict[str, Any]] = field(default_factory=dict)
    networks: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    complete: frozenset[str] = frozenset()
    runs: tuple[dict[str, Any], ...] = ()

    def cell(self, section: str, cell: Cell, key: str) -> tuple[Cell, str | None]:
        """Return a figure that is not run here as it was found earlier, with the digest of what it was counted on.

        Args:
            section: Its section.
            cell: The figure; one that is known already stays as it is.
            key: Key of its unit.
        """
        kept = self.cells.get((section, key, *cell.name, cell.option))
        if cell.found is not None or cell.undefined or kept is None:
            return cell, None
        counted = None if kept["count"] is None else Count(part=kept["count"], whole=kept["n"])
        undefined = kept["verdict"] == "undefined"
        earlier = replace(cell, found=counted, published=kept["published"], caveat=kept["caveat"], undefined=undefined)
        return earlier, kept["digest"]


def read_kept(folder: Path, found: Found, *, asked: Collection[str]) -> Kept:
    """Return what the ``results.json`` in an output folder says of the sections that are not asked for.

    Args:
        folder: The output folder.
        found: What is reproduced; figures of another set or other data are not kept.
        asked: Sections that this run makes.
    """
    try:
        document = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        data = {"name": found.data.name, "train": found.data.train.digest, "test": found.data.test.digest}
        if document["set"] != found.lineup.preset.name or {**document["data"], "name": data["name"]} != data:
            return Kept()
        cells = {
            (section, cell["unit"], *cell["name"], cell["option"]): cell
            for section, members in document["cells"].items()
            if section not in asked
            for cell in members
            if cell["count"] is not None or cell["verdict"] == "undefined"
        }
        if not cells:
            return Kept()
        return Kept(
            finding=document["finding"] if "headline" not in asked else "",
            cells=cells,
            networks={
                one["unit"]: one
                for one in document["networks"].values()
                if one["digest"] and one["unit"] not in _judged(found, asked)
            },
            complete=frozenset(document.get("sections_complete", ())) - frozenset(asked),
            runs=(*document.get("earlier", ()), {name: document[name] for name in ("command", "environment")}),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Kept()  # no outcome, or somebody else's file: nothing to keep


def _judged(found: Found, asked: Collection[str]) -> set[str]:
    """Return the keys of the networks that some sections judge."""
    units = (unit for name in asked for unit in SECTIONS[name].units(found.sets))
    return {found.store.key(unit.judge) for unit in units if isinstance(unit, JudgeSet | JudgeBenign)}
