"""Going on with an interrupted sweep: what has to be the same, and which attacks are finished."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from typing import Any

from calibration.results.document import Results
from calibration.results.phrasing import cell_name
from calibration.results.records import Cell, Source
from runtime.errors import UsageError

_DATA = ("digest", "sample", "seed", "eight_bit")


def cell_key(threat: str, reading: str, attack: str, parameters: Mapping[str, Any], source: Source) -> str:
    """Return what makes two attacks the same: attacker, attack, every hyper-parameter, and the file they follow."""
    return json.dumps([threat, reading, attack, parameters, source.digest, source.tensor], sort_keys=True)


def key_of(cell: Cell) -> str:
    """Return the key of a finished attack."""
    parameters = cell.parameters
    if cell.attack == "apgd":
        parameters = {"widest": 1.0, **parameters}  # what it did before it had a choice
    return cell_key(cell.threat, cell.reading, cell.attack, parameters, cell.source)


def check_resumable(earlier: Results, now: Results, planned: Collection[str]) -> None:
    """Check that results of a part can be continued: nothing but the attacks that are missing may differ.

    Args:
        earlier: What was kept of the interrupted sweep.
        now: The same before its first attack.
        planned: Keys of all attacks of this sweep.

    Raises:
        UsageError: The file, the images, their benign verdicts, the machine or an attack is another one.
    """
    _same("the file", earlier.model.sha256, now.model.sha256)
    for name in _DATA:
        _same(f"the images' {name}", getattr(earlier.data, name), getattr(now.data, name))
    for field in dataclasses.fields(now.environment):
        _same(f"the environment's {field.name}", *(getattr(one.environment, field.name) for one in (earlier, now)))
    _same("benign verdicts", earlier.benign.verdicts, now.benign.verdicts)
    for cell in earlier.cells:
        if key_of(cell) not in planned:
            raise UsageError(f"--resume: expected attacks of this sweep, got {cell_name(cell)} too; choose another -o")


def _same(what: str, before: object, now: object) -> None:
    if before != now:
        raise UsageError(f"--resume: expected {what} to be {now!a:.60} as now, got {before!a:.60}; choose another -o")
