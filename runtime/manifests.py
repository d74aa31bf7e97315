"""Lists of images: csv, jsonl or parquet with a column of paths, or paths on standard input."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Iterator
from itertools import repeat
from typing import Any, BinaryIO

from runtime.causes import remedy
from runtime.errors import UsageError, one_line
from runtime.parquet import pyarrow_parquet

COLUMNS = ("path", "uri")
_LONGEST = 1 << 20
_CHUNK = 1 << 16


def read_manifest(manifest: str, column: str | None = None) -> Iterator[str]:
    """Yield the paths or URIs of a manifest in its order, a little at a time; an empty one for a row without any.

    Args:
        manifest: A .csv with a header line, a .jsonl with one object a line, or a .parquet.
        column: Where the paths are; by default in ``path``, else in ``uri``.

    Raises:
        UsageError: It cannot be read, has no such column, or a number in it; pyarrow is missing for .parquet.
    """
    rows = {".csv": _csv_rows, ".jsonl": _jsonl_rows, ".parquet": _parquet_rows}[os.path.splitext(manifest)[1]]
    try:
        for number, path in enumerate(rows(manifest, column), start=1):
            if not isinstance(path, str | None):
                raise UsageError(f"{manifest!a}, row {number}: expected a path, got {path!a:.80}; remove the row")
            yield path or ""
    except OSError as error:
        got = error.strerror or one_line(error)
        raise UsageError(
            f"{manifest!a}: expected a readable manifest, got: {got}; {remedy(error, 'check the path')}"
        ) from None


def count_rows(manifest: str) -> int:
    """Return about how many rows a manifest has: exact for parquet, lines for the others, 0 for what is unreadable."""
    try:
        if manifest.endswith(".parquet"):
            return int(pyarrow_parquet().ParquetFile(manifest).metadata.num_rows)
        with open(manifest, "rb") as file:
            lines = sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(_CHUNK), b""))
        return lines - manifest.endswith(".csv")
    except Exception:  # a broken parquet file raises as it likes; reading it for the rows says what is wrong
        return 0


def read_standard_input(*, null: bool = False) -> Iterator[str]:
    """Yield the paths on standard input, one a line, or ended by null bytes as ``find -print0`` writes them.

    Raises:
        UsageError: A path is longer than 1 MiB; or standard input is closed or cannot be read.
    """
    if sys.stdin is None:  # the process was started without one
        raise UsageError("standard input: expected paths, got a closed one; pipe them in, or name a folder or manifest")
    end = b"\0" if null else b"\n"
    try:
        for record in _records(sys.stdin.buffer, end, "standard input"):
            if path := record.removesuffix(end):
                yield os.fsdecode(path)
    except OSError as error:
        got = error.strerror or one_line(error)
        raise UsageError(f"standard input: expected paths, got: {got}; {remedy(error, 'pipe them in')}") from None


def _csv_rows(manifest: str, column: str | None) -> Iterator[Any]:
    with open(manifest, "rb") as file:
        rows = csv.reader(_lines(file, manifest), strict=True)
        try:
            header = next(rows, [])
            index = header.index(_choose(manifest, header, column))
            for row in rows:
                if row:
                    yield row[index] if index < len(row) else None
        except csv.Error as error:
            raise UsageError(f"{manifest!a}, line {rows.line_num}: expected csv, got: {one_line(error)}") from None


def _jsonl_rows(manifest: str, column: str | None) -> Iterator[Any]:
    with open(manifest, "rb") as file:
        chosen: str | None = None
        first: list[str] = []
        without = 0  # rows before the first that has the column
        for number, line in enumerate(_lines(file, manifest), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UsageError(f"{manifest!a}, line {number}: expected JSON, got: {one_line(error)}") from None
            if not isinstance(row, dict):
                raise UsageError(f"{manifest!a}, line {number}: expected an object, got {type(row).__name__}")
            if chosen is None:
                chosen = next((name for name in _wanted(column) if name in row), None)
            if chosen is None:
                first, without = first or list(row), without + 1
                continue
            yield from repeat(None, without)
            without = 0
            yield row.get(chosen)
        if without:
            _choose(manifest, first, column)


def _parquet_rows(manifest: str, column: str | None) -> Iterator[Any]:
    parquet = pyarrow_parquet()
    with open(manifest, "rb") as opened:
        try:
            file = parquet.ParquetFile(opened)
            names = list(file.schema_arrow.names)
            chosen = _choose(manifest, names, column)
            for batch in file.iter_batches(batch_size=4096, columns=[chosen]):
                yield from batch.column(0).to_pylist()
        except UsageError:
            raise
        except Exception as error:  # pyarrow has no common base class for what can go wrong
            raise UsageError(f"{manifest!a}: expected parquet, got: {one_line(error)}") from None


def _choose(manifest: str, names: list[str], column: str | None) -> str:
    for name in _wanted(column):
        if name in names:
            return name
    got = ", ".join(names) or "none"
    expected = " or ".join(_wanted(column))
    raise UsageError(f"{manifest!a}: expected a column {expected!a}, got {got!a:.200}; name another with --column")


def _wanted(column: str | None) -> tuple[str, ...]:
    return COLUMNS if column is None else (column,)


def _lines(file: BinaryIO | io.BufferedIOBase, name: str) -> Iterator[str]:
    """Yield lines of UTF-8 with their end, whatever else is in them, without a byte order mark."""
    for number, line in enumerate(_records(file, b"\n", name)):
        text = line.decode("utf-8", "surrogateescape")
        yield text if number else text.removeprefix("\ufeff")


def _records(file: BinaryIO | io.BufferedIOBase, end: bytes, name: str) -> Iterator[bytes]:
    """Yield records with their end; none is held that is longer than a path can be."""
    if end == b"\n":
        while record := file.readline(_LONGEST):
            if len(record) == _LONGEST:
                raise UsageError(f"{name!a}: expected lines of less than 1 MiB, got a longer one")
            yield record
        return
    rest = b""
    while chunk := file.read(_CHUNK):
        *records, rest = (rest + chunk).split(end)
        yield from records
        if len(rest) >= _LONGEST:
            raise UsageError(f"{name!a}: expected paths of less than 1 MiB, got a longer one")
    if rest:
        yield rest
