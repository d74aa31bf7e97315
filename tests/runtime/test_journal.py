from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.errors import CmtError, ModelError, UsageError
from runtime.journal import Journal, Part, parts_folder
from runtime.summary import Outcome
from tests.runtime.limits import without_descriptors
from tests.runtime.privileges import without_privileges

ROOT = Path(__file__).parents[2]
JOB = {"model": "a", "sha256": "b", "batch": 32, "inputs": ["folder", "/images"]}
PART = Part(blocks=2, inputs="c", tally=Counter({Outcome("", "cat", "", False): 3}))


def test_parts_survive_their_process(tmp_path: Path) -> None:
    output = tmp_path / "rows.csv"
    with Journal(output, JOB) as journal:
        assert list(journal.finished()) == []
        journal.append(PART, [b"one\n", b"two\n"])
        journal.append(PART, [b"three\n"])
    assert not output.exists()
    with Journal(output, JOB) as journal:
        assert list(journal.finished()) == [PART, PART]
        assert list(journal.encoded()) == [b"one\ntwo\n", b"three\n"]
        journal.remove()
    assert os.listdir(tmp_path) == []


def test_without_a_part_nothing_is_left(tmp_path: Path) -> None:
    with Journal(tmp_path / "rows.csv", JOB):
        assert parts_folder(tmp_path / "rows.csv").is_dir()
    assert os.listdir(tmp_path) == []


def test_fresh_forgets(tmp_path: Path) -> None:
    for _ in range(2):
        with Journal(tmp_path / "rows.csv", JOB, fresh=True) as journal:
            assert journal.count == 0
            journal.append(PART, [b"one\n"])


def test_half_written_files_are_nothing(tmp_path: Path) -> None:
    output = tmp_path / "rows.csv"
    with Journal(output, JOB) as journal:
        journal.append(PART, [b"one\n"])
    (parts_folder(output) / ".tmp-1234-part-00000001").write_bytes(b"{")
    with Journal(output, JOB) as journal:
        assert list(journal.encoded()) == [b"one\n"]
        journal.remove()
    assert os.listdir(tmp_path) == []


def test_a_half_removed_journal_is_nothing(tmp_path: Path) -> None:
    output = tmp_path / "rows.csv"
    with Journal(output, JOB) as journal:
        journal.append(PART, [b"one\n"])
    (parts_folder(output) / "job.json").unlink()
    with Journal(output, JOB) as journal:
        assert journal.count == 0


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"model": "z"}, ModelError, "expected to go on with model 'a', got model 'z'; name another output, or use"),
        ({"sha256": "z"}, ModelError, "expected to go on with sha256 'b', got sha256 'z'"),
        ({"batch": 16}, UsageError, "expected to go on with batch 32, got batch 16"),
        ({"inputs": ["folder", "/other"]}, UsageError, "expected to go on with inputs"),
        ({"new": 1}, UsageError, "expected to go on with new None, got new 1"),
    ],
    ids=["model", "file", "option", "inputs", "unknown"],
)
def test_another_job_is_refused(
    tmp_path: Path, changed: dict[str, object], error: type[CmtError], message: str
) -> None:
    with Journal(tmp_path / "rows.csv", JOB) as journal:
        journal.append(PART, [b"one\n"])
    with pytest.raises(error, match=message):
        Journal(tmp_path / "rows.csv", JOB | changed)
    with Journal(tmp_path / "rows.csv", JOB) as journal:
        assert journal.count == 1


