"""Nothing is lost: a run that is killed at any moment goes on where it was, to the same bytes."""

from __future__ import annotations

import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

from runtime import CmtError, Guard, ModelError, UsageError
from runtime.blocks import Shard
from runtime.engines import in_threads
from runtime.inputs import open_inputs
from runtime.journal import Journal, Part, parts_folder
from runtime.scoring import ScoreOptions, own_files, score
from runtime.summary import Summary
from tests.runtime.guard_files import Recipe, build, random_images
from tests.runtime.image_files import encode

ROOT = Path(__file__).parents[2]
SUFFIXES = ["csv", "jsonl", *(["parquet"] if find_spec("pyarrow") else [])]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty files in folders named like classes; every ninth is no image."""
    root = tmp_path / "images"
    for index, image in enumerate(random_images(Recipe(), 40)):
        path = root / Recipe().classes[index % 4] / f"{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no image" if index % 9 == 5 else encode(image[..., 0]))
    return root


@pytest.fixture(autouse=True)
def every_block_is_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.scoring.PART_SECONDS", 0)


def run(guard: Guard, folder: Path, output: Path, **options: object) -> Summary:
    chosen = ScoreOptions(**{"batch": 4, **options})  # type: ignore[arg-type]
    inputs = open_inputs(str(folder), spec=guard.spec.input, leave_out=own_files(output))
    return score(guard, inputs, output, options=chosen, engine=partial(in_threads, threads=2))


def run_until(guard: Guard, folder: Path, output: Path, rows: int, **options: object) -> None:
    """Stop as Ctrl-C does once so many rows are there."""

    def stop(done: int, total: int | None) -> None:
        if done >= rows:
            raise KeyboardInterrupt

    chosen = ScoreOptions(**{"batch": 4, **options})  # type: ignore[arg-type]
    inputs = open_inputs(str(folder), spec=guard.spec.input, leave_out=own_files(output))
    with pytest.raises(KeyboardInterrupt):
        score(guard, inputs, output, options=chosen, engine=partial(in_threads, threads=2), progress=stop)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("rows", [4, 20, 40])
def test_an_interrupted_run_goes_on(guard: Guard, folder: Path, tmp_path: Path, suffix: str, rows: int) -> None:
    expected = run(guard, folder, tmp_path / f"whole.{suffix}", logits=True)
    output = tmp_path / f"rows.{suffix}"
    run_until(guard, folder, output, rows, logits=True)
    assert not output.exists()
    assert parts_folder(output).is_dir()
    assert run(guard, folder, output, logits=True) == expected
    assert output.read_bytes() == (tmp_path / f"whole.{suffix}").read_bytes()
    assert not parts_folder(output).exists()


CHILD = """
import os, signal, sys
import runtime.scoring
from runtime.cli import score

runtime.scoring.PART_SECONDS = 0
left, replace = int(sys.argv.pop(1)), os.replace

def die_at_the_last(source, target):
    global left
    left -= 1
    if left == 0: os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

