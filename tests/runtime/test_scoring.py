from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from runtime import CmtError, Guard, UsageError, Verdicts
from runtime.scoring import score_folder
from runtime.summary import Summary
from tests.runtime.guard_files import Recipe, random_images
from tests.runtime.image_files import encode
from tests.runtime.privileges import without_privileges


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with images and with everything that is none."""
    root = tmp_path / "images"
    (root / "sub").mkdir(parents=True)
    for index, image in enumerate(random_images(Recipe(), 6)):
        (root / ("sub" if index % 2 else "") / f"{index}.png").write_bytes(encode(image[..., 0]))
    (root / "=formula.png").write_bytes((root / "0.png").read_bytes())
    (root / "empty.png").touch()
    (root / "notes.txt").write_text("no image")
    (root / "large.png").write_bytes(encode(np.zeros((200, 200), np.uint8)))
    (root / os.fsdecode(b"\xff.png")).write_bytes((root / "0.png").read_bytes())
    (root / "broken").symlink_to("nowhere")
    (root / "loop").symlink_to(".")
    os.mkfifo(root / "pipe")
    return root


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_file_gets_one_row(guard: Guard, folder: Path, tmp_path: Path) -> None:
    summary = score_folder(guard, folder, tmp_path / "rows.csv")
    found = {row["path"]: row for row in rows(tmp_path / "rows.csv")}
    assert list(found) == [
        "0.png", "2.png", "4.png", "./=formula.png", "broken", "empty.png", "large.png", "notes.txt", "pipe",
        "sub/1.png", "sub/3.png", "sub/5.png", r"\xff.png",
    ]  # fmt: skip
    reasons = {path: row["reason"] for path, row in found.items() if row["confidence"] == ""}
    assert reasons == {
        "broken": "unreadable",
        "empty.png": "empty",
        "large.png": "too-large",
        "notes.txt": "not-an-image",
        "pipe": "not-a-file",
    }
    same = [{**found[name], "path": ""} for name in ("0.png", "./=formula.png", r"\xff.png")]
    assert same[0] == same[1] == same[2]
    assert {row["model"] for row in found.values()} == {guard.digest}
    assert summary.images == 13
    assert sum(summary.failed.values()) == 5
    assert summary.accepted == sum(row["accepted"] == "true" for row in found.values())
    assert summary.accepted + sum(summary.rejected.values()) == 8


def test_the_same_folder_gives_the_same_bytes(guard: Guard, folder: Path, tmp_path: Path) -> None:
    for name, batch in (("a.csv", 32), ("b.csv", 32), ("c.csv", 3)):
        score_folder(guard, folder, tmp_path / name, logits=True, batch=batch)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes() == (tmp_path / "c.csv").read_bytes()


def test_the_output_may_lie_in_the_folder(guard: Guard, folder: Path) -> None:
    output = folder / "rows.csv"
    score_folder(guard, folder, output)
    first = output.read_bytes()
    score_folder(guard, folder, output)
    assert output.read_bytes() == first
    assert "rows.csv" not in {row["path"] for row in rows(output)}


def test_progress_goes_from_nothing_to_all(guard: Guard, folder: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    score_folder(guard, folder, tmp_path / "rows.csv", batch=4, progress=lambda *told: seen.append(told))
    assert [done for done, _ in seen] == [0, 4, 8, 12, 13]
    assert all(total is None or total >= done for done, total in seen)


def test_an_unreadable_folder_gets_a_row(guard: Guard, public_folder: Path) -> None:
    folder, output = public_folder / "images", public_folder / "rows.csv"
    (folder / "locked").mkdir(parents=True)
    (folder / "secret.png").write_bytes(encode(random_images(Recipe(), 1)[0, ..., 0]))
    (folder / "secret.png").chmod(0)
    (folder / "locked").chmod(0)
    with without_privileges():
        summary = score_folder(guard, folder, output)
    (folder / "locked").chmod(0o755)
    assert {row["path"]: row["reason"] for row in rows(output)} == {
        "locked": "not-a-file",
        "secret.png": "unreadable",
    }
    assert summary == Summary(images=2, accepted=0, rejected={}, failed={"not-a-file": 1, "unreadable": 1})


def test_files_that_vanish_or_change_get_a_row(
    model_path: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.scoring.usable_cpus", lambda: 1)
    monkeypatch.setattr("runtime.engines._AHEAD", 1)

    class Vanishing(Guard):
        def classify(self, images: np.ndarray) -> Verdicts:
            (folder / "sub" / "5.png").unlink(missing_ok=True)
            (folder / "sub" / "3.png").write_bytes((folder / "sub" / "3.png").read_bytes()[:50])
            return super().classify(images)

    with Vanishing(model_path, device="cpu", threads=1) as guard:
        score_folder(guard, folder / "sub", tmp_path / "rows.csv", batch=1)
    found = {row["path"]: row["reason"] for row in rows(tmp_path / "rows.csv")}
    assert found["5.png"] == found["3.png"] == "unreadable"
    assert len(found) == 3


def test_a_stop_before_anything_is_done_leaves_nothing(guard: Guard, folder: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int | None) -> None:
        raise KeyboardInterrupt("now")

    with pytest.raises(KeyboardInterrupt, match="now"):
        score_folder(guard, folder, tmp_path / "rows.csv", progress=stop)
    assert os.listdir(tmp_path) == ["images"]


@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        ("rows.txt", UsageError, "expected a name that ends in"),
        ("missing/rows.csv", CmtError, "expected to write it, got: No such file"),
        ("images", UsageError, "expected a name that ends in"),
    ],
)
def test_unusable_outputs(
    guard: Guard, folder: Path, tmp_path: Path, output: str, error: type[CmtError], message: str
) -> None:
    with pytest.raises(error, match=message):
        score_folder(guard, folder, tmp_path / output)


def test_an_empty_folder_is_a_mistake(guard: Guard, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected at least one file, got an empty folder"):
        score_folder(guard, tmp_path, tmp_path / "rows.csv")
    assert os.listdir(tmp_path) == []
