"""Sorted runs of records in an unnamed temporary file, merged when they are read."""

from __future__ import annotations

import heapq
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import IO

from runtime.causes import remedy
from runtime.errors import CmtError

_READ = 8192
_END = b"/"


class Spool:
    """Runs of records on disk; every error of the temporary file is a `CmtError`, so that none is taken for another.

    Raises:
        CmtError: Here and in every method: the temporary folder is full, or refuses in another way.
    """

    def __init__(self) -> None:
        """Open the temporary file."""
        with _explained():
            self._file = _open()
        self._spans: list[tuple[int, int]] = []

    def append(self, run: Iterable[bytes]) -> None:
        """Put a run on disk.

        Args:
            run: Records in their order, none of which holds a slash.
        """
        with _explained():
            start = self._file.tell()
            self._file.writelines(record + _END for record in run)
            self._file.flush()
            self._spans.append((start, self._file.tell()))

    def merged(self) -> Iterator[bytes]:
        """Yield the records of all runs in their order, and close."""
        try:
            yield from heapq.merge(*(_run(self._file.fileno(), *span) for span in self._spans))
        finally:
            self.close()

    def close(self) -> None:
        """Give the space back."""
        with suppress(OSError):  # what could not be written is tried once more, and is not needed any more
            self._file.close()


def _open() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile(prefix="cmt-names-")
    except FileNotFoundError:  # no folder took a file, whatever the cause
        os.close(os.open(os.devnull, os.O_RDONLY))
        raise


def _run(descriptor: int, start: int, end: int) -> Iterator[bytes]:
    rest = b""
    while start < end:
        with _explained():
            data = os.pread(descriptor, min(_READ, end - start), start)
        start += len(data)
        *records, rest = (rest + data).split(_END)
        yield from records


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = f"temporary folder {tempfile.tempdir!a}" if tempfile.tempdir else "temporary folder"
        mend = remedy(error, "free some space there, or name another folder with TMPDIR")
        raise CmtError(
            f"{place}: expected to sort the names of a large folder there, got: {error.strerror}; {mend}; the same"
            " command goes on"
        ) from None