def test_one_process_at_a_time(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from runtime.journal import Journal\n"
        f"try: Journal(Path(sys.argv[1]), {JOB!r})\n"
        "except Exception as error: print(error)\n"
    )
    with Journal(tmp_path / "rows.csv", JOB):
        command = [sys.executable, "-c", code, tmp_path / "rows.csv"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "expected to write it alone, got another process at work on it" in done.stdout


@pytest.mark.parametrize(
    ("content", "got"),
    [("{", "JSONDecodeError"), ("[]", "list"), ("null", "NoneType"), ("[" * 100_000, "RecursionError")],
    ids=["cut", "list", "null", "deep"],
)
def test_a_damaged_job_is_one_line(tmp_path: Path, content: str, got: str) -> None:
    with Journal(tmp_path / "rows.csv", JOB) as journal:
        journal.append(PART, [b"one\n"])
    (parts_folder(tmp_path / "rows.csv") / "job.json").write_text(content)
    with pytest.raises(CmtError, match=f"expected the job of these parts, got: {got}; use --fresh"):
        Journal(tmp_path / "rows.csv", JOB)
    with Journal(tmp_path / "rows.csv", JOB, fresh=True) as journal:
        assert journal.count == 0


DAMAGES: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "a row less": lambda lines: [*lines[:-2], lines[-1]],
    "cut rows": lambda lines: [*lines[:-1], lines[-1][:2]],
    "a row more": lambda lines: [*lines, b"four\n"],
    "another row": lambda lines: [*lines[:-1], b"tree\n"],
    "another tally": lambda lines: [lines[0], lines[1].replace(b"3", b"4"), *lines[2:]],
    "no rows": lambda lines: lines[:2],
    "cut header": lambda lines: [lines[0], lines[1][:9]],
    "no digest": lambda lines: lines[1:],
    "empty": lambda lines: [],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_part_is_one_line(tmp_path: Path, damage: str) -> None:
    with Journal(tmp_path / "rows.csv", JOB) as journal:
        journal.append(PART, [b"one\n", b"two\n", b"three\n"])
    part = parts_folder(tmp_path / "rows.csv") / "part-00000000"
    part.write_bytes(b"".join(DAMAGES[damage](part.read_bytes().splitlines(keepends=True))))
    expected = "expected a part of an earlier run, got: one that is cut short or was changed since; use --fresh to"
    with Journal(tmp_path / "rows.csv", JOB) as journal:
        for read in (journal.finished, journal.encoded):
            with pytest.raises(CmtError, match=expected):
                list(read())


def test_a_part_that_is_no_file_is_one_line(tmp_path: Path) -> None:
    with Journal(tmp_path / "rows.csv", JOB) as journal:
        journal.append(PART, [b"one\n"])
    part = parts_folder(tmp_path / "rows.csv") / "part-00000000"
    part.unlink()
    part.mkdir()
    with (
        Journal(tmp_path / "rows.csv", JOB) as journal,
        pytest.raises(CmtError, match="expected a part of an earlier run, got: Is a directory; use --fresh"),
    ):
        list(journal.finished())


def test_what_cannot_be_read_now_is_not_thrown_away(tmp_path: Path) -> None:
    """With no descriptor left, --fresh would delete what is intact."""
    with Journal(tmp_path / "rows.csv", JOB) as journal:
        journal.append(PART, [b"one\n"])
    opened = (
        "from contextlib import ExitStack\n"
        "from pathlib import Path\n"
        "from runtime.journal import Journal\n"
        f"journal = ExitStack().enter_context(Journal(Path(sys.argv[1]), {JOB!r}))"
    )
    printed = without_descriptors(opened, "list(journal.finished())", tmp_path / "rows.csv")
    assert printed.startswith("CmtError ")
    assert "expected a part of an earlier run, got: Too many open files; use fewer --threads, or allow" in printed


def test_what_is_not_ours_is_never_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "rows.csv.parts"
    folder.mkdir()
    (folder / "mine.txt").write_text("precious")
    with Journal(tmp_path / "rows.csv", JOB):
        pass
    assert (folder / "mine.txt").read_text() == "precious"


def test_an_unwritable_folder_is_one_line(public_folder: Path) -> None:
    (public_folder / "locked").mkdir(mode=0o555)
    with without_privileges(), pytest.raises(CmtError, match="expected to write it, got: Permission denied; choose"):
        Journal(public_folder / "locked" / "rows.csv", JOB)
    assert os.listdir(public_folder / "locked") == []
