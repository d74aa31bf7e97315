from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from runtime import CmtError, DeviceError, Guard, ModelError, SomeInputsFailed, UsageError
from runtime.cli import bench, doctor, info, score
from runtime.listing import key
from tests.runtime.guard_files import Recipe, build, random_images
from tests.runtime.image_files import encode

ROOT = Path(__file__).parents[2]
COMMANDS = {"score": score, "info": info, "doctor": doctor, "bench": bench}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    root.mkdir()
    for index, image in enumerate(random_images(Recipe(), 5)):
        (root / f"{index}.png").write_bytes(encode(image[..., 0]))
    return root


def call(command: click.Command, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def facts_of(result: Result) -> Any:
    """Return the JSON document of a command; before 8.2 click's runner puts standard error in front of it."""
    return json.loads(result.stdout[min(result.stdout.index(start) for start in "[{" if start in result.stdout) :])


def refused(command: click.Command, *arguments: object) -> CmtError:
    error = call(command, *arguments).exception
    assert isinstance(error, CmtError)
    assert "\n" not in str(error)
    return error


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example(name: str) -> None:
    result = call(COMMANDS[name], "--help")
    assert result.exit_code == 0
    assert f"Example: cmt {name}" in result.output


def test_score_writes_rows_and_a_summary(model_path: Path, folder: Path, tmp_path: Path) -> None:
    result = call(score, model_path, folder, "-o", tmp_path / "rows.csv", "--threads", 1)
    assert result.exit_code == 0
    assert "accepted" in result.stdout
    with (tmp_path / "rows.csv").open(newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == [f"{index}.png" for index in range(5)]


def test_score_for_machines(model_path: Path, folder: Path, tmp_path: Path) -> None:
    result = call(score, model_path, folder, "-o", tmp_path / "rows.jsonl", "--json", "--logits", "--batch", 2)
    facts = facts_of(result)
    assert facts["images"] == 5
    assert facts["accepted"] + sum(facts["rejected"].values()) == 5
    assert facts["failed"] == {}
    assert facts["device"] == "cpu"
    assert facts["model"] == Guard(model_path).digest
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert all(len(row["logits"]) == 4 for row in rows)


def test_score_says_when_files_failed(model_path: Path, folder: Path, tmp_path: Path) -> None:
    (folder / "broken.png").write_bytes(b"no image")
    result = call(score, model_path, folder, "-o", tmp_path / "rows.csv")
    assert isinstance(result.exception, SomeInputsFailed)
    assert "expected 6 usable images, got 1 that are not" in str(result.exception)
    assert "not-an-image" in result.stdout
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 7


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["missing.onnx", ".", "-o", "rows.csv"], ModelError, "missing.onnx.*No such file"),
        (["{model}", "missing", "-o", "rows.csv"], UsageError, "expected a folder of images"),
        (["{model}", "{folder}", "-o", "rows.txt"], UsageError, "expected a name that ends in"),
        (["{model}", "{folder}", "-o", "missing/rows.csv"], CmtError, "expected to write it"),
        (["{model}", "{folder}", "-o", "rows.csv", "--batch", "0"], UsageError, "batch: expected"),
        (["{model}", "{folder}", "-o", "rows.csv", "--batch", str(10**20)], UsageError, "batch: .* from 1 to 65536"),
        (["{model}", "{folder}", "-o", "rows.csv", "--threads", "0"], UsageError, "threads: expected"),
        (["{model}", "{folder}", "-o", "rows.csv", "--device", "tpu"], UsageError, "device: expected"),
        (["{model}", "{folder}", "-o", "rows.csv", "--shard", "2/2"], UsageError, "--shard: expected i/N"),
        (["{model}", "{folder}", "-o", "rows.csv", "--link", "hard"], UsageError, "--link: expected --sort-into"),
        (["{model}", "{folder}", "-o", "rows.csv", "--address", "auto"], UsageError, "--address: expected --engine"),
        (["{model}", "{folder}", "-o", "rows.csv", "--null"], UsageError, "--null: expected - for paths"),
        (["{model}", "{folder}", "-o", "rows.csv", "--column", "path"], UsageError, "--column: expected a .csv"),
        (["{model}", "{folder}", "-o", "rows.csv", "--max-errors", "-1"], UsageError, "--max-errors: expected"),
        (["{model}", "{folder}", "-o", "rows.csv", "--sort-into", "{folder}/x"], UsageError, "--sort-into: expected"),
        (["{model}", "{folder}", "-o", "{folder}/r.csv", "--shard", "0/2"], UsageError, "--shard: expected '.*' outsi"),
        (["{model}", "{folder}", "-o", "rows.csv", "--device", "cuda"], DeviceError, "device cuda"),
    ],
    ids=[
        *("model", "folder", "suffix", "output", "batch", "huge batch", "threads", "device", "shard", "link"),
        *("address", "null", "column", "max-errors", "sort", "shard inside", "cuda"),
    ],
)
def test_score_refuses_in_one_line(
    model_path: Path, folder: Path, tmp_path: Path, arguments: list[str], error: type[CmtError], message: str
) -> None:
    before = sorted(os.listdir(tmp_path))
    filled = [argument.format(model=model_path, folder=folder) for argument in arguments]
    placed = [str(tmp_path / each) if each.startswith(("rows", "missing/")) else each for each in filled]
    caught = refused(score, *placed)
    assert type(caught) is error
    with pytest.raises(error, match=message):
        raise caught
    assert sorted(os.listdir(tmp_path)) == before


