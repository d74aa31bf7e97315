"""The whole reproduction: units in order, what is finished taken over, the outcome written again after each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from calibration.attacks.attack import Report
from calibration.datasets import Dataset
from calibration.evaluation.provenance import environment
from cmt_export.reproduction.config import ReproductionConfig
from cmt_export.reproduction.evaluating import Evaluate
from cmt_export.reproduction.found import Found
from cmt_export.reproduction.kept import read_kept
from cmt_export.reproduction.lineup import LineUp
from cmt_export.reproduction.outcome import write_outcome
from cmt_export.reproduction.preset import Preset
from cmt_export.reproduction.sections import SECTIONS, in_order
from cmt_export.reproduction.sets import Sets
from cmt_export.reproduction.sharing import Claim, sharing
from cmt_export.reproduction.store import Store, clear
from cmt_export.reproduction.training_units import Train
from cmt_export.reproduction.unit import Unit, Work
from runtime.errors import CmtError

_RESUMING = (Train, Evaluate)
"""Units that go on with what an interrupted run left in their folder."""

_SPARING = 9.0
"""How often the time that writing the outcome took has to pass before it is written again."""

_PATIENCE = 1.0
"""Seconds between looks at what other processes are at."""

Stage = Callable[[str], Report]
"""Announces a unit and returns what to tell of its progress."""


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """One `cmt reproduce`.

    Attributes:
        preset: The data set.
        config: Sizes and efforts.
        output: Where the outcome goes.
        work: Where finished units are kept.
        only: Names of sections.
        device: As for `Guard`, and for training.
        threads: As for `Guard`, and for training.
        command: What was typed, for the record.
    """

    preset: Preset
    config: ReproductionConfig
    output: Path
    work: Path
    only: tuple[str, ...] = tuple(SECTIONS)
    device: str = "auto"
    threads: int | None = None
    command: str = ""

    def sets(self, data: Dataset) -> Sets:
        """Return what there is to do for a data set."""
        lineup = LineUp(preset=self.preset, config=self.config, images=len(data.train))
        return Sets(lineup=lineup, images=len(data.test))

    def open(self, data: Dataset) -> Found:
        """Open the work folder.

        Raises:
            UsageError: The data is not the preset's, or the folder is none of this set.
            CmtError: The folder cannot be made.
        """
        self.preset.require(data)
        return Found(Store(self.work, name=self.preset.name, data=data), self.sets(data), data)


@dataclass(frozen=True, kw_only=True)
class Done:
    """What became of one unit.

    Attributes:
        title: What it is.
        key: Its key.
        reused: Whether it was finished before.
        seconds: How long it took, when it ran.
        note: Why a unit that was finished once ran again.
    """

    title: str
    key: str
    reused: bool
    seconds: float
    note: str


def reproduce(reproduction: Reproduction, data: Dataset, stage: Stage) -> Iterator[Done]:
    """Do what is asked for, and yield each unit when it is done.

    All files of the outcome are there from the first unit on, and written again as units are done that they show.
    Several processes may work in one folder: each takes the next unit that nobody is at, and they end together.

    Args:
        reproduction: What.
        data: The data set.
        stage: Told of every unit that runs.

    Raises:
        UsageError: The data is not the preset's, or the work folder is not to be used.
        CmtError: A unit failed, or a file cannot be written.
        KeyboardInterrupt: SIGINT or SIGTERM came; finished units are kept.
    """
    found = reproduction.open(data)
    with sharing(reproduction.work) as claim, _writing(reproduction, found) as write:
        left = dict.fromkeys(in_order(reproduction.only, found.sets))
        outdated = waiting = False  # whether the outcome may show less than there is; whether that was announced
        while left:
            before = len(left)
            for unit in tuple(left):
                known = found.store.find(unit) is not None
                done = _do(unit, found.store, data, reproduction, stage, claim)
                if done is None:
                    continue
                del left[unit]
                outdated |= not (known and done.reused)
                if outdated:  # what was taken over may count only now that what it needs is made again
                    write(unit)
                yield done
            if len(left) < before:
                waiting = False
                continue
            if not waiting:
                stage("wait for another run in this folder")
            outdated = waiting = True
            write(None)
            time.sleep(_PATIENCE)
            found.store.look_again()


@contextmanager
def _writing(reproduction: Reproduction, found: Found) -> Iterator[Callable[[Unit | None], None]]:
    """Write the outcome now, whenever a unit it shows is done, and at the end, however that comes.

    Where units take less time than writing, it waits: no more than a tenth of the time goes into it.
    """
    shown = {name: frozenset(SECTIONS[name].units(found.sets)) for name in reproduction.only}
    machine = environment(device=reproduction.device, threads=reproduction.threads)
    kept = read_kept(reproduction.output, found, asked=reproduction.only)
    pending, free_at = dict.fromkeys(shown), 0.0

    def write() -> None:
        nonlocal free_at
        started = time.monotonic()
        write_outcome(reproduction.output, found, pending, machine, command=reproduction.command, kept=kept)
        pending.clear()
        ended = time.monotonic()
        free_at = ended + _SPARING * (ended - started)

    def after(unit: Unit | None) -> None:
        pending.update(dict.fromkeys(name for name, units in shown.items() if unit in units))
        if pending and time.monotonic() >= free_at:
            write()

    write()
    try:
        yield after
    finally:
        if pending:
            write()


def _do(unit: Unit, store: Store, data: Dataset, reproduction: Reproduction, stage: Stage, claim: Claim) -> Done | None:
    """Do a unit or take it over; None where another process is at it, or at what it needs."""
    if store.find(unit) is None:
        if any(store.find(need) is None for need in unit.needs):
            return None
        with claim(store.key(unit)) as mine:
            if not mine:
                return None
            store.look_again()
            note = store.what_is_wrong(unit)
            if store.find(unit) is None:
                seconds = _run(unit, store, data, reproduction, stage)
                return Done(title=unit.title, key=store.key(unit), reused=False, seconds=seconds, note=note)
    record = store.find(unit)
    assert record is not None
    return Done(title=unit.title, key=record.key, reused=True, seconds=record.seconds, note="")


def _run(unit: Unit, store: Store, data: Dataset, reproduction: Reproduction, stage: Stage) -> float:
    folder = store.begin(unit)
    if not isinstance(unit, _RESUMING):
        clear(folder)
    work = Work(
        folder=folder,
        data=data,
        of=store.folder,
        device=reproduction.device,
        threads=reproduction.threads,
        report=stage(unit.title),
        command=reproduction.command,
    )
    started = time.perf_counter()
    unit.run(work)
    missing = [name for name in unit.files if not (folder / name).is_file()]
    if missing:
        raise CmtError(f"{unit.title}: expected it to leave {missing[0]}, got nothing; it is defective")
    seconds = time.perf_counter() - started
    store.finish(unit, seconds=seconds, device=reproduction.device, threads=reproduction.threads)
    return seconds
