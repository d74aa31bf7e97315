"""What is known so far: files of finished units, read when a table asks, None while they are not there."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from calibration.datasets import Dataset
from calibration.results import Results
from cmt_export.reproduction.crafting import Craft, Examples, load_examples
from cmt_export.reproduction.evaluating import Evaluate
from cmt_export.reproduction.judging import Benign, JudgeBenign, Judged, JudgeSet, load_benign, load_judged
from cmt_export.reproduction.lineup import LineUp
from cmt_export.reproduction.sets import Parts, Sets
from cmt_export.reproduction.store import Store
from cmt_export.reproduction.training_units import Export
from cmt_export.reproduction.unit import Unit
from runtime.artifact import read_artifact
from runtime.spec import GuardSpec


class Found:
    """Finished results, by the unit that made them.

    Attributes:
        store: Where they are.
        sets: What they are of.
        data: The images behind them.
    """

    def __init__(self, store: Store, sets: Sets, data: Dataset) -> None:
        """Read from `store`."""
        self.store, self.sets, self.data = store, sets, data

    @property
    def lineup(self) -> LineUp:
        """The networks."""
        return self.sets.lineup

    def judged(self, judge: Export, parts: Parts) -> Judged | None:
        """Return what a file says to a set."""
        unit = JudgeSet(judge=judge, parts=parts)
        return _judged(self.store.folder(unit), record.digest) if (record := self.store.find(unit)) else None

    def benign(self, unit: JudgeBenign) -> Benign | None:
        """Return what a file says to the benign test images."""
        return load_benign(self.store.folder(unit)) if self.store.find(unit) else None

    def examples(self, part: Craft) -> Examples | None:
        """Return the pixels of a part of a set."""
        return load_examples(self.store.folder(part)) if self.store.find(part) else None

    def evaluation(self, unit: Evaluate) -> Results | None:
        """Return the evaluation."""
        return Results.load(self.store.folder(unit) / "evaluation.json") if self.store.find(unit) else None

    def spec(self, unit: Export) -> GuardSpec | None:
        """Return what an exported file says about itself."""
        return _spec(self.store.folder(unit), record.digest) if (record := self.store.find(unit)) else None

    def digest(self, unit: Unit) -> str | None:
        """Return the digest of what a unit left."""
        return None if (record := self.store.find(unit)) is None else record.digest


@lru_cache(maxsize=512)
def _judged(folder: Path, digest: str) -> Judged:
    del digest  # a unit that is done again is another entry
    return load_judged(folder)


@lru_cache(maxsize=512)
def _spec(folder: Path, digest: str) -> GuardSpec:
    del digest
    return read_artifact(folder / "guard.onnx").spec
