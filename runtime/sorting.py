"""Putting scored images where their verdict says: ``accepted/<class>/`` and ``rejected/``."""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from runtime.atomic import unwritable
from runtime.causes import has_run_out
from runtime.errors import UsageError
from runtime.files import open_regular
from runtime.inputs import Source
from runtime.remote import is_uri
from runtime.rows import Row

LINKS = ("hard", "symbolic")
_CHUNK = 1 << 20
_SAFE = " ()[]{},;'!&+=@~^$#"
_LONGEST_NAME = 255
_STAND_INS = {"": "%2F", ".": "%2E", "..": "__"}
"""For parts of a name that no folder can have: what is before the first slash or between two, here, a step up."""
_RENAMED = "renamed"
_NO_SUCH_NAME = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ}


@dataclass(frozen=True, kw_only=True)
class SortPlan:
    """Where to put images, and how.

    Attributes:
        folder: Holds ``accepted`` and ``rejected``; made where it is missing.
        link: ``hard`` or ``symbolic`` links instead of copies; empty copies.
        scratch: Name of the folder in it where images wait until they are whole.

    Raises:
        UsageError: `link` is none of them.
    """

    folder: str
    link: str = ""
    scratch: str = ".tmp"

    def __post_init__(self) -> None:
        """Check the kind of links."""
        if self.link not in ("", *LINKS):
            raise UsageError(f"--link: expected {' or '.join(LINKS)}, got {self.link!a}")


def scratch_for(output: str | os.PathLike[str]) -> str:
    """Return the name of a scratch folder that only the job of this output uses."""
    return f".tmp-{sha256(os.fsencode(os.path.realpath(output))).hexdigest()[:16]}"


def place(plan: SortPlan, name: str, source: Source, row: Row) -> None:
    """Put an image where its verdict says; a file that cannot be read stays where it is.

    An image that is there already is replaced, so doing it again changes nothing. One whose name no file can have there
    (too long, a folder already), or that would take the place of another, goes to ``renamed/``, named after the SHA-256
    of its name.

    Args:
        plan: Where and how.
        name: Path of the image below what was scored, or as a manifest has it.
        source: Where its bytes are.
        row: Its verdict. A file that could not be used is not accepted, so it is rejected.

    Raises:
        UsageError: It is on another file system than hard links reach.
        CmtError: It cannot be written.
    """
    if "\0" in name:
        return
    folder = Path(plan.folder, _verdict(row))
    temporary = Path(plan.folder, plan.scratch, secrets.token_hex(8))
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        if _link(plan.link, source, temporary) if plan.link else _copy(source, temporary):
            _move(temporary, folder, name, _inside(name, source))
    except OSError as error:
        if plan.link == "hard" and error.errno == errno.EXDEV:
            raise UsageError(
                f"--link hard: expected images on the file system of {str(plan.folder)!a}, got {name!a:.200} on another"
                "; use --link symbolic"
            ) from None
        raise unwritable(folder, error) from None
    finally:
        with suppress(OSError):  # moving one hard link over another leaves both
            temporary.unlink()


def _move(temporary: Path, folder: Path, name: str, inside: Path | None) -> None:
    try:
        if inside is not None:
            (folder / inside).parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary, folder / inside)
            return
    except OSError as error:
        if error.errno not in _NO_SUCH_NAME:
            raise
    digest = sha256(os.fsencode(name)).hexdigest()
    (folder / _RENAMED).mkdir(parents=True, exist_ok=True)
    os.replace(temporary, folder / _RENAMED / digest)


def _verdict(row: Row) -> Path:
    """Return the folder of a verdict; a class name cannot lead out of it."""
    if not row.accepted:
        return Path("rejected")
    name = "".join(map(_spelled, row.class_name))
    name = name.replace(".", "%2E", 1) if name.startswith(".") else name
    if len(name.encode()) > _LONGEST_NAME:
        end = f"%-{sha256(name.encode()).hexdigest()}"  # no name that fits has a % before a -
        name = name.encode()[: _LONGEST_NAME - len(end)].decode(errors="ignore") + end
    return Path("accepted", name)


def _spelled(letter: str) -> str:
    """Return a letter of a class name as a folder's name has it: what every file system takes and a person can see."""
    return quote(letter, safe=_SAFE) if letter.isascii() or not letter.isprintable() else letter


def _inside(name: str, source: Source) -> Path | None:
    """Return a path that does not lead out of the folder, and that no other file has; None where there is none."""
    parts = name.split("/")
    if isinstance(source, str) and not is_uri(name):  # on a disk, ./a//b is a/b
        root = [""] if name.startswith("/") else []
        parts = root + [part for part in parts if part not in ("", ".")]
    if not parts or parts[0] == _RENAMED or not set(parts).isdisjoint(_STAND_INS.values()):
        return None
    return Path(*(_STAND_INS.get(part, part) for part in parts))


def _copy(source: Source, temporary: Path) -> bool:
    if isinstance(source, bytes):
        temporary.write_bytes(source)
        return True
    file = _open(source)
    if file is None:
        return False
    with file, temporary.open("wb") as copy:
        while chunk := _read(file):
            copy.write(chunk)
        copy.flush()
        os.fsync(copy.fileno())
    return chunk is not None


def _read(file: BinaryIO) -> bytes | None:
    """Read on; None where the file cannot be read to its end, which is no error of the place that is written to."""
    try:
        return file.read(_CHUNK)
    except OSError:
        return None


def _link(kind: str, source: Source, temporary: Path) -> bool:
    file = _open(source)
    if file is None:
        return False
    file.close()
    assert isinstance(source, str)  # it was opened by its name
    if kind == "hard":
        os.link(os.path.realpath(source), temporary)
    else:
        os.symlink(os.path.realpath(source), temporary)
    return True


def _open(source: Source) -> BinaryIO | None:
    try:
        return open_regular(source) if isinstance(source, str) else None
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and has_run_out(error):
            raise
        return None
