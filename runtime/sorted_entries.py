"""The entries of one folder in the order of their names' bytes, however many there are."""

from __future__ import annotations

import heapq
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import BinaryIO, NamedTuple

_RUN = 16_384
"""Entries sorted in memory; more are sorted in runs, spooled to an unnamed temporary file, and merged."""
_READ = 8192
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
        OSError: It is no folder, or cannot be listed.
    """
    with os.scandir(folder) as entries:
        records = map(_record, entries)
        first = sorted(islice(records, _RUN))
        if len(first) < _RUN:
            return map(_entry, first)
        spool = tempfile.TemporaryFile(prefix="cmt-names-")  # noqa: SIM115
        spans = []
        while first:
            start = spool.tell()
            spool.writelines(record + b"/" for record in first)
            spans.append((start, spool.tell()))
            first = sorted(islice(records, _RUN))
        spool.flush()
    return _merged(spool, spans)


def _merged(spool: BinaryIO, spans: list[tuple[int, int]]) -> Iterator[Entry]:
    with spool:
        yield from map(_entry, heapq.merge(*(_run(spool.fileno(), *span) for span in spans)))


def _run(descriptor: int, start: int, end: int) -> Iterator[bytes]:
    rest = b""
    while start < end:
        data = os.pread(descriptor, min(_READ, end - start), start)
        start += len(data)
        *records, rest = (rest + data).split(b"/")
        yield from records


def _record(entry: os.DirEntry[str]) -> bytes:
    """Return name and kind: a name holds no null byte, so records sort as their names do."""
    kind = _OTHER
    with suppress(OSError):
        kind = _FOLDER if entry.is_dir() else _LINK if entry.is_symlink() else _OTHER
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
        raise NotADirectoryError
    return status.st_dev, status.st_ino
