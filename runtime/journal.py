"""Finished rows on disk before the output is: what a killed run leaves behind and the next one goes on from.

Beside ``OUTPUT`` lies ``OUTPUT.parts``: ``job.json`` says what is being done, and each part holds the rows of
consecutive blocks under one line of JSON that counts them and digests the names of their inputs. Every file appears
whole or not at all, in order, so that whatever is there is right. Above all that, a part has a line with the SHA-256 of
the rest: one that a disk or a person changed since is refused, as its rows would be lost without a word.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TextIO

from runtime.atomic import atomic_output, unwritable
from runtime.causes import remedy
from runtime.errors import CmtError, ModelError, UsageError
from runtime.summary import Tally, tally_from_json, tally_to_json

_JOB, _LOCK, _PART = "job.json", "lock", "part-{:08}"
_START_OVER = "use --fresh to start over"
_OURS = ("part-", ".tmp-")

Job = dict[str, Any]
"""What is being done, as JSON holds it; every entry decides what the rows are."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Rows of consecutive blocks.

    Attributes:
        blocks: How many blocks.
        inputs: SHA-256 over the names of their inputs.
        tally: Outcomes of their rows.
    """

    blocks: int
    inputs: str
    tally: Tally


def parts_folder(output: str | os.PathLike[str]) -> Path:
    """Return where the parts of an output lie until it is whole."""
    target = Path(os.path.realpath(output))
    return target.with_name(target.name + ".parts")


class Journal:
    """The parts of one job; a context manager that keeps other processes out.

    Attributes:
        folder: Where the parts are.
        count: Parts that are finished.
    """

    def __init__(self, output: Path, job: Job, *, fresh: bool = False) -> None:
        """Begin the job of an output, or find what a run before this one finished of it.

        Args:
            output: The file that is to appear in the end.
            job: What is being done.
            fresh: Forget what is there.

        Raises:
            ModelError: The parts are of another model.
            UsageError: They are of another job, or another process is at work on them.
            CmtError: They cannot be written.
        """
        self.folder = parts_folder(output)
        self.count = 0
        with ExitStack() as undo:
            try:
                self.folder.mkdir(exist_ok=True)
                self._lock = undo.enter_context((self.folder / _LOCK).open("w"))
            except OSError as error:
                raise unwritable(self.folder, error) from None
            _take(self._lock, output)
            begun = None if fresh else self._begun()
            if begun is None:
                self._begin(job)
            else:
                _compare(output, begun, job)
            while self._path(self.count).exists():
                self.count += 1
            undo.pop_all()

    def finished(self) -> Iterator[Part]:
        """Yield what is finished, in order.

        Raises:
            CmtError: A part is damaged.
        """
        for index in range(self.count):
            header = json.loads(self._read(index)[0])
            yield Part(blocks=header["blocks"], inputs=header["inputs"], tally=tally_from_json(header["tally"]))

    def append(self, part: Part, encoded: Sequence[bytes]) -> None:
        """Put a part on disk.

        Raises:
            CmtError: It cannot be written.
        """
        header = {"blocks": part.blocks, "inputs": part.inputs, "tally": tally_to_json(part.tally)}
        lines = [json.dumps(header).encode() + b"\n", *encoded]
        with atomic_output(self._path(self.count)) as temporary, temporary.open("wb") as file:
            file.writelines([_digest(lines), *lines])
        self.count += 1

    def encoded(self) -> Iterator[bytes]:
        """Yield the rows of all parts, in order.

        Raises:
            CmtError: A part is damaged.
        """
        for index in range(self.count):
            yield self._read(index)[1]

    def remove(self) -> None:
        """Delete everything; the job first, so that what a kill leaves is taken for nothing."""
        with suppress(OSError):
            self._clear()
            (self.folder / _LOCK).unlink(missing_ok=True)
            self.folder.rmdir()

    def __enter__(self) -> Journal:
        """Return the journal itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let other processes in; where nothing is finished, there is nothing to go on from, so nothing is left."""
        if not self.count:
            self.remove()
        self._lock.close()

    def _begun(self) -> Job | None:
        path = self.folder / _JOB
        try:
            begun = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unreadable(path, "the job of these parts", error) from None
        except (ValueError, RecursionError) as error:
            raise _damaged(path, "the job of these parts", type(error).__name__) from None
        if not isinstance(begun, dict):
            raise _damaged(path, "the job of these parts", type(begun).__name__)
        return begun

    def _begin(self, job: Job) -> None:
        try:
            self._clear()
        except OSError as error:
            raise unwritable(self.folder, error) from None
        with atomic_output(self.folder / _JOB) as temporary:
            temporary.write_text(json.dumps(job, indent=1), encoding="utf-8")

    def _clear(self) -> None:
        (self.folder / _JOB).unlink(missing_ok=True)
        for path in self.folder.iterdir():
            if path.name.startswith(_OURS):
                path.unlink()

    def _path(self, index: int) -> Path:
        return self.folder / _PART.format(index)

    def _read(self, index: int) -> tuple[bytes, bytes]:
        """Return the header and the rows of a part."""
        path = self._path(index)
        try:
            with path.open("rb") as file:
                digest, header, rows = file.readline(), file.readline(), file.read()
        except OSError as error:
            raise _unreadable(path, "a part of an earlier run", error) from None
        if digest != _digest([header, rows]):
            raise _damaged(path, "a part of an earlier run", "one that is cut short or was changed since")
        return header, rows


def _digest(lines: Sequence[bytes]) -> bytes:
    """Return the line that a part begins with."""
    digest = sha256()
    for line in lines:
        digest.update(line)
    return digest.hexdigest().encode() + b"\n"


def _unreadable(path: Path, expected: str, error: OSError) -> CmtError:
    """Return the one line for what cannot be read; it is not lost where the machine only has run out of something."""
    return _damaged(path, expected, error.strerror or type(error).__name__, mend=remedy(error, _START_OVER))


def _damaged(path: Path, expected: str, got: str, *, mend: str = _START_OVER) -> CmtError:
    return CmtError(f"{str(path)!a}: expected {expected}, got: {got}; {mend}")


def _take(lock: TextIO, output: Path) -> None:
    """Keep every other process out until this one lets go or ends, however it ends."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UsageError(f"{str(output)!a}: expected to write it alone, got another process at work on it") from None


def _compare(output: Path, begun: Job, job: Job) -> None:
    for name in {**begun, **job}:
        if begun.get(name) != job.get(name):
            got = f"{name} {job.get(name)!a:.200}"
            message = f"{str(output)!a}: expected to go on with {name} {begun.get(name)!a:.200}, got {got}"
            kind = ModelError if name in ("model", "sha256") else UsageError
            raise kind(f"{message}; name another output, or use --fresh to start over")
