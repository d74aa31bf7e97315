"""The work folder: what finished units left, checked before it is used again.

``units/<kind>-<key>/`` holds the files of a unit and, written last, ``unit.json``: its options, the digests of its
files and of those of the units it took files from, how long it took, and on what. A unit counts as finished only while
all of that still holds; anything else is done again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibration.datasets import Dataset
from calibration.evaluation.provenance import environment
from calibration.records import from_json
from cmt_export.reproduction.unit import Unit, key_of, options_of
from runtime.atomic import atomic_output, make_folder, unwritable
from runtime.errors import CmtError, UsageError

_FORMAT = "cmt.reproduction"
_VERSION = 1
_RECORD = "unit.json"
_NAME_DIGITS = 16


@dataclass(frozen=True, kw_only=True)
class Record:
    """What ``unit.json`` says.

    Attributes:
        kind: Kind of the unit.
        version: Of that kind.
        key: Its key.
        title: What people are told it is.
        options: Every option, needed units by their keys.
        needs: Digest of every unit that it took files from, by key.
        files: SHA-256 of every file.
        seconds: How long it took; of an interrupted unit the last part alone.
        environment: Versions and machine.
    """

    kind: str
    version: int
    key: str
    title: str
    options: dict[str, Any]
    needs: dict[str, Any]
    files: dict[str, Any]
    seconds: float
    environment: dict[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 of the names and digests of its files."""
        return hashlib.sha256(json.dumps(self.files, sort_keys=True).encode()).hexdigest()


class Store:
    """Finished units of one data set in one folder."""

    def __init__(self, path: Path, *, name: str, data: Dataset) -> None:
        """Open or make a work folder.

        Args:
            path: The folder.
            name: Name of the preset.
            data: The data set; units of other data stay unused.

        Raises:
            UsageError: It is no folder, holds something else, or the work on another data set.
            CmtError: It cannot be made.
        """
        self.path = path
        self.data = hashlib.sha256(f"{data.train.digest} {data.test.digest}".encode()).hexdigest()
        self._found: dict[Unit, Record | None] = {}
        self._wrong: dict[Unit, str] = {}
        _claim(path, name)

    def key(self, unit: Unit) -> str:
        """Return the key of a unit."""
        return key_of(unit, self.data)

    def folder(self, unit: Unit) -> Path:
        """Return where the files of a unit are, or go."""
        return self.path / "units" / f"{unit.kind}-{self.key(unit)[:_NAME_DIGITS]}"

    def find(self, unit: Unit) -> Record | None:
        """Return the record of a unit that is finished and whole, together with everything it needed; else None."""
        if unit not in self._found:
            self._found[unit] = self._checked(unit)
        return self._found[unit]

    def what_is_wrong(self, unit: Unit) -> str:
        """Return why a unit that was once finished does not count as such; nothing for one that never was."""
        return "" if self.find(unit) else self._wrong.get(unit, "")

    def begin(self, unit: Unit) -> Path:
        """Return the folder of a unit that is about to run, with what an interrupted run left in it.

        Raises:
            CmtError: It cannot be made.
        """
        folder = self.folder(unit)
        try:
            (folder / _RECORD).unlink(missing_ok=True)
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(folder, error) from None
        return folder

    def finish(self, unit: Unit, *, seconds: float, device: str, threads: int | None) -> Record:
        """Record that a unit is finished; its needs have to be found.

        Raises:
            CmtError: The record cannot be written.
        """
        folder = self.folder(unit)
        needed = {need: self.find(need) for need in unit.needs}
        record = Record(
            kind=unit.kind,
            version=unit.version,
            key=self.key(unit),
            title=unit.title,
            options=options_of(unit, self.data),
            needs={self.key(need): found.digest for need, found in needed.items() if found is not None},
            files={name: _sha256(folder / name) for name in unit.files},
            seconds=round(seconds, 3),
            environment=vars(environment(device=device, threads=threads)).copy(),
        )
        with atomic_output(folder / _RECORD) as temporary:
            temporary.write_text(json.dumps(vars(record), indent=1) + "\n", encoding="utf-8")
        self.look_again()  # what was made from an earlier run of this unit may hold again
        self._found[unit] = record
        return record

    def look_again(self) -> None:
        """Forget which units are unfinished: another process may have finished them."""
        self._found = {unit: record for unit, record in self._found.items() if record is not None}

    def _checked(self, unit: Unit) -> Record | None:
        folder = self.folder(unit)
        if not (folder / _RECORD).exists():
            return None
        try:
            record = from_json(Record, json.loads((folder / _RECORD).read_text(encoding="utf-8")), _RECORD)
            self._wrong[unit] = self._why_not(unit, record)
        except (OSError, ValueError, RecursionError):
            self._wrong[unit] = "its record cannot be read"
        return None if self._wrong[unit] else record

    def _why_not(self, unit: Unit, record: Record) -> str:
        """Return why a record does not stand for the unit, or nothing."""
        if record.key != self.key(unit) or sorted(record.files) != sorted(unit.files):
            return "its record is another one's"
        needs = {self.key(need): self.find(need) for need in unit.needs}
        if any(found is None or record.needs.get(key) != found.digest for key, found in needs.items()):
            return "what it was made from has changed"
        folder = self.folder(unit)
        damaged = [name for name, digest in record.files.items() if _sha256(folder / name) != digest]
        return f"{damaged[0]} is damaged" if damaged else ""


def _claim(path: Path, name: str) -> None:
    marker = path / "work.json"
    make_folder(path, option="--work")
    try:
        # What another run, or one that was killed, is about to put there is nobody's work.
        taken = any(entry.name != "lock" and not entry.name.startswith(".tmp-") for entry in path.iterdir())
    except OSError as error:
        raise unwritable(path, error) from None
    mine = {"format": _FORMAT, "version": _VERSION, "set": name}
    if not taken:
        with atomic_output(marker) as temporary:
            temporary.write_text(json.dumps(mine) + "\n", encoding="utf-8")
        return
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if found != mine:
        got = f"the one of {found['set']}" if isinstance(found, dict) and "set" in found else "something else"
        raise UsageError(
            f"--work {path}: expected an empty folder or the work folder of {name}, got {got}; name another"
        )


def clear(folder: Path) -> None:
    """Remove everything in a folder."""
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise CmtError(
            f"{path}: expected to read it, got: {error.strerror}; mend the disk, or name another --work"
        ) from None
