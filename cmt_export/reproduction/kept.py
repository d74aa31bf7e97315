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

from calibration.records import from_json
from cmt_export.reproduction.cell import Cell, Count
from cmt_export.reproduction.found import Found
from cmt_export.reproduction.judging import JudgeBenign, JudgeSet
from cmt_export.reproduction.sections import SECTIONS
from runtime.errors import UsageError

Name = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Figure:
    """A cell as `Cell.to_json` wrote it."""

    name: tuple[str, ...]
    option: str
    published: float | None
    better: str
    count: int | None
    n: int | None
    interval: Any
    verdict: str
    caveat: str
    unit: str
    digest: str | None

    def __post_init__(self) -> None:
        """Refuse a count that is none."""
        if self.count is not None and not 0 <= self.count <= (self.n or 0):
            raise UsageError(f"{self.name}: expected a count of at most {self.n}, got {self.count}")

    @property
    def found(self) -> Count | None:
        """What was counted."""
        return None if self.count is None or self.n is None else Count(part=self.count, whole=self.n)


@dataclass(frozen=True, kw_only=True)
class _Network:
    """A network as the outcome wrote it."""

    options: Any
    digest: str | None
    classmap: Any
    accuracy: float | None
    rejected: float | None
    unit: str


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Figures of an earlier outcome.

    Attributes:
        finding: Its first line; empty where there is none.
        cells: Its figures, by section, key of the unit, name and option.
        networks: What it says of each network that no section of this run judges, by key of the unit that exported it.
        complete: Sections of which nothing was missing.
        runs: Command and environment of every run that something is kept of.
    """

    finding: str = ""
    cells: Mapping[Name, _Figure] = field(default_factory=dict)
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
        undefined = kept.verdict == "undefined"
        earlier = replace(cell, found=kept.found, published=kept.published, caveat=kept.caveat, undefined=undefined)
        return earlier, kept.digest


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
        figures = {
            (section, figure.unit, *figure.name, figure.option): figure
            for section, members in document["cells"].items()
            if section not in asked
            for figure in (from_json(_Figure, cell, section) for cell in members)
            if figure.found is not None or figure.verdict == "undefined"
        }
        if not figures:
            return Kept()
        judged = _judged(found, asked)
        networks = {name: vars(from_json(_Network, one, name)) for name, one in document["networks"].items()}
        runs = [*document["earlier"], {name: document[name] for name in ("command", "environment")}]
        return Kept(
            finding="" if "headline" in asked else str(document["finding"]),
            cells=figures,
            networks={one["unit"]: one for one in networks.values() if one["digest"] and one["unit"] not in judged},
            complete=frozenset(document["sections_complete"]) - frozenset(asked),
            runs=tuple({str(run["command"]): run for run in runs}.values()),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Kept()  # no outcome, or somebody else's file: nothing to keep


def _judged(found: Found, asked: Collection[str]) -> set[str]:
    """Return the keys of the networks that some sections judge."""
    units = (unit for name in asked for unit in SECTIONS[name].units(found.sets))
    return {found.store.key(unit.judge) for unit in units if isinstance(unit, JudgeSet | JudgeBenign)}
