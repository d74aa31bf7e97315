"""How verdict rows are written: csv, jsonl or parquet, by the suffix of the file.

All hold the same columns: path, label, class_name, accepted, confidence, reason, model, size; logits on request.
Rows are encoded where they are made and joined where the file is, so that a file is the same however its rows came.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from runtime.errors import UsageError
from runtime.listing import FORMULA_STARTS
from runtime.parquet import pyarrow_parquet
from runtime.rows import Row

COLUMNS = ("path", "label", "class_name", "accepted", "confidence", "reason", "model", "size")
PARQUET_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns a file has.

    Attributes:
        model: Digest for the column `model`.
        logits: Whether Z* is written, last.
    """

    model: str
    logits: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The columns in their order."""
        return COLUMNS + ("logits",) * self.logits


class Format(NamedTuple):
    """A way to write rows.

    Attributes:
        encode: Turns rows into bytes, which can be joined with other rows' bytes.
        join: Writes a file from those bytes, in order.
    """

    encode: Callable[[Iterable[Row], Columns], bytes]
    join: Callable[[Path, Iterable[bytes], Columns], None]


def format_for(path: Path) -> Format:
    """Return the format that belongs to the suffix of a file.

    Raises:
        UsageError: The suffix is none of .csv, .jsonl and .parquet, or pyarrow is missing for .parquet.
    """
    if path.suffix not in FORMATS:
        raise UsageError(f"output: expected a name that ends in {', '.join(FORMATS)}, got {path.name!a}")
    if path.suffix == ".parquet":
        pyarrow_parquet()
    return FORMATS[path.suffix]


def encode_csv(rows: Iterable[Row], columns: Columns) -> bytes:
    """Return rows as UTF-8 csv; logits as one JSON list in a cell.

    A class name a spreadsheet would run as a formula gets a leading apostrophe; the number beside it says which class
    it is. Paths never start that way, see `runtime.listing.key`.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        cells = _cells(row, columns)
        if row.class_name.startswith(FORMULA_STARTS):
            cells["class_name"] = "'" + row.class_name
        cells["accepted"] = "true" if row.accepted else "false"
        if cells.get("logits") is not None:
            cells["logits"] = json.dumps(cells["logits"])
        writer.writerow(cells.values())
    return text.getvalue().encode()


def encode_jsonl(rows: Iterable[Row], columns: Columns) -> bytes:
    """Return one JSON object a line, UTF-8; what has no value is null, a logit that is not finite too."""
    lines = (json.dumps(_cells(row, columns), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    return "".join(lines).encode()


def join_csv(path: Path, encoded: Iterable[bytes], columns: Columns) -> None:
    """Write a header line and rows."""
    with path.open("wb") as file:
        file.write((",".join(columns.names) + "\n").encode())
        file.writelines(encoded)


def join_jsonl(path: Path, encoded: Iterable[bytes], columns: Columns) -> None:
    """Write rows."""
    with path.open("wb") as file:
        file.writelines(encoded)


def join_parquet(path: Path, encoded: Iterable[bytes], columns: Columns) -> None:
    """Write parquet from JSON lines: label int32, accepted bool, confidence float32, logits list of float32.

    Size is int64, the rest strings. Row groups are of one size, so that the file does not depend on how its rows came.
    """
    parquet, pyarrow = pyarrow_parquet(), import_module("pyarrow")
    types = {"label": pyarrow.int32(), "accepted": pyarrow.bool_(), "confidence": pyarrow.float32()}
    types |= {"logits": pyarrow.list_(pyarrow.float32()), "size": pyarrow.int64()}
    schema = pyarrow.schema([(name, types.get(name, pyarrow.string())) for name in columns.names])
    rows = (json.loads(line) for lines in encoded for line in lines.split(b"\n") if line)
    with parquet.ParquetWriter(path, schema) as writer:
        for group in _groups(rows):
            writer.write_table(pyarrow.Table.from_pylist(group, schema))


FORMATS = {
    ".csv": Format(encode_csv, join_csv),
    ".jsonl": Format(encode_jsonl, join_jsonl),
    ".parquet": Format(encode_jsonl, join_parquet),
}


def _groups(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while group := list(islice(rows, PARQUET_ROWS)):
        yield group


def _cells(row: Row, columns: Columns) -> dict[str, Any]:
    cells: dict[str, Any] = {
        "path": row.path,
        "label": row.label,
        "class_name": row.class_name,
        "accepted": row.accepted,
        "confidence": None if row.confidence is None else _shortest(row.confidence),
        "reason": row.reason,
        "model": columns.model,
        "size": row.size,
    }
    if columns.logits:
        cells["logits"] = None if row.logits is None else [_shortest(logit) for logit in row.logits]
    return cells


def _shortest(number: float | np.float32) -> float | None:
    """Return the number with the fewest digits that is the same float32; None where it is not finite."""
    return float(str(np.float32(number))) if np.isfinite(number) else None
