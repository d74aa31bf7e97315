"""The entries of one folder in the order of their names' bytes, however many there are."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, closing
from itertools import islice
from typing import NamedTuple

from runtime.causes import about_the_path
from runtime.spool import Spool

_RUN = 16_384
"""Entries sorted in memory; more are sorted in runs, spooled to an unnamed temporary file, and merged."""
_FOLDER, _LINK, _OTHER = b"d", b"l", b"o"


class Entry(NamedTuple):
    """A name in a folder.

    Attributes:
        name: As Python spells it: bytes that are no UTF-8 are surrogates.
        is_folder: Whether it is a folder or a link to one.
        is_link: Whether it is a link to anything else, or to nothing.
    """

    name: str
    is_folder: bool
    is_link: bool


def sorted_entries(folder: str) -> Iterator[Entry]:
    """Read a folder at once and return its entries in the order of their names' bytes.

    Memory is bounded: beyond some thousand entries the names are sorted on disk.

    Raises:
        OSError: It is no folder, or cannot be listed; or what a link leads to cannot be told.
        CmtError: The names cannot be sorted on disk.
    """
    with os.scandir(folder) as entries, ExitStack() as undo:
        records = map(_record, entries)
        first = sorted(islice(records, _RUN))
        if len(first) < _RUN:
            return map(_entry, first)
        spool = undo.enter_context(closing(Spool()))
        while first:
            spool.append(first)
            first = sorted(islice(records, _RUN))
        undo.pop_all()
    return map(_entry, spool.merged())


def _record(entry: os.DirEntry[str]) -> bytes:
    """Return name and kind: a name holds no null byte, so records sort as their names do."""
    kind = _OTHER
    try:
        kind = _FOLDER if entry.is_dir() else _LINK if entry.is_symlink() else _OTHER
    except OSError as error:
        if not about_the_path(error):
            raise
    return os.fsencode(entry.name) + b"\0" + kind


def _entry(record: bytes) -> Entry:
    name, kind = record[:-2], record[-1:]
    return Entry(os.fsdecode(name), kind == _FOLDER, kind == _LINK)


def identity(folder: str) -> tuple[int, int]:
    """Return what is the same for two names of one folder.

    Raises:
        OSError: It is no folder, or out of reach.
    """
    status = os.stat(folder)
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder)
    return status.st_dev, status.st_ino
