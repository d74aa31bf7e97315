from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.atomic import atomic_output, make_folder
from runtime.errors import CmtError, UsageError
from tests.runtime.limits import without_descriptors
from tests.runtime.privileges import without_privileges

ROOT = Path(__file__).parents[2]


def test_the_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    with atomic_output(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".csv"
        temporary.write_text("content")
        assert not path.exists()
    assert path.read_text() == "content"
    assert os.listdir(tmp_path) == ["out.csv"]


def write_half(path: Path, error: BaseException) -> None:
    with atomic_output(path) as temporary:
        temporary.write_text("half")
        raise error


def test_an_error_inside_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="mine"):
        write_half(tmp_path / "out", KeyError("mine"))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_older_file_survives_an_error(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    with pytest.raises(error, match="stop"):
        write_half(path, error("stop"))
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out"]


def test_an_older_file_is_replaced_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    path.chmod(0o640)
    with atomic_output(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_new_file_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with atomic_output(tmp_path / "out"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o640


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    with atomic_output(tmp_path / "link") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_a_long_name_fits(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 251 + ".csv")
    with atomic_output(path) as temporary:
        temporary.write_text("a")
    assert path.exists()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing/out.csv", "No such file or directory"),
        ("file/out.csv", "Not a directory"),
        ("folder", "not a regular file"),
        ("/dev/full", "not a regular file"),
        ("x" * 256, "File name too long"),
    ],
    ids=["no folder", "file as folder", "folder", "device", "long name"],
)
def test_what_cannot_be_written_is_one_line(tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(CmtError, match=f"expected to write it, got: {message}; choose"), atomic_output(tmp_path / path):
        pytest.fail("must not get here")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_folder_without_permission(public_folder: Path) -> None:
    locked = public_folder / "locked"
    locked.mkdir(mode=0o555)
    with (
        without_privileges(),
        pytest.raises(CmtError, match="expected to write it, got: Permission denied"),
        atomic_output(locked / "out"),
    ):
        pytest.fail("must not get here")
    assert os.listdir(locked) == []


def test_a_full_disk_inside_the_block(tmp_path: Path) -> None:
    with pytest.raises(CmtError, match="No space left on device"), atomic_output(tmp_path / "out"):
        Path("/dev/full").write_bytes(b"x")
    assert os.listdir(tmp_path) == []


def test_a_full_quota_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import resource, sys\n"
        "from runtime.atomic import atomic_output\n"
        "from runtime.errors import CmtError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n"
        "    with atomic_output(sys.argv[1]) as path: path.write_bytes(bytes(10000))\n"
        "except CmtError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code, tmp_path / "out"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "expected to write it, got: File too large" in done.stdout
    assert os.listdir(tmp_path) == []


def test_too_many_open_files_are_not_blamed_on_the_place(tmp_path: Path) -> None:
    imports = "from runtime.atomic import atomic_output"
    printed = without_descriptors(imports, "with atomic_output(sys.argv[1]): pass", tmp_path / "out")
    assert printed == (
        f"CmtError '{tmp_path}/out': expected to write it, got: Too many open files; use fewer --threads, or allow more"
        " open files with ulimit -n\n"
    )


def test_a_failed_read_inside_the_block_is_not_taken_for_a_failed_write(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="other"), atomic_output(tmp_path / "out"):
        (tmp_path / "other").read_bytes()
    assert os.listdir(tmp_path) == []


def test_a_folder_is_made_once_with_those_above_it(tmp_path):
    for _ in range(2):
        make_folder(tmp_path / "a" / "b", option="-o")
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize("below", ["", "/below"], ids=["itself", "above"])
def test_a_file_where_a_folder_goes_is_one_line(tmp_path, below):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"^--work '.*': expected a folder, got a file; name another$"):
        make_folder(f"{tmp_path}/file{below}", option="--work")


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    with pytest.raises(CmtError, match="expected to write it, got: File name too long"):
        make_folder(tmp_path / ("x" * 300), option="-o")
