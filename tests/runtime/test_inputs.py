from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from runtime.errors import UsageError
from runtime.inputs import Item, Remote, open_inputs
from runtime.spec import InputSpec

SPEC = InputSpec(height=6, width=5, channels=1, resize="bilinear", max_pixels=100)


def items(text: str, **options: object) -> list[Item]:
    return list(open_inputs(text, spec=SPEC, **options).items())  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "sub/b.png", "sub/=c.jpg"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).touch()
    return tmp_path / "images"


def test_a_folder(folder: Path) -> None:
    inputs = open_inputs(str(folder), spec=SPEC)
    assert (inputs.kind, inputs.place, inputs.count()) == ("folder", str(folder), 3)
    expected = [Item(name, name, f"{folder}/{name}") for name in ("a.png", "sub/=c.jpg", "sub/b.png")]
    assert list(inputs.items()) == list(inputs.items()) == expected


def test_a_glob_is_relative_to_its_folder(folder: Path) -> None:
    assert items(f"{folder}/*/*.png") == [Item("sub/b.png", "sub/b.png", f"{folder}/sub/b.png")]
    assert [item.key for item in items(f"{folder}/sub/*.jpg")] == ["./=c.jpg"]


def test_a_folder_whose_name_looks_like_a_glob(folder: Path) -> None:
    odd = folder.with_name("images[1]")
    folder.rename(odd)
    assert [item.key for item in items(str(odd))] == ["a.png", "sub/=c.jpg", "sub/b.png"]


def test_a_manifest_starts_at_its_own_folder(folder: Path) -> None:
    (folder / "list.csv").write_text("path\na.png\nsub/b.png\n/abs/c.png\nfile:///d%20e.png\ns3://bucket/f.png\n../g\n")
    assert [item.source for item in items(str(folder / "list.csv"))] == [
        f"{folder}/a.png",
        f"{folder}/sub/b.png",
        "/abs/c.png",
        "/d e.png",
        Remote("s3://bucket/f.png"),
        f"{folder}/../g",
    ]
    assert [item.key for item in items(str(folder / "list.csv"))][2:] == [
        "/abs/c.png",
        "file:///d%20e.png",
        "s3://bucket/f.png",
        "../g",
    ]


def test_an_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("=a.png", b"content")
    assert items(str(tmp_path / "a.zip")) == [Item("./=a.png", "=a.png", b"content")]


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_members_that_only_a_folder_would_take_for_one_file_have_a_key_each(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    names = ["=x.png", "./=x.png", "././=x.png", "x.png", "./x.png"]
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w") as zipped:
            for name in names:
                zipped.writestr(name, name)
    else:
        with tarfile.open(path, "w") as tarred:
            for name in names:
                member = tarfile.TarInfo(name)
                member.size = len(name)
                tarred.addfile(member, io.BytesIO(name.encode()))
    found = items(str(path))
    assert [item.source for item in found] == [name.encode() for name in names]
    assert [item.key for item in found] == ["./=x.png", "././=x.png", "./././=x.png", "x.png", "./x.png"]


def test_standard_input_starts_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a.png\n/b.png\n")))
    assert [item.source for item in items("-")] == ["./a.png", "/b.png"]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("{folder}", {"column": "path"}, "--column: expected a .csv, .jsonl or .parquet manifest"),
        ("{folder}", {"null": True}, "--null: expected - for paths on standard input"),
        ("missing", {}, "expected a folder of images, got: No such file"),
        ("{folder}/a.png", {}, "expected a folder of images, got: Not a directory"),
        ("{folder}/missing/*.png", {}, "expected a folder of images, got: No such file"),
    ],
)
def test_what_cannot_be_scored(folder: Path, text: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        items(text.format(folder=folder), **options)
