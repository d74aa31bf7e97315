"""A unit of work: one training, export, adversarial set, judgement or evaluation, known by what goes into it.

A unit is a frozen dataclass of its options; other units among them are what it needs. Its key is the SHA-256 of all of
that, of the number of its kind's version, and of the data: a unit whose key is in the store is never done again, and
one changed option changes the keys of exactly what it touches. Device and threads are in no key: they change the last
bits of floating-point numbers at most, and an interrupted run may go on with others.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from calibration.attacks.attack import Report
from calibration.datasets import Dataset
from cmt_export.reproduction.pace import Pace


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a unit is given to run.

    Attributes:
        folder: Where its files go; what an interrupted run left of them is there.
        data: The data set.
        of: Returns the folder of a finished unit that it needs.
        device: As for `Guard`.
        threads: As for `Guard`.
        report: Told of ``(done, total)``.
        command: What was typed, for the record.
    """

    folder: Path
    data: Dataset
    of: Callable[[Unit], Path]
    device: str
    threads: int | None
    report: Report
    command: str

    @property
    def running(self) -> dict[str, Any]:
        """How an exported file is started."""
        return {"device": self.device, "threads": self.threads}


@dataclass(frozen=True, kw_only=True)
class Unit(ABC):
    """One piece of work.

    Attributes:
        kind: What it is called in the store.
        version: Of what it computes; a new number leaves older results of the kind unused.
        files: Names of the files it leaves.
    """

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    files: ClassVar[tuple[str, ...]]

    @property
    @abstractmethod
    def title(self) -> str:
        """What people are told it is."""

    @abstractmethod
    def run(self, work: Work) -> None:
        """Do it, and leave `files` in its folder.

        Raises:
            CmtError: It cannot be done.
        """

    @abstractmethod
    def seconds(self, pace: Pace) -> float:
        """Return about how long it takes on a machine of that pace."""

    @property
    def needs(self) -> tuple[Unit, ...]:
        """The units it takes files from, each once."""
        return tuple(dict.fromkeys(_units(tuple(vars(self).values()))))


def _units(value: object) -> Iterator[Unit]:
    if isinstance(value, Unit):
        yield value
    elif isinstance(value, tuple):
        for each in value:
            yield from _units(each)


@cache
def key_of(unit: Unit, data: str) -> str:
    """Return the key of a unit, 64 hexadecimal digits.

    Args:
        unit: The unit.
        data: Digest of the data set.
    """
    document = {"kind": unit.kind, "version": unit.version, "data": data, "options": options_of(unit, data)}
    return hashlib.sha256(json.dumps(document, sort_keys=True, allow_nan=False).encode()).hexdigest()


def options_of(unit: Unit, data: str) -> dict[str, Any]:
    """Return a unit's options as plain JSON values, each needed unit by its key."""

    def plain(value: object) -> Any:
        if isinstance(value, Unit):
            return key_of(value, data)
        if isinstance(value, tuple):
            return [plain(each) for each in value]
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            named = {each.name: plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
            return {"type": type(value).__name__, **named}
        return value

    return {each.name: plain(getattr(unit, each.name)) for each in dataclasses.fields(unit)}


def with_needs(units: tuple[Unit, ...]) -> tuple[Unit, ...]:
    """Return units and everything they need, each once, every unit behind what it needs."""
    ordered: dict[Unit, None] = {}

    def add(unit: Unit) -> None:
        if unit in ordered:
            return
        for needed in unit.needs:
            add(needed)
        ordered[unit] = None

    for unit in units:
        add(unit)
    return tuple(ordered)
