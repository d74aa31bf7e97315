from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from runtime import Guard, UsageError, Verdicts
from runtime.rows import Row, classify_files, reasons
from tests.runtime.guard_files import Recipe, build, decide, random_images
from tests.runtime.image_files import encode

RECIPE = Recipe(threshold=0.25)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Twenty images, every third one of them broken in some way."""
    paths = []
    for index, image in enumerate(random_images(RECIPE, 20)):
        path = tmp_path / f"{index:02}.png"
        data = encode(image[..., 0])
        path.write_bytes([b"no image", b"", data[:40]][index // 3 % 3] if index % 3 == 0 else data)
        paths.append(path)
    paths[9].unlink()
    return paths


def test_one_row_a_path_in_order(guard: Guard, files: list[Path]) -> None:
    rows = guard.classify_files(files)
    assert [row.path for row in rows] == [str(path) for path in files]
    expected = decide(RECIPE, random_images(RECIPE, 20))
    for index, row in enumerate(rows):
        assert row.failed == (index % 3 == 0)
        if row.failed:
            assert (row.label, row.class_name, row.accepted, row.confidence, row.logits) == (
                None,
                "",
                False,
                None,
                None,
            )
            assert "expected" in row.message
        else:
            assert row.label == expected["labels"][index]
            assert row.class_name == RECIPE.classes[row.label]
            assert row.accepted == expected["accepted"][index]
            assert row.confidence == pytest.approx(expected["confidence"][index], abs=1e-5)
            assert row.accepted == (row.reason == "")
            assert row.message == ""
    assert {row.reason for row in rows} >= {"not-an-image", "empty", "unreadable"}


@pytest.mark.parametrize("batch", [1, 3, 7, 64])
def test_rows_do_not_depend_on_the_batch(guard: Guard, files: list[Path], batch: int) -> None:
    assert guard.classify_files(files, batch=batch) == guard.classify_files(files)


def test_rows_do_not_depend_on_their_neighbours(guard: Guard, files: list[Path]) -> None:
    together = guard.classify_files(files)
    alone = [row for path in files for row in guard.classify_files([path])]
    assert alone == together
    for one, other in zip(alone, together, strict=True):
        assert one.failed or np.array_equal(one.logits, other.logits)


def test_files_are_judged_like_arrays(guard: Guard, files: list[Path]) -> None:
    (row,) = guard.classify_files([files[1]])
    verdict = guard.classify(random_images(RECIPE, 20)[1])[0]
    assert (row.label, row.accepted, row.confidence) == (verdict.label, verdict.accepted, verdict.confidence)


def test_no_paths_no_rows(guard: Guard) -> None:
    assert guard.classify_files([]) == []


def test_only_bad_files(guard: Guard, tmp_path: Path) -> None:
    rows = guard.classify_files([tmp_path / str(index) for index in range(100)], batch=4)
    assert {row.reason for row in rows} == {"unreadable"}
    assert len(rows) == 100


def test_paths_are_read_a_little_ahead_only(guard: Guard, tmp_path: Path) -> None:
    taken = []

    def paths() -> Iterator[Path]:
        for index in range(1000):
            taken.append(index)
            yield tmp_path / str(index)

    rows = classify_files(guard, paths(), batch=8)
    assert next(rows).reason == "unreadable"
    assert len(taken) <= 17
    rows.close()


@pytest.mark.parametrize("batch", [0, -1, 1.0, True, 65_537, 10**20])
def test_batch_must_be_a_number(guard: Guard, batch: int) -> None:
    with pytest.raises(UsageError, match="batch: expected a whole number from 1 to 65536, got"):
        guard.classify_files([], batch=batch)


def test_four_channels_cannot_be_read_from_files() -> None:
    guard = Guard(build(Recipe(channels=4)), device="cpu", threads=1)
    with pytest.raises(UsageError, match="expected a guard of 1 or 3 channels, got 4"):
        guard.classify_files([])


def test_a_closed_guard_says_so(model: bytes, files: list[Path]) -> None:
    guard = Guard(model, device="cpu", threads=1)
    guard.close()
    with pytest.raises(UsageError, match="expected an open guard, got a closed one"):
        guard.classify_files(files)


def verdicts(rows: list[tuple[int, bool, float, int]], robust: bool = True) -> Verdicts:
    """Verdicts from label, accepted, confidence and argmax Z' per row."""
    return Verdicts(
        labels=np.array([row[0] for row in rows], np.int32),
        accepted=np.array([row[1] for row in rows]),
        confidence=np.array([row[2] for row in rows], np.float32),
        logits=np.zeros((len(rows), 4), np.float32),
        robust_logits=np.eye(4, dtype=np.float32)[[row[3] for row in rows]] if robust else None,
        classes=RECIPE.classes,
    )


@pytest.mark.parametrize(
    ("rule", "row", "expected"),
    [
        ("pair", (0, True, 0.9, 1), ""),
        ("pair", (0, False, 0.9, 2), "pair-mismatch"),
        ("pair", (0, False, 0.1, 2), "pair-mismatch"),
        ("pair", (0, False, 0.1, 1), "low-confidence"),
        ("pair", (-1, False, 0.0, 0), "non-finite"),
        ("confidence", (0, True, 0.9, 0), ""),
        ("confidence", (0, False, 0.1, 0), "low-confidence"),
        ("confidence", (-1, False, 0.0, 0), "non-finite"),
        ("detector", (0, False, 0.9, 0), "detected"),
        ("detector", (0, False, 0.1, 0), "low-confidence"),
    ],
)
def test_reasons(rule: str, row: tuple[int, bool, float, int], expected: str) -> None:
    spec = Guard(build(Recipe(rule=rule, threshold=0.25, calibrated=True)), device="cpu", threads=1).spec
    assert reasons(verdicts([row], robust=rule == "pair"), spec) == [expected]


def test_a_row_fails_by_default() -> None:
    row = Row(path="x")
    assert row.failed
    assert not row.accepted
