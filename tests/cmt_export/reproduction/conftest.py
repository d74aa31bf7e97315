"""One finished tiny reproduction that several modules look at and none changes."""

from pathlib import Path
from typing import NamedTuple

import pytest

from calibration.datasets import Dataset
from cmt_export.reproduction.found import Found
from cmt_export.reproduction.lineup import BASELINE, GUARD, UNLOCKED, LineUp
from cmt_export.reproduction.run import Done, Reproduction
from cmt_export.reproduction.sections import SECTIONS
from tests.cmt_export.reproduction import tiny


class Finished(NamedTuple):
    reproduction: Reproduction
    done: list[Done]
    found: Found

    @property
    def folder(self) -> Path:
        return self.reproduction.output


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return tiny.make_data()


@pytest.fixture(scope="session")
def finished(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Every section; the ablation of those rows that need no training of their own."""
    rows = {GUARD: BASELINE, UNLOCKED: "lock none"}
    reproduction = tiny.make(tmp_path_factory.mktemp("finished"), *SECTIONS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            LineUp, "ablation", property(lambda self: {row: self.defended[name] for name, row in rows.items()})
        )
        done = tiny.run(reproduction, digits)
    return Finished(reproduction, done, reproduction.open(digits))
