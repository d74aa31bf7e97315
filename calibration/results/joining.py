"""Several results of one guard on one data set as one, so that attacks of another day stand in the same report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from calibration.results.document import Results
from calibration.results.image_columns import VerdictColumns
from calibration.results.records import Cell
from calibration.results.resuming import key_of
from calibration.results.worst_case import WorstCase, worst_cases
from runtime.errors import UsageError

IntArray = npt.NDArray[np.int64]

_SAME: tuple[tuple[str, Callable[[Results], object]], ...] = (
    ("guard", lambda results: results.model.digest),
    ("data set", lambda results: results.data.digest),
    ("rounding to 8 bits", lambda results: results.data.eight_bit),
)


class Shared(NamedTuple):
    """What several results of one guard say about the images that they share.

    Attributes:
        images: Where these lie in the test split, ascending, ``(n,)``.
        truth: Their true labels, ``(n,)``.
        benign: The verdicts on them before any attack.
        cells: Every attack whose verdicts are known image by image, each on these images.
    """

    images: IntArray
    truth: IntArray
    benign: VerdictColumns
    cells: tuple[Cell, ...]


def join(parts: Sequence[Results]) -> Results:
    """Return results with the attacks of all parts.

    Benign verdicts, availability, machine and sample are those of the part with most images; of attacks that several
    parts have, the one on most images is taken. Samples may differ: all attacks together are then counted on the images
    that every part has, and an attack on another sample keeps its counts, but not its verdicts on single images.

    Args:
        parts: At least one.

    Raises:
        UsageError: They are of different guards or data, or none are given.
    """
    if not parts:
        raise UsageError("report: expected at least one results file, got none")
    for what, look in _SAME:
        first, *others = (look(part) for part in parts)
        other = next((value for value in others if value != first), first)
        if other != first:
            raise UsageError(
                f"report: expected results of one {what}, got {first!s:.16} and {other!s:.16}; report them apart"
            )
    if len(parts) == 1:
        return parts[0]
    base = max(parts, key=lambda part: len(part.data.sample))
    ordered = sorted(parts, key=lambda part: -len(part.data.sample))
    cells: dict[str, Cell] = {}
    for part in ordered:
        for cell in part.cells:
            known = cell if part.data.sample == base.data.sample else _without_images(cell)
            cells.setdefault(key_of(cell), known)
    return replace(
        base,
        complete=all(part.complete for part in parts),
        self_check=tuple(dict.fromkeys(check for part in parts for check in part.self_check)),
        logits_checks=tuple(dict.fromkeys(check for part in parts for check in part.logits_checks)),
        repetition=next((part.repetition for part in ordered if part.repetition is not None), None),
        availability=next((part.availability for part in ordered if part.availability), ()),
        worst_cases=_worst_cases(parts),
        cells=tuple(cells.values()),
        probes=tuple(probe for part in ordered if part.data.sample == base.data.sample for probe in part.probes),
    )


def _without_images(cell: Cell) -> Cell:
    return replace(cell, verdicts=None, changes=None)


def shared_images(parts: Sequence[Results]) -> Shared | None:
    """Return what results of one guard on one data set say about the images that all of them have.

    Of attacks that several parts have, the first is taken. Parts that know no single images (schema 1) are left out;
    None where no image is left.

    Args:
        parts: Any number.
    """
    known = [(part, part.benign.verdicts, part.data.truth) for part in parts]
    samples = [np.array(part.data.sample) for part, benign, truth in known if benign is not None and truth is not None]
    common = reduce(np.intersect1d, samples) if samples else np.array([])
    cells: dict[str, Cell] = {}
    found = None
    for part, benign, truth in known:
        if benign is None or truth is None or not len(common):
            continue
        rows = _rows(part, common)
        for cell in part.cells:
            if cell.verdicts is not None:
                cells.setdefault(key_of(cell), _on(cell, rows))
        found = found or (truth[rows], benign.take(rows))
    return None if found is None else Shared(common, *found, tuple(cells.values()))


def _worst_cases(parts: Sequence[Results]) -> tuple[WorstCase, ...]:
    """Count all attacks of the parts that know their single images, on the images that they share."""
    shared = shared_images(parts)
    return () if shared is None else worst_cases(shared.benign, shared.truth, shared.cells)


def _rows(part: Results, images: IntArray) -> IntArray:
    """Return where some images of the test split stand in the sample of a part, ``(m,)``."""
    places = {index: place for place, index in enumerate(part.data.sample)}
    return np.array([places[index] for index in images.tolist()])


def _on(cell: Cell, rows: IntArray) -> Cell:
    if cell.verdicts is None or cell.changes is None:
        return cell
    return replace(cell, verdicts=cell.verdicts.take(rows), changes=cell.changes.take(rows))
