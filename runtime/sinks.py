"""Where verdict rows go: csv, jsonl or parquet, by the suffix of the file.

All hold the same columns: path, label, class_name, accepted, confidence, reason, model, and logits on request.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from runtime.errors import UsageError
from runtime.rows import Row

COLUMNS = ("path", "label", "class_name", "accepted", "confidence", "reason", "model")
FORMULA_STARTS = ("=", "+", "-", "@")
PARQUET_ROWS = 4096

Write: TypeAlias = Callable[[Row], None]
Sink: TypeAlias = Callable[[Path, str, bool], AbstractContextManager[Write]]


def sink_for(path: Path) -> Sink:
    """Return the sink that belongs to the suffix of a file.

    A sink is called with the file to write, the digest for the column `model` and whether to write logits; in its
    ``with`` block it hands out a function that takes one row.

    Raises:
        UsageError: The suffix is none of .csv, .jsonl and .parquet, or pyarrow is missing for .parquet.
    """
    sinks: dict[str, Sink] = {".csv": csv_sink, ".jsonl": jsonl_sink, ".parquet": parquet_sink}
    if path.suffix not in sinks:
        raise UsageError(f"output: expected a name that ends in {', '.join(sinks)}, got {path.name!a}")
    if path.suffix == ".parquet":
        _pyarrow()
    return sinks[path.suffix]


@contextmanager
def csv_sink(path: Path, model: str, logits: bool) -> Iterator[Write]:
    """Write UTF-8 csv with a header line; logits as one JSON list in a cell.

    A class name a spreadsheet would run as a formula gets a leading apostrophe; the number beside it says which class
    it is. Paths never start that way, see `runtime.listing.key`.
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS + ("logits",) * logits)

        def write(row: Row) -> None:
            cells = _cells(row, model, logits)
            if row.class_name.startswith(FORMULA_STARTS):
                cells["class_name"] = "'" + row.class_name
            cells["accepted"] = "true" if row.accepted else "false"
            if logits and row.logits is not None:
                cells["logits"] = json.dumps(cells["logits"])
            writer.writerow(cells.values())

        yield write


@contextmanager
def jsonl_sink(path: Path, model: str, logits: bool) -> Iterator[Write]:
    """Write one JSON object a line, UTF-8; what has no value is null, a logit that is not finite too."""
    with path.open("w", encoding="utf-8", newline="\n") as file:

        def write(row: Row) -> None:
            cells = _cells(row, model, logits)
            file.write(json.dumps(cells, ensure_ascii=False, allow_nan=False) + "\n")

        yield write


@contextmanager
def parquet_sink(path: Path, model: str, logits: bool) -> Iterator[Write]:
    """Write parquet: label int32, accepted bool, confidence float32, logits list of float32, the rest strings."""
    pyarrow = _pyarrow()
    types = {"label": pyarrow.int32(), "accepted": pyarrow.bool_(), "confidence": pyarrow.float32()}
    types["logits"] = pyarrow.list_(pyarrow.float32())
    names = COLUMNS + ("logits",) * logits
    schema = pyarrow.schema([(name, types.get(name, pyarrow.string())) for name in names])
    waiting: list[dict[str, Any]] = []
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:

        def flush() -> None:
            writer.write_table(pyarrow.Table.from_pylist(waiting, schema))
            waiting.clear()

        def write(row: Row) -> None:
            waiting.append(_cells(row, model, logits))
            if len(waiting) == PARQUET_ROWS:
                flush()

        yield write
        flush()


def _cells(row: Row, model: str, logits: bool) -> dict[str, Any]:
    cells: dict[str, Any] = {
        "path": row.path,
        "label": row.label,
        "class_name": row.class_name,
        "accepted": row.accepted,
        "confidence": None if row.confidence is None else _shortest(row.confidence),
        "reason": row.reason,
        "model": model,
    }
    if logits:
        cells["logits"] = None if row.logits is None else [_shortest(logit) for logit in row.logits]
    return cells


def _shortest(number: float | np.float32) -> float | None:
    """Return the number with the fewest digits that is the same float32; None where it is not finite."""
    return float(str(np.float32(number))) if np.isfinite(number) else None


def _pyarrow() -> Any:
    try:
        import_module("pyarrow.parquet")
        return import_module("pyarrow")
    except ImportError:
        raise UsageError(
            "output: expected pyarrow for .parquet, got none; install cmt[parquet] or write .csv"
        ) from None
