"""What a reproduction writes: every section's files, ``results.json`` for machines and ``summary.md`` for people."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from calibration.results.phrasing import percent
from calibration.results.records import Environment
from cmt_export.reproduction.cell import Cell
from cmt_export.reproduction.claims import benign_unit
from cmt_export.reproduction.found import Found
from cmt_export.reproduction.headline import sentence
from cmt_export.reproduction.judging import JudgeSet
from cmt_export.reproduction.kept import Kept
from cmt_export.reproduction.markdown import NOT_RUN, failures, table
from cmt_export.reproduction.published import FIGURE_NOTES
from cmt_export.reproduction.sections import SECTIONS
from cmt_export.reproduction.training_units import Export
from cmt_export.reproduction.unit import options_of
from runtime.atomic import atomic_output, unwritable

FORMAT, SCHEMA = "cmt.reproduction", 1
NOTHING = Kept()


def write_outcome(
    folder: Path, found: Found, names: Iterable[str], machine: Environment, *, command: str, kept: Kept = NOTHING
) -> None:
    """Write some sections, and the two files about all of them, each whole or not at all.

    Args:
        folder: The output folder.
        found: What is known so far.
        names: Sections whose files are to be written again.
        machine: Versions and machine.
        command: What was typed.
        kept: What an earlier run found of sections that this one is not asked for.

    Raises:
        CmtError: A file cannot be written.
    """
    try:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from None
    for name in names:
        for file, content in SECTIONS[name].files(found).items():
            _write(folder / file, content)
    outcome = _Outcome(found, kept, command)
    document = {**_document(outcome, machine), "command": command, "earlier": outcome.earlier}
    _write(folder / "results.json", (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())
    _write(folder / "summary.md", _summary(folder, outcome).encode())


class _Outcome:
    """What is found now, and for the rest what an earlier run found."""

    def __init__(self, found: Found, kept: Kept, command: str) -> None:
        self.found = found
        self.earlier = [run for run in kept.runs if run["command"] != command]
        self.commands = [*(run["command"] for run in self.earlier), command]
        units = {name: section.units(found.sets) for name, section in SECTIONS.items()}
        self.complete = [
            name for name, needed in units.items() if name in kept.complete or all(map(found.store.find, needed))
        ]
        self.digested = {
            name: tuple(_kept_or_found(found, kept, name, cell) for cell in section.cells(found))
            for name, section in SECTIONS.items()
        }
        self.cells = {name: tuple(cell for cell, _ in members) for name, members in self.digested.items()}
        known = any(cell.found for cell in SECTIONS["headline"].cells(found))
        self.finding = sentence(found) if known or not kept.finding else kept.finding
        self.networks = {
            name: kept.networks.get(found.store.key(unit)) or _network(found, unit)
            for name, unit in _networks(found).items()
        }


def _kept_or_found(found: Found, kept: Kept, section: str, cell: Cell) -> tuple[Cell, str | None]:
    shown, digest = kept.cell(section, cell, found.store.key(cell.unit))
    return shown, found.digest(cell.unit) if shown is cell else digest


def _document(outcome: _Outcome, machine: Environment) -> dict[str, Any]:
    found = outcome.found
    preset, store = found.lineup.preset, found.store
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "set": preset.name,
        "finding": outcome.finding,
        "complete": len(outcome.complete) == len(SECTIONS),
        "sections_complete": outcome.complete,
        "data": {"name": found.data.name, "train": found.data.train.digest, "test": found.data.test.digest},
        "preset": json.loads(json.dumps(dataclasses.asdict(preset))),
        "config": dataclasses.asdict(found.lineup.config),
        "environment": dataclasses.asdict(machine),
        "networks": outcome.networks,
        "attacks": _attacks(found),
        "cells": {
            name: [cell.to_json(store.key(cell.unit), digest) for cell, digest in members]
            for name, members in outcome.digested.items()
        },
    }


def _networks(found: Found) -> dict[str, Export]:
    lineup = found.lineup
    ablation = {f"ablation: {name}": unit for name, unit in lineup.ablation.items()}
    return {"oracle": lineup.oracle, "substitute": lineup.substitute, **lineup.defended, **ablation}


def _network(found: Found, unit: Export) -> dict[str, Any]:
    spec, benign = found.spec(unit), found.benign(benign_unit(found.sets, unit))
    accuracy = rejected = None
    if benign is not None:
        accuracy, rejected = float((benign.labels == benign.truth).mean()), float((~benign.accepted).mean())
    elif spec is not None and isinstance(recorded := spec.training.get("benign"), dict):
        accuracy = float(recorded["accuracy"])
    return {
        "options": options_of(unit.train, found.store.data),
        "digest": None if spec is None else spec.digest,
        "classmap": None if spec is None or spec.classmap is None else list(spec.classmap),
        "accuracy": accuracy,
        "rejected": rejected,
        "unit": found.store.key(unit),
    }


def _attacks(found: Found) -> dict[str, Any]:
    """Return every hyper-parameter of every adversarial set, by the key of the judgement that used it."""
    units = dict.fromkeys(unit for section in SECTIONS.values() for unit in section.units(found.sets))
    return {
        found.store.key(unit): {
            **options_of(unit.parts[0], found.store.data),
            "last": unit.parts[-1].last,
            "judge": found.store.key(unit.judge),
        }
        for unit in units
        if isinstance(unit, JudgeSet)
    }


def _summary(folder: Path, outcome: _Outcome) -> str:
    found = outcome.found
    preset = found.lineup.preset
    pages = [
        f"- [{file}]({file}){f': {FIGURE_NOTES[name]}' if name in FIGURE_NOTES else ''}"
        for name in SECTIONS
        for file in _pages(name)
        if (folder / file).exists()
    ]
    return "\n".join(
        [
            f"{outcome.finding}\n",
            f"# The paper on {preset.name}\n",
            f"Test images: {found.sets.images:,}; slow attacks on {min(found.lineup.config.n, found.sets.images):,}. "
            f"To repeat it: {', then '.join(f'`{command}`' for command in outcome.commands)}. "
            "Every figure with its interval, unit and digest is in `results.json`.\n",
            *_published(outcome.cells),
            "## Networks\n",
            table(("network", "accuracy through Z*", "benign rejected", "digest"), _network_rows(outcome)),
            "## Pages and figures\n",
            *pages,
            "",
        ]
    )


def _published(cells: dict[str, tuple[Cell, ...]]) -> list[str]:
    """Return what reproduces and what does not; nothing for a data set that the paper does not have."""
    tally = _tally(cells)
    if not tally:
        return []
    missing = [
        f"## Table {name[-1]}: cells that do not reproduce\n\n{failures(cells[name])}"
        for name in ("table3", "table4", "table5")
        if any(cell.published is not None for cell in cells[name])
    ]
    return ["## Published cells\n", table(("", "beats", "matches", "does not reproduce", NOT_RUN), tally), *missing]


def _tally(cells: dict[str, tuple[Cell, ...]]) -> list[list[str]]:
    """Return how many headline cells of each section have which verdict."""
    rows = []
    for name, members in cells.items():
        paper = Counter(cell.verdict for cell in members if cell.published is not None and not cell.option)
        if paper:
            verdicts = ("beats", "matches", "does not reproduce", "not run yet")
            rows.append([name, *(str(paper[verdict]) for verdict in verdicts)])  # type: ignore[index]
    return rows


def _network_rows(outcome: _Outcome) -> list[list[str]]:
    rows = []
    for name, network in outcome.networks.items():
        unknown = "" if network["digest"] else NOT_RUN
        shares = (network[key] for key in ("accuracy", "rejected"))
        shown = [unknown if each is None else percent(each, digits=2) for each in shares]
        rows.append([name, *shown, f"`{network['digest'][:12]}`" if network["digest"] else ""])
    return rows


def _pages(name: str) -> tuple[str, ...]:
    """Return what files a section may have written for people."""
    return f"{name}.md", f"{name}.html", f"figures/{name}.svg", f"figures/{name}.png"


def _write(path: Path, content: bytes) -> None:
    """Write a file, unless it is there already with this very content."""
    try:
        if path.read_bytes() == content:
            return
    except OSError:
        pass
    with atomic_output(path) as temporary:
        temporary.write_bytes(content)
