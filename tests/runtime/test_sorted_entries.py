from __future__ import annotations

import errno
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from runtime import sorted_entries as module
from runtime.sorted_entries import Entry, sorted_entries

NAMES = [
    "a",
    "a-b",
    "a.",
    "a b",
    "ab",
    "b",
    "B",
    "\U0001f600",
    "é",
    os.fsdecode(b"\xff"),
    "new\nline",
    "-",
    "~",
    "a\x01",
]
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("run", [1, 2, 3, 5, 1000])
def test_the_order_of_the_bytes_whatever_fits_in_memory(
    tmp_path: Path, run: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RUN", run)
    monkeypatch.setattr("runtime.spool._READ", 3)
    for index, name in enumerate(NAMES):
        (tmp_path / name).mkdir() if index % 2 else (tmp_path / name).touch()
    found = list(sorted_entries(str(tmp_path)))
    assert [entry.name for entry in found] == sorted(NAMES, key=os.fsencode)
    assert {entry.name for entry in found if entry.is_folder} == set(NAMES[1::2])


def test_kinds(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "to folder").symlink_to("folder")
    (tmp_path / "to nothing").symlink_to("nothing")
    (tmp_path / "file").touch()
    assert list(sorted_entries(str(tmp_path))) == [
        Entry("file", False, False),
        Entry("folder", True, False),
        Entry("to folder", True, False),
        Entry("to nothing", False, True),
    ]


def test_an_empty_folder(tmp_path: Path) -> None:
    assert list(sorted_entries(str(tmp_path))) == []


def test_what_is_no_folder_says_so_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        sorted_entries(str(tmp_path / "missing"))


def fail(entry: object, number: int) -> bool:
    raise OSError(number, os.strerror(number), "link")


class Listing(list):  # type: ignore[type-arg]
    """What `os.scandir` returns."""

    def __enter__(self) -> Listing:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("number", [errno.EACCES, errno.ELOOP, errno.EIO, errno.ESTALE, errno.ENOMEM])
def test_a_link_nobody_can_follow_now_may_lead_to_a_folder(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    link = SimpleNamespace(name="link", is_dir=partial(fail, None, number))
    monkeypatch.setattr(os, "scandir", lambda folder: Listing([link]))
    if number in (errno.EACCES, errno.ELOOP):
        assert list(sorted_entries("folder")) == [Entry("link", False, False)]
    else:
        with pytest.raises(OSError, match="link"):
            sorted_entries("folder")


def test_memory_does_not_grow_with_the_folder(tmp_path: Path) -> None:
    for index in range(40_000):
        os.mkfifo(tmp_path / f"{index:0120}")
    code = (
        "import resource, sys\n"
        "from runtime.sorted_entries import sorted_entries\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "n = sum(1 for _ in sorted_entries(sys.argv[1]))\n"
        "print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True, check=True)
    count, grown = map(int, done.stdout.split())
    assert count == 40_000
    assert grown < 40_000 * 160 / 1024  # kilobytes that the names alone would take, with what Python adds to them
