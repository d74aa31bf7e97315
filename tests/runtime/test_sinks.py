from __future__ import annotations

import csv
import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import UsageError
from runtime.rows import Row
from runtime.sinks import COLUMNS, Columns, format_for

LOGITS = np.array([1.5, -0.1, np.inf, np.nan], np.float32)
ROWS = [
    Row(
        path='a",\\x0a.png',
        label=2,
        class_name="eel",
        accepted=True,
        confidence=float(np.float32(0.1)),
        size=5,
        logits=LOGITS,
    ),
    Row(path="b.png", label=0, class_name="=cmd()", confidence=1.0, reason="pair-mismatch", logits=LOGITS * 2),
    Row(path="c.png", confidence=0.0, reason="non-finite", logits=LOGITS * 3),
    Row(path="\U0001f600.png", reason="unreadable", message="expected ..."),
]


def write(path: Path, *, logits: bool = False, rows: list[Row] = ROWS, step: int = 3) -> None:
    columns = Columns(model="f" * 64, logits=logits)
    encode, join = format_for(path)
    join(path, [encode(rows[at : at + step], columns) for at in range(0, len(rows), step)], columns)


def test_csv(tmp_path: Path) -> None:
    write(tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        list(COLUMNS),
        ['a",\\x0a.png', "2", "eel", "true", "0.1", "", "f" * 64, "5"],
        ["b.png", "0", "'=cmd()", "false", "1.0", "pair-mismatch", "f" * 64, ""],
        ["c.png", "", "", "false", "0.0", "non-finite", "f" * 64, ""],
        ["\U0001f600.png", "", "", "false", "", "unreadable", "f" * 64, ""],
    ]
    assert (tmp_path / "rows.csv").read_bytes().count(b"\n") == len(rows)


def test_csv_with_logits(tmp_path: Path) -> None:
    write(tmp_path / "rows.csv", logits=True)
    with (tmp_path / "rows.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [*rows[0]] == [*COLUMNS, "logits"]
    assert json.loads(rows[0]["logits"]) == [1.5, -0.1, None, None]
    assert rows[3]["logits"] == ""


def test_jsonl(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", logits=True)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text("utf-8").splitlines()]
    assert rows[0] == {
        "path": 'a",\\x0a.png',
        "label": 2,
        "class_name": "eel",
        "accepted": True,
        "confidence": 0.1,
        "reason": "",
        "model": "f" * 64,
        "size": 5,
        "logits": [1.5, -0.1, None, None],
    }
    assert rows[3]["label"] is rows[3]["confidence"] is rows[3]["logits"] is None


def test_confidence_survives_as_float32(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random(200, np.float32)
    for suffix in ("csv", "jsonl"):
        path = tmp_path / f"rows.{suffix}"
        write(path, rows=[Row(path="x", confidence=float(value)) for value in values])
        lines = path.read_text().splitlines()
        cells = (
            [line.split(",")[4] for line in lines[1:]]
            if suffix == "csv"
            else [json.loads(x)["confidence"] for x in lines]
        )
        assert np.array_equal(np.array(cells, np.float64).astype(np.float32), values)


def test_parquet_is_written_where_pyarrow_is_and_refused_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    if find_spec("pyarrow") is None:
        with pytest.raises(UsageError, match=r"expected pyarrow for \.parquet, got none; install cmt\[parquet\]"):
            format_for(path)
        return
    from pyarrow import parquet

    write(path, logits=True)
    table = parquet.read_table(path)
    assert [str(field.type) for field in table.schema] == [
        "string", "int32", "string", "bool", "float", "string", "string", "int64", "list<element: float>",
    ]  # fmt: skip
    assert table.column_names == [*COLUMNS, "logits"]
    rows = table.to_pylist()
    assert [row["label"] for row in rows] == [2, 0, None, None]
    assert rows[0]["confidence"] == float(np.float32(0.1))
    assert [row["path"] for row in rows] == [row.path for row in ROWS]


@pytest.mark.parametrize("name", ["rows", "rows.txt", "rows.CSV", "csv", "rows.csv.gz"])
def test_the_suffix_decides(name: str) -> None:
    with pytest.raises(UsageError, match=r"output: expected a name that ends in \.csv, \.jsonl, \.parquet, got"):
        format_for(Path(name))


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_file_does_not_depend_on_how_its_rows_came(tmp_path: Path, suffix: str) -> None:
    if suffix == "parquet" and find_spec("pyarrow") is None:
        with pytest.raises(UsageError, match="expected pyarrow"):
            format_for(tmp_path / "rows.parquet")
        return
    rows = [Row(path=str(index), confidence=index / 5000, logits=LOGITS) for index in range(5000)]
    for step in (1, 7, 4096, 5000):
        write(tmp_path / f"{step}.{suffix}", rows=rows, logits=True, step=step)
    assert len({(tmp_path / f"{step}.{suffix}").read_bytes() for step in (1, 7, 4096, 5000)}) == 1
