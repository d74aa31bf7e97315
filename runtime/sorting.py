"""Putting scored images where their verdict says: ``accepted/<class>/`` and ``rejected/``."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from runtime.atomic import unwritable
from runtime.errors import UsageError
from runtime.files import open_regular
from runtime.inputs import Source
from runtime.rows import Row

LINKS = ("hard", "symbolic")


@dataclass(frozen=True, kw_only=True)
class SortPlan:
    """Where to put images, and how.

    Attributes:
        folder: Holds ``accepted`` and ``rejected``; made where it is missing.
        link: ``hard`` or ``symbolic`` links instead of copies; empty copies.

    Raises:
        UsageError: `link` is none of them.
    """

    folder: str
    link: str = ""

    def __post_init__(self) -> None:
        """Check the kind of links."""
        if self.link not in ("", *LINKS):
            raise UsageError(f"--link: expected {' or '.join(LINKS)}, got {self.link!a}")


def place(plan: SortPlan, name: str, source: Source, row: Row) -> None:
    """Put an image where its verdict says; a file that cannot be read stays where it is.

    An image that is there already is replaced, so doing it again changes nothing.

    Args:
        plan: Where and how.
        name: Path of the image below what was scored, or as a manifest has it.
        source: Where its bytes are.
        row: Its verdict. A file that could not be used is not accepted, so it is rejected.

    Raises:
        CmtError: It cannot be written.
    """
    if "\0" in name:
        return
    target = Path(plan.folder, _verdict(row), _inside(name))
    # Named after the target, so that whoever does it again after a kill leaves nothing behind.
    temporary = target.with_name(f".tmp-{sha256(os.fsencode(target.name)).hexdigest()[:16]}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        if _link(plan.link, source, temporary) if plan.link else _copy(source, temporary):
            os.replace(temporary, target)
    except OSError as error:
        raise unwritable(target, error) from None
    finally:
        with suppress(OSError):  # moving one hard link over another leaves both
            temporary.unlink()


def _verdict(row: Row) -> Path:
    """Return the folder of a verdict; a class name cannot lead out of it."""
    if not row.accepted:
        return Path("rejected")
    name = quote(row.class_name, safe=" ()[]{},;'!&+=@~^$#", encoding="utf-8")
    return Path("accepted", name.replace(".", "%2E", 1) if name.startswith(".") else name)


def _inside(name: str) -> Path:
    """Return where a path leads when the folder is its root, so that none leads out of it."""
    clean = os.path.normpath(name)
    if os.path.isabs(clean) or clean.startswith(os.pardir):
        clean = os.path.abspath(clean).lstrip("/")
    return Path(clean)


def _copy(source: Source, temporary: Path) -> bool:
    if isinstance(source, bytes):
        temporary.write_bytes(source)
        return True
    file = _open(source)
    if file is None:
        return False
    with file, temporary.open("wb") as copy:
        shutil.copyfileobj(file, copy)
        copy.flush()
        os.fsync(copy.fileno())
    return True


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
    except (OSError, ValueError):
        return None
