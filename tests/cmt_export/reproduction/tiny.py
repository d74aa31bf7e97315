"""A reproduction of seconds: some digits, small networks, attacks of a few steps. Also run as a program, to be killed.

``python tiny.py FOLDER SECTION,...`` prints the title of each unit when it is done, with a + where another did it.
"""

import sys
from dataclasses import replace
from pathlib import Path

from calibration.datasets import Dataset, load_dataset, make_dataset
from cmt_export.reproduction.config import ReproductionConfig
from cmt_export.reproduction.preset import PRESETS
from cmt_export.reproduction.run import Done, Reproduction, reproduce

PRESET = replace(
    PRESETS["digits"], substitute="s-mnist", epochs=3, substitute_epochs=1, ablation_epochs=3, epsilons=(0.1,)
)
CONFIG = ReproductionConfig(
    n=24, generated=12, evaluated=6, igs_steps=2, cw_steps=2, cw_rounds=1, cw_search=6, pgd_steps=2, pgd_restarts=2
)


def make_data() -> Dataset:
    """384 digits to train on, 120 to test."""
    digits = load_dataset("digits")
    train, test = digits.train.sample(384, seed=1), digits.test.sample(120, seed=1)
    return make_dataset(
        "some digits",
        digits.classes,
        (digits.train.images[train], digits.train.labels[train]),
        (digits.test.images[test], digits.test.labels[test]),
    )


def make(folder: Path, *only: str, config: ReproductionConfig = CONFIG) -> Reproduction:
    return Reproduction(
        preset=PRESET,
        config=config,
        output=folder,
        work=folder / ".work",
        only=only,
        device="cpu",
        threads=1,
        command="cmt reproduce digits -n 30",
    )


def run(reproduction: Reproduction, data: Dataset) -> list[Done]:
    return list(reproduce(reproduction, data, lambda what: lambda done, total: None))


if __name__ == "__main__":
    for one in reproduce(
        make(Path(sys.argv[1]), *sys.argv[2].split(",")), make_data(), lambda what: lambda done, total: None
    ):
        print(one.title + "+" * one.reused, flush=True)
