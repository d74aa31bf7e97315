"""What an evaluation found, and everything needed to find it again: frozen records that are one JSON file.

`calibration.evaluation` makes them, `calibration.report` shows them. The parts stand in `calibration.results.records`.

Schema 2 added the verdict on every image, the figures that follow from them (ROC, RErr, pointwise worst cases),
availability, and what sanity checks need. Files of schema 1 are read as results that know nothing of these.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibration.availability import Availability
from calibration.records import from_json
from calibration.results.records import (
    Cell,
    DataRecord,
    Environment,
    LogitsCheck,
    ModelRecord,
    Probe,
    Repetition,
    Score,
    SelfCheck,
)
from calibration.results.verification import check_scores, check_worst_cases
from calibration.results.worst_case import WorstCase
from runtime.atomic import atomic_output
from runtime.errors import UsageError

SCHEMA = 2


@dataclass(frozen=True, kw_only=True)
class Results:
    """One evaluation of one file.

    Attributes:
        schema: Version of this format.
        complete: Whether every planned cell is here; False after an interruption.
        command: What to run to repeat it.
        model: The file under attack.
        data: The images.
        environment: Versions and machine.
        self_check: One record for each differentiated file.
        logits_checks: One record for each tensor that was taken for logits.
        repetition: What crafting the same twice gave; None where it was not tried.
        benign: The verdicts without attack.
        availability: What harmless changes do to the benign images.
        worst_cases: What all attacks together achieve, see `worst_case`.
        cells: Adaptive attacks first, then the strongest threat first, within a threat the attack that fools most
            first.
        probes: Attacks that were run for a sanity check alone.

    Raises:
        UsageError: The schema is another one, or a column has not one value for each image.
    """

    schema: int = SCHEMA
    complete: bool
    command: str
    model: ModelRecord
    data: DataRecord
    environment: Environment
    self_check: tuple[SelfCheck, ...]
    logits_checks: tuple[LogitsCheck, ...]
    repetition: Repetition | None
    benign: Score
    availability: tuple[Availability, ...]
    worst_cases: tuple[WorstCase, ...]
    cells: tuple[Cell, ...]
    probes: tuple[Probe, ...]

    def __post_init__(self) -> None:
        """Check the schema and the columns, and sort the cells."""
        if self.schema != SCHEMA:
            raise UsageError(f"results: expected schema {SCHEMA}, got {self.schema}; use a matching version of cmt")
        cells = (*self.cells, *(probe.cell for probe in self.probes))
        columns = (self.benign.verdicts, *(cell.verdicts for cell in cells))
        lengths = {len(one.label_array) for one in columns if one is not None}
        if any((cell.verdicts is None) != (cell.changes is None) for cell in cells):
            raise UsageError("results: expected verdicts and changes of an attack, got one of them; attack again")
        lengths |= {len(cell.changes.norm("l2")) for cell in cells if cell.changes is not None}
        if not lengths <= {len(self.data.sample)}:
            raise UsageError(
                f"results: expected {len(self.data.sample)} verdicts in every row, got {sorted(lengths)}; "
                "run `cmt attack` again"
            )
        object.__setattr__(self, "cells", tuple(sorted(self.cells, key=_order)))

    def probed(self, purpose: str) -> tuple[Cell, ...]:
        """Return the attacks that were run for one purpose of a sanity check."""
        return tuple(probe.cell for probe in self.probes if probe.purpose == purpose)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        document: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self), allow_nan=False))
        return document

    @classmethod
    def from_json(cls, document: object) -> Results:
        """Build results from parsed JSON.

        Raises:
            UsageError: A field is missing, unknown or of another type, the schema is another one, or a figure does not
                follow from the verdicts.
        """
        if isinstance(document, dict) and "members" in document:
            raise UsageError("results: expected those of one guard, got those of a pool; see `cmt compare`")
        schema = document.get("schema") if isinstance(document, dict) else None
        if isinstance(schema, int) and schema not in (1, SCHEMA):
            raise UsageError(f"results: expected schema 1 or {SCHEMA}, got {schema}; use a matching version of cmt")
        results = from_json(cls, upgraded(document) if schema == 1 else document, "results")
        if schema != 1:
            results.check_verdicts()
        results.check_figures()
        return results

    def check_verdicts(self) -> None:
        """Check that nothing lacks the verdicts that its figures are counted from; only files of schema 1 may.

        Raises:
            UsageError: Something does.
        """
        cells = (*self.cells, *(probe.cell for probe in self.probes))
        if self.data.truth is None or None in (self.benign.verdicts, *(cell.verdicts for cell in cells)):
            raise UsageError("results: expected labels and a verdict on every image, got none; run `cmt attack` again")

    def check_figures(self) -> None:
        """Check that every count, rate, detection figure and worst case follows from the verdicts.

        Raises:
            UsageError: One does not, as after a change by hand.
        """
        truth = self.data.truth
        twins = [probe.cell for probe in self.probes if probe.on_twin]
        probes = [probe.cell for probe in self.probes if not probe.on_twin]
        check_scores(self.benign, (*self.cells, *probes), truth, threshold=self.model.threshold)
        check_scores(self.benign, twins, truth, threshold=None)
        check_worst_cases(self.worst_cases, self.benign, self.cells, truth)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Results:
        """Read a results file.

        Raises:
            UsageError: It is missing, or no results file.
        """
        document = read_document(path)
        try:
            return cls.from_json(document)
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a results file, whole or not at all.

        Raises:
            CmtError: It cannot be written.
        """
        with atomic_output(path) as temporary:
            temporary.write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")


def read_document(path: str | os.PathLike[str]) -> object:
    """Return the JSON of a results file, whatever it holds.

    Raises:
        UsageError: The file is missing, or no JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise UsageError(f"{path}: expected a results file, got: {error.strerror}; `cmt attack` writes one") from None
    except (ValueError, RecursionError):
        raise UsageError(f"{path}: expected JSON written by `cmt attack`, got something else") from None


def upgraded(document: Any) -> Any:
    """Return a document of schema 1 as one of `SCHEMA`: what it does not know is null or empty."""
    added: dict[str, Any] = {
        "logits_checks": [],
        "repetition": None,
        "availability": [],
        "worst_cases": [],
        "probes": [],
    }
    unknown = {"verdicts": None, "changes": None, "detection": None}
    known = {**document, "schema": SCHEMA, **added}
    if isinstance(known.get("data"), dict):
        known["data"] = {**known["data"], "labels": None}
    if isinstance(known.get("benign"), dict):
        known["benign"] = {**known["benign"], "verdicts": None}
    if isinstance(known.get("cells"), list):
        known["cells"] = [{**cell, **unknown} if isinstance(cell, dict) else cell for cell in known["cells"]]
    return known


def _order(cell: Cell) -> tuple[bool, int, float, str, str]:
    parameters = json.dumps(cell.parameters, sort_keys=True)
    return (not cell.adaptive, -cell.strength, -cell.rates.fooled.value, cell.attack, parameters)


def _refuse_constant(name: str) -> float:
    raise ValueError(name)