os.replace = die_at_the_last
score()
"""


def command(model: Path, folder: Path, output: Path, *, moves: int = 0) -> list[str]:
    arguments = [moves, model, folder, "-o", output, "--batch", 4, "--threads", 1, "--logits"]
    return [sys.executable, "-c", CHILD, *map(str, arguments)]


def call(arguments: list[str]) -> int:
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, check=False).returncode


def test_killed_at_every_file_that_appears(model_path: Path, folder: Path, tmp_path: Path) -> None:
    """Each run is killed just before its n-th file would appear: job, parts, output."""
    assert call(command(model_path, folder, tmp_path / "whole.csv")) == 1
    output = tmp_path / "rows.csv"
    for moves in (1, 2, 5, 3):
        assert call(command(model_path, folder, output, moves=moves)) == -signal.SIGKILL
        assert not output.exists()
    assert call(command(model_path, folder, output)) == 1
    assert output.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"images", "guard.onnx", "whole.csv", "rows.csv"}


def test_killed_at_random_with_worker_processes(model_path: Path, folder: Path, tmp_path: Path) -> None:
    for copy in range(20):
        shutil.copytree(folder / "cat", folder / f"copy{copy}")
    assert call(command(model_path, folder, tmp_path / "whole.csv")) == 1
    output, chance, kills = tmp_path / "rows.csv", random.Random(0), 0
    while True:
        process = subprocess.Popen(
            command(model_path, folder, output), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wanted = len(list(parts_folder(output).glob("part-*"))) + chance.randint(8, 25)
        while process.poll() is None and len(list(parts_folder(output).glob("part-*"))) < wanted:
            time.sleep(0.002)
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        kills += not output.exists()
    assert process.returncode == 1
    assert kills >= 2
    assert output.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"images", "guard.onnx", "whole.csv", "rows.csv"}


@pytest.mark.parametrize("of", [1, 2, 3, 12])
def test_the_shards_are_the_whole_and_can_be_repeated(guard: Guard, folder: Path, tmp_path: Path, of: int) -> None:
    run(guard, folder, tmp_path / "whole.csv")
    shards = []
    for index in range(of):
        output = tmp_path / f"{index}.csv"
        run(guard, folder, output, shard=Shard(index=index, of=of))
        first = output.read_bytes()
        run(guard, folder, output, shard=Shard(index=index, of=of))
        assert output.read_bytes() == first
        shards += first.splitlines()[1:]
    whole = (tmp_path / "whole.csv").read_bytes().splitlines()
    assert sorted(shards) == sorted(whole[1:])
    assert {(tmp_path / f"{index}.csv").read_bytes().splitlines()[0] for index in range(of)} == {whole[0]}


def test_a_model_that_was_replaced_is_refused(guard: Guard, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "rows.csv"
    run_until(guard, folder, output, 8)
    with (
        Guard(build(Recipe(seed=1)), device="cpu", threads=1) as other,
        pytest.raises(ModelError, match=f"expected to go on with model '{guard.digest}', got model '{other.digest}'"),
    ):
        run(other, folder, output)
    run(guard, folder, output)
    with output.open(newline="") as file:
        assert {row["model"] for row in csv.DictReader(file)} == {guard.digest}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 5}, "expected to go on with batch 4, got batch 5"),
        ({"logits": True}, "expected to go on with logits False, got logits True"),
        ({"shard": Shard(index=0, of=2)}, "expected to go on with shard"),
    ],
    ids=["batch", "logits", "shard"],
)
def test_other_options_are_refused_unless_fresh(
    guard: Guard, folder: Path, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    output = tmp_path / "rows.csv"
    run_until(guard, folder, output, 8)
    with pytest.raises(UsageError, match=message):
        run(guard, folder, output, **options)
    run(guard, folder, output, fresh=True, **options)
    run(guard, folder, tmp_path / "whole.csv", **options)
    assert output.read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.parametrize("change", ["a file more", "a file less", "a shorter folder"])
def test_inputs_that_changed_are_refused(guard: Guard, folder: Path, tmp_path: Path, change: str) -> None:
    output = tmp_path / "rows.csv"
    run_until(guard, folder, output, 20)
    if change == "a file more":
        (folder / "cat" / "01.png").touch()
    elif change == "a file less":
        (folder / "cat" / "04.png").unlink()
    else:
        for path in folder.glob("*/*"):
            path.unlink() if path.parent.name > "cat" else None
    with pytest.raises(UsageError, match="expected the inputs of the run before, got others after the first"):
        run(guard, folder, output)
    assert parts_folder(output).is_dir()


def test_what_comes_after_the_part_that_is_done_may_still_change(guard: Guard, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "rows.csv"
    run_until(guard, folder, output, 8)
    (folder / "fox" / "99.png").touch()
    assert run(guard, folder, output).images == 41


def test_too_many_errors_stop_and_a_larger_number_goes_on(guard: Guard, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "rows.csv"
    with pytest.raises(CmtError, match="expected at most 2 inputs that cannot be used, got 3; what is done is kept"):
        run(guard, folder, output, max_errors=2)
    assert not output.exists()
    with pytest.raises(CmtError, match="expected at most 2 inputs"):
        run(guard, folder, output, max_errors=2)
    assert run(guard, folder, output, max_errors=4).failed == {"not-an-image": 4}
    with pytest.raises(UsageError, match="--max-errors: expected a number >= 0, got -1"):
        ScoreOptions(max_errors=-1)


@pytest.mark.parametrize("seconds", [0, 1000], ids=["a part a block", "one part"])
def test_what_is_done_is_kept(
    guard: Guard, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    """All 37 rows are there when the last, an empty file, is one too many; the same command does not pass it by."""
    monkeypatch.setattr("runtime.scoring.PART_SECONDS", seconds)
    for path in folder.glob("*/*.png"):
        path.unlink() if path.read_bytes() == b"no image" else None
    (folder / "zebra.png").touch()
    output, message = (
        tmp_path / "rows.csv",
        "expected at most 0 inputs that cannot be used, got 1; what is done is kept",
    )
    with pytest.raises(CmtError, match=message):
        run(guard, folder, output, max_errors=0)
    kept = {path.name: path.read_bytes() for path in parts_folder(output).glob("part-*")}
    assert b"".join(kept.values()).count(b".png,") == 37
    with pytest.raises(CmtError, match=message):
        run(guard, folder, output, max_errors=0)
    assert {path.name: path.read_bytes() for path in parts_folder(output).glob("part-*")} == kept
    assert run(guard, folder, output, max_errors=1).failed == {"empty": 1}


def test_an_interrupt_keeps_what_is_done(
    guard: Guard, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.scoring.PART_SECONDS", 1000)
    run_until(guard, folder, tmp_path / "rows.csv", 20)
    (part,) = parts_folder(tmp_path / "rows.csv").glob("part-*")
    assert part.read_bytes().count(b".png,") == 20


def test_a_part_that_cannot_be_written_is_tried_once(
    guard: Guard, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[Part] = []

    def fail(journal: Journal, part: Part, encoded: object) -> None:
        tries.append(part)
        raise CmtError("disk full")

    monkeypatch.setattr(Journal, "append", fail)
    with pytest.raises(CmtError, match="disk full"):
        run(guard, folder, tmp_path / "rows.csv")
    assert len(tries) == 1
    assert sorted(os.listdir(tmp_path)) == ["images"]


def test_a_full_disk_stops_in_one_line_and_the_same_command_goes_on(
    model_path: Path, folder: Path, tmp_path: Path
) -> None:
    """The disk is full for a file that grows beyond some size, which every user can bring about."""
    arguments = command(model_path, folder, tmp_path / "rows.csv")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
    assert call(command(model_path, folder, tmp_path / "whole.csv")) == 1
    full = [limit + CHILD if argument == CHILD else argument for argument in arguments]
    done = subprocess.run(full, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "CmtError" in done.stderr
    assert "expected to write it, got: File too large" in done.stderr
    assert len(list(parts_folder(tmp_path / "rows.csv").glob("part-*"))) == 10
    assert not (tmp_path / "rows.csv").exists()
    assert call(arguments) == 1
    assert (tmp_path / "rows.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_full_temporary_folder_costs_no_row_and_the_same_command_goes_on(
    model_path: Path, folder: Path, tmp_path: Path
) -> None:
    """The names of the last folder do not fit where they are sorted: none of its files may be without a row."""
    for copy in range(6):
        shutil.copytree(folder / "cat", folder / f"copy{copy}")
    large = folder / "zebra"
    large.mkdir()
    for index in range(150):
        (large / f"{index:050}").touch()
    arguments = command(model_path, folder, tmp_path / "rows.csv")
    sorting = "import runtime.sorted_entries; runtime.sorted_entries._RUN = 100\n"
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
    full = [sorting + limit + CHILD if argument == CHILD else argument for argument in arguments]
    done = subprocess.run(full, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "expected to sort the names of a large folder there, got: File too large; free some" in done.stderr
    assert list(parts_folder(tmp_path / "rows.csv").glob("part-*"))
    assert not (tmp_path / "rows.csv").exists()
    assert call(arguments) == 1
    with (tmp_path / "rows.csv").open(newline="") as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    assert len(paths) == len(set(paths)) == 250


def test_an_output_within_the_folder_can_be_gone_on_with(guard: Guard, folder: Path, tmp_path: Path) -> None:
    run(guard, folder, tmp_path / "whole.csv")
    run_until(guard, folder, folder / "rows.csv", 8)
    run(guard, folder, folder / "rows.csv")
    assert (folder / "rows.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert os.path.exists(folder / "rows.csv")
