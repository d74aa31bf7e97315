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
from cmt_export.reproduction.markdown import NOT_RUN, failures, table
from cmt_export.reproduction.published import FIGURE_NOTES
from cmt_export.reproduction.sections import SECTIONS
from cmt_export.reproduction.training_units import Export
from cmt_export.reproduction.unit import options_of
from runtime.atomic import atomic_output, unwritable

FORMAT, SCHEMA = "cmt.reproduction", 1


def write_outcome(folder: Path, found: Found, names: Iterable[str], machine: Environment, *, command: str) -> None:
    """Write some sections, and the two files about all of them, each whole or not at all.

    Args:
        folder: The output folder.
        found: What is known so far.
        names: Sections whose files are to be written again.
        machine: Versions and machine.
        command: What was typed.

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
    cells = {name: section.cells(found) for name, section in SECTIONS.items()}
    document = {**_document(found, cells, machine), "command": command}
    _write(folder / "results.json", (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())
    _write(folder / "summary.md", _summary(folder, found, cells, command).encode())


def _document(found: Found, cells: dict[str, tuple[Cell, ...]], machine: Environment) -> dict[str, Any]:
    preset, store = found.lineup.preset, found.store
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "set": preset.name,
        "finding": sentence(found),
        "complete": all(store.find(unit) for one in SECTIONS.values() for unit in one.units(found.sets)),
        "data": {"name": found.data.name, "train": found.data.train.digest, "test": found.data.test.digest},
        "preset": json.loads(json.dumps(dataclasses.asdict(preset))),
        "config": dataclasses.asdict(found.lineup.config),
        "environment": dataclasses.asdict(machine),
        "networks": {name: _network(found, unit) for name, unit in _networks(found).items()},
        "attacks": _attacks(found),
        "cells": {
            name: [cell.to_json(store.key(cell.unit), found.digest(cell.unit)) for cell in members]
            for name, members in cells.items()
        },
    }


def _networks(found: Found) -> dict[str, Export]:
    lineup = found.lineup
    ablation = {f"ablation: {name}": unit for name, unit in lineup.ablation.items()}
    return {"oracle": lineup.oracle, "substitute": lineup.substitute, **lineup.defended, **ablation}


def _network(found: Found, unit: Export) -> dict[str, Any]:
    spec = found.spec(unit)
    return {
        "options": options_of(unit.train, found.store.data),
        "digest": None if spec is None else spec.digest,
        "classmap": None if spec is None or spec.classmap is None else list(spec.classmap),
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


def _summary(folder: Path, found: Found, cells: dict[str, tuple[Cell, ...]], command: str) -> str:
    preset = found.lineup.preset
    pages = [
        f"- [{file}]({file}){f': {FIGURE_NOTES[name]}' if name in FIGURE_NOTES else ''}"
        for name in SECTIONS
        for file in _pages(name)
        if (folder / file).exists()
    ]
    return "\n".join(
        [
            f"{sentence(found)}\n",
            f"# The paper on {preset.name}\n",
            f"Test images: {found.sets.images:,}; slow attacks on {min(found.lineup.config.n, found.sets.images):,}. "
            f"To repeat it: `{command}`. "
            "Every figure with its interval, unit and digest is in `results.json`.\n",
            *_published(cells),
            "## Networks\n",
            table(("network", "accuracy through Z*", "benign rejected", "digest"), _network_rows(found)),
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


def _network_rows(found: Found) -> list[list[str]]:
    rows = []
    for name, unit in _networks(found).items():
        spec, benign = found.spec(unit), found.benign(benign_unit(found.sets, unit))
        accuracy = rejected = NOT_RUN if spec is None else ""
        if benign is not None:
            accuracy = percent(float((benign.labels == benign.truth).mean()), digits=2)
            rejected = percent(float((~benign.accepted).mean()), digits=2)
        elif spec is not None and isinstance(recorded := spec.training.get("benign"), dict):
            accuracy = percent(float(recorded["accuracy"]), digits=2)
        rows.append([name, accuracy, rejected, "" if spec is None else f"`{spec.digest[:12]}`"])
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