def test_info_shows_what_the_file_is(model_path: Path) -> None:
    guard = Guard(model_path)
    result = call(info, model_path)
    assert result.exit_code == 0
    for shown in (guard.digest, guard.sha256, "pair", "cat", "0.25", "acceptance", "bilinear"):
        assert shown in result.output
    assert guard.spec.to_document()["golden"]["image"] not in result.output


def test_info_for_machines(model_path: Path) -> None:
    facts = facts_of(call(info, model_path, "--json"))
    spec = Guard(model_path).spec.to_document()
    spec["golden"].pop("image")
    assert {name: facts[name] for name in spec} == spec
    assert facts["bytes"] == model_path.stat().st_size


def test_info_cannot_steer_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "hostile.onnx"
    path.write_bytes(build(Recipe(document={"recipe": {"note": "\x1b[2J\nrule  none"}})))
    result = call(info, path)
    assert "\x1b" not in result.output
    assert "\nrule  none" not in result.output


def test_info_refuses(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("hello")
    assert isinstance(refused(info, tmp_path / "text.onnx"), ModelError)


def test_doctor() -> None:
    result = call(doctor)
    assert result.exit_code == 0
    assert "CPUExecutionProvider" in result.output
    facts = facts_of(call(doctor, "--json"))
    assert facts["providers"]["CPUExecutionProvider"] == ""


def test_bench(model_path: Path) -> None:
    costs = facts_of(call(bench, model_path, "--threads", 1, "--seconds", 0.01, "--json"))
    assert [cost["batch"] for cost in costs] == [1, 16, 256]
    assert set(costs[0]) == {"batch", "bare", "guard", "ratio"}


def test_score_in_a_process_of_its_own(model_path: Path, folder: Path, tmp_path: Path) -> None:
    code = "from runtime.cli import score; score()"
    arguments = [model_path, folder, "-o", tmp_path / "rows.csv", "--json"]
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert json.loads(done.stdout)["images"] == 5
    assert "scoring" in done.stderr


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Images in folders named like classes, with one that is no image."""
    root = tmp_path / "classes"
    for index, image in enumerate(random_images(Recipe(), 12)):
        path = root / Recipe().classes[index % 4] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(image[..., 0]))
    (root / "cat" / "broken.png").write_bytes(b"no image")
    return root


def test_score_summary(model_path: Path, classes: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    result = call(score, model_path, classes, "-o", rows, "--summary", "--json")
    facts = facts_of(result)
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    right = [row["path"].split("/")[0] == row["class_name"] for row in found]
    kept = [row["accepted"] for row in found]
    assert facts["agreement"]["images"] == 13
    assert facts["agreement"]["accuracy"] == sum(right) / 13
    assert facts["agreement"]["coverage"] == sum(kept) / 13
    assert sum(sum(verdicts.values()) for verdicts in facts["classes"].values()) == 12
    shown = call(score, model_path, classes, "-o", rows, "--summary").stdout
    assert f"coverage (accepted) {sum(kept) / 13:.2%}, {sum(kept)} of 13" in " ".join(shown.split())
    plain = call(score, model_path, classes, "-o", rows, "--json")
    assert "agreement" not in facts_of(plain)


@pytest.mark.parametrize("link", [[], ["--link", "hard"], ["--link", "symbolic"]], ids=["copy", "hard", "symbolic"])
def test_score_sorts(model_path: Path, classes: Path, tmp_path: Path, link: list[str]) -> None:
    rows = tmp_path / "rows.jsonl"
    call(score, model_path, classes, "-o", rows, "--sort-into", tmp_path / "sorted", *link)
    expected = set()
    for row in (json.loads(line) for line in rows.read_text().splitlines()):
        expected.add(f"accepted/{row['class_name']}/{row['path']}" if row["accepted"] else f"rejected/{row['path']}")
    placed = [path for path in (tmp_path / "sorted").rglob("*") if path.is_file()]
    assert {str(path.relative_to(tmp_path / "sorted")) for path in placed} == expected
    assert len(expected) == 13


def test_every_kind_of_input_gives_the_same_rows(
    model_path: Path, classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(classes)
    names = sorted(str(path.relative_to(classes)) for path in classes.rglob("*.png"))
    (tmp_path / "list.csv").write_text("".join(["name,file\n", *(f"x,classes/{name}\n" for name in names)]))
    with tarfile.open(tmp_path / "images.tar", "w") as tar, zipfile.ZipFile(tmp_path / "images.zip", "w") as zip_:
        for name in names:
            tar.add(name)
            zip_.write(name)
    lines = "\0".join(names).encode()
    calls: dict[str, list[object]] = {
        "folder": [classes],
        "glob": [f"{classes}/**/*.png"],
        "manifest": [tmp_path / "list.csv", "--column", "file"],
        "tar": [tmp_path / "images.tar"],
        "zip": [tmp_path / "images.zip"],
        "stdin": ["-", "-0"],
    }
    found = {}
    for kind, arguments in calls.items():
        output = tmp_path / f"{kind}.out.csv"
        options = [str(each) for each in (model_path, *arguments, "-o", output, "--logits")]
        result = CliRunner().invoke(score, options, input=lines if kind == "stdin" else None)
        assert isinstance(result.exception, SomeInputsFailed)
        found[kind] = output.read_text().replace("classes/", "")
    assert set(found.values()) == {found["folder"]}
    assert found["folder"].count("\n") == 14


def test_an_archive_cannot_be_linked(model_path: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("a.png", b"")
    arguments = [tmp_path / "images.zip", "-o", tmp_path / "rows.csv", "--sort-into", tmp_path / "s", "--link", "hard"]
    assert "--link: expected files to link to, got an archive" in str(refused(score, model_path, *arguments))


@pytest.mark.parametrize("read", ["real", "link"])
@pytest.mark.parametrize("written", ["real", "link"])
def test_the_list_is_not_overwritten(model_path: Path, tmp_path: Path, read: str, written: str) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real" / "list.csv").write_text("path\na.png\n")
    error = refused(score, model_path, tmp_path / read / "list.csv", "-o", tmp_path / written / "list.csv")
    assert "expected a file of its own, got one that is read" in str(error)
    assert (tmp_path / "real" / "list.csv").read_text() == "path\na.png\n"


def test_names_of_every_kind_survive(model_path: Path, tmp_path: Path) -> None:
    image = encode(random_images(Recipe(), 1)[0, ..., 0])
    names = [
        "a,b.png",
        'q"q.png',
        "new\nline.png",
        "\U0001f600.png",
        os.fsdecode(b"\xff.png"),
        "=cmd.png",
        "back\\.png",
    ]
    (tmp_path / "odd").mkdir()
    for name in names:
        (tmp_path / "odd" / name).write_bytes(image)
    call(score, model_path, tmp_path / "odd", "-o", tmp_path / "rows.csv")
    call(score, model_path, tmp_path / "odd", "-o", tmp_path / "rows.jsonl")
    with (tmp_path / "rows.csv").open(encoding="utf-8", newline="") as file:
        from_csv = [row["path"] for row in csv.DictReader(file)]
    lines = (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert from_csv == [json.loads(line)["path"] for line in lines]
    assert sorted(from_csv) == sorted(key(name) for name in names)
    assert not any(path.startswith(("=", "+", "-", "@")) for path in from_csv)
