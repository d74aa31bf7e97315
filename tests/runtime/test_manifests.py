from __future__ import annotations

import io
import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from runtime.errors import UsageError
from runtime.manifests import count_rows, read_manifest, read_standard_input

ODD = ["a.png", 'q"uote, comma.png', "new\nline.png", "\U0001f600.png", "sub/é.png", "=cmd.png"]


def write_csv(path: Path, column: str, names: list[str], encoding: str = "utf-8") -> None:
    cells = ['"' + name.replace('"', '""') + '"' for name in names]
    path.write_text(f"id,{column}\n" + "".join(f"{i},{cell}\n" for i, cell in enumerate(cells)), encoding=encoding)


@pytest.mark.parametrize("column", ["path", "uri"])
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_names_come_in_order(tmp_path: Path, column: str, suffix: str) -> None:
    path = tmp_path / f"list.{suffix}"
    if suffix == "csv":
        write_csv(path, column, ODD)
    else:
        path.write_text("".join(json.dumps({"id": 1, column: name}) + "\n" for name in ODD) + "\n")
    assert list(read_manifest(str(path))) == ODD
    assert abs(count_rows(str(path)) - len(ODD)) <= 1


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "list.parquet"
    if find_spec("pyarrow") is None:
        with pytest.raises(UsageError, match=r"expected pyarrow for \.parquet, got none"):
            list(read_manifest(str(path)))
        return
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"id": range(len(ODD)), "uri": ODD}), path)
    assert list(read_manifest(str(path))) == ODD
    assert count_rows(str(path)) == len(ODD)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UsageError, match="expected parquet, got"):
        list(read_manifest(str(path)))
    assert count_rows(str(path)) == 0


def test_a_column_of_any_name(tmp_path: Path) -> None:
    write_csv(tmp_path / "list.csv", "file name", ["a", "b"])
    assert list(read_manifest(str(tmp_path / "list.csv"), "file name")) == ["a", "b"]
    with pytest.raises(UsageError, match="expected a column 'path or uri', got 'id, file name'; name another"):
        list(read_manifest(str(tmp_path / "list.csv")))


def test_a_byte_order_mark_and_bytes_that_are_no_utf8(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(b"\xef\xbb\xbfpath\n\xff.png\r\nb.png\r\n")
    assert list(read_manifest(str(tmp_path / "list.csv"))) == [os.fsdecode(b"\xff.png"), "b.png"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.csv", b"", "expected a column 'path or uri', got 'none'"),
        ("list.csv", b'path\n"open', "expected csv, got"),
        ("list.csv", b"path\n" + b"x" * (1 << 20), "expected lines of less than 1 MiB"),
        ("list.jsonl", b'{"path": "a"}\n{', "line 2: expected JSON, got"),
        ("list.jsonl", b"[" * 100_000, "line 1: expected JSON, got"),
        ("list.jsonl", b"[]", "line 1: expected an object, got list"),
        ("list.jsonl", b'{"path": 3}', "row 1: expected a path, got 3"),
        ("list.jsonl", b'{"file": "b"}', "expected a column 'path or uri', got 'file'"),
    ],
)
def test_bad_manifests(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        list(read_manifest(str(tmp_path / name)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.csv", b"id,path\n1,a\n2\n3,\n4,b\n"),
        ("list.jsonl", b'{"path": "a"}\n{"file": "b"}\n{"path": null}\n{"path": "b"}'),
    ],
    ids=["csv", "jsonl"],
)
def test_a_row_without_a_path_stays_a_row(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert list(read_manifest(str(tmp_path / name))) == ["a", "", "", "b"]


@pytest.mark.parametrize("column", [None, "path", ""], ids=["default", "named", "empty"])
def test_rows_before_the_first_with_a_path_stay_rows(tmp_path: Path, column: str | None) -> None:
    name = column if column is not None else "path"
    rows = [{"id": 1}, {"id": 2}, {"id": 3, name: "a"}, {"id": 4}, {name: "b"}]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert list(read_manifest(str(tmp_path / "list.jsonl"), column)) == ["", "", "a", "", "b"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_column_that_no_row_has_is_refused(tmp_path: Path, suffix: str) -> None:
    text = {"csv": "path\na\nb\n", "jsonl": '{"path": "a"}\n{"path": "b"}\n'}[suffix]
    (tmp_path / f"list.{suffix}").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="expected a column 'pth', got 'path'; name another with --column"):
        list(read_manifest(str(tmp_path / f"list.{suffix}"), "pth"))


def test_a_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a readable manifest, got: No such file"):
        list(read_manifest(str(tmp_path / "list.csv")))
    assert count_rows(str(tmp_path / "list.csv")) == 0


@pytest.mark.parametrize(
    ("content", "null", "expected"),
    [
        (b"a.png\nsub/b.png\n\n\xff.png", False, ["a.png", "sub/b.png", os.fsdecode(b"\xff.png")]),
        (b"new\nline.png\0b.png\0", True, ["new\nline.png", "b.png"]),
        (b"last", True, ["last"]),
        (b"", False, []),
    ],
    ids=["lines", "null", "unended", "empty"],
)
def test_standard_input(monkeypatch: pytest.MonkeyPatch, content: bytes, null: bool, expected: list[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert list(read_standard_input(null=null)) == expected


def test_a_closed_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UsageError, match="standard input: expected paths, got a closed one; pipe them in"):
        list(read_standard_input())


def test_a_standard_input_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "list").open("w") as file:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.FileIO(file.fileno(), closefd=False))))
        with pytest.raises(UsageError, match="standard input: expected paths, got: Bad file descriptor; pipe them in"):
            list(read_standard_input())


def test_standard_input_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"x" * (3 << 20))))
    with pytest.raises(UsageError, match="expected paths of less than 1 MiB"):
        list(read_standard_input(null=True))


@pytest.mark.parametrize(("suffix", "text"), [("csv", '"path","x"\na.png,1\n'), ("jsonl", '{"path": "a.png"}\n')])
def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path, suffix: str, text: str) -> None:
    manifest = tmp_path / f"list.{suffix}"
    manifest.write_text(text, encoding="utf-8-sig")
    assert list(read_manifest(str(manifest))) == ["a.png"]
