from __future__ import annotations

import errno
import glob
import os
import resource
from pathlib import Path
from typing import NoReturn

import pytest

from runtime.errors import CmtError, UsageError
from runtime.listing import count_files, key, list_files, split_pattern
from tests.runtime.limits import limited, without_descriptors
from tests.runtime.privileges import without_privileges

NAMES = {
    "plain.png": "plain.png",
    "sub/inner.png": "sub/inner.png",
    "with space, comma.png": "with space, comma.png",
    'quote".png': 'quote".png',
    "new\nline.png": r"new\x0aline.png",
    "tab\t.png": r"tab\x09.png",
    "escape\x1b[2J.png": r"escape\x1b[2J.png",
    "delete\x7f.png": r"delete\x7f.png",
    "c1\x85.png": r"c1\u0085.png",
    "separator\u2028.png": r"separator\u2028.png",
    "back\\slash.png": r"back\\slash.png",
    r"back\x0aslash.png": r"back\\x0aslash.png",
    os.fsdecode(b"bytes\xff\xfe.png"): r"bytes\xff\xfe.png",
    "\U0001f600.png": "\U0001f600.png",
    "=cmd|'/C calc'!A0": "./=cmd|'/C calc'!A0",
    "+1.png": "./+1.png",
    "-1.png": "./-1.png",
    "@sum.png": "./@sum.png",
    "sub/=inner.png": "sub/=inner.png",
    ".hidden": ".hidden",
}
MEMBERS = {
    **NAMES,
    "./=x.png": "././=x.png",
    "=x.png": "./=x.png",
    "././=x.png": "./././=x.png",
    ".//=x.png": ".//=x.png",
    "./plain.png": "./plain.png",
    "../=x.png": "../=x.png",
}
"""Names that no folder has, and an archive or a manifest may have, as well."""


@pytest.mark.parametrize("name", MEMBERS, ids=ascii)
def test_keys(name: str) -> None:
    assert key(name) == MEMBERS[name]


def test_keys_are_distinct_and_can_be_written() -> None:
    keys = [key(name) for name in MEMBERS]
    assert len(set(keys)) == len(MEMBERS)
    assert all(each.encode("utf-8").decode("utf-8") == each for each in keys)
    assert all(each.splitlines() == [each] for each in keys)


def test_every_file_once_in_the_order_of_its_bytes(tmp_path: Path) -> None:
    for name in NAMES:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    listed = list(list_files(tmp_path))
    assert sorted(listed) == sorted(NAMES)
    assert listed == list(list_files(tmp_path))
    top = [os.fsencode(name) for name in listed if "/" not in name]
    assert top == sorted(top)


def test_links(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").touch()
    (tmp_path / "a" / "up").symlink_to("..")
    (tmp_path / "a" / "self").symlink_to(".")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "link").symlink_to("a/file")
    assert list(list_files(tmp_path)) == ["a/file", "b/file", "broken", "link", "loop"]


def test_pipes_and_devices_are_listed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    assert list(list_files(tmp_path)) == ["pipe", "zero"]


def test_the_output_is_left_out_even_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").touch()
    (tmp_path / "image").touch()
    (tmp_path / "link").symlink_to("rows.csv")
    assert list(list_files(tmp_path, leave_out=[tmp_path / "rows.csv"])) == ["image"]
    assert len(list(list_files(tmp_path))) == 3


@pytest.mark.parametrize(
    ("name", "message"), [("missing", "No such file"), ("file", "Not a directory")], ids=["missing", "file"]
)
def test_no_folder(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=f"expected a folder of images, got: {message}"):
        list(list_files(tmp_path / name))


def test_a_folder_can_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "rows.csv.parts").mkdir()
    (tmp_path / "rows.csv.parts" / "part").touch()
    (tmp_path / "image").touch()
    assert list(list_files(tmp_path, leave_out=[tmp_path / "rows.csv.parts"])) == ["image"]


def test_folders_far_deeper_than_python_may_recurse(tmp_path: Path) -> None:
    depth = 1200
    folders = [f"{tmp_path}/" + "d/" * count for count in range(1, depth + 1)]
    for folder in folders:
        os.mkdir(folder)
    Path(folders[-1], "file").touch()
    try:
        assert list(list_files(tmp_path)) == ["d/" * depth + "file"]
    finally:  # pytest itself would recurse
        Path(folders[-1], "file").unlink()
        for folder in reversed(folders):
            os.rmdir(folder)


def test_a_folder_without_permission_is_a_row(public_folder: Path) -> None:
    (public_folder / "locked").mkdir(mode=0)
    (public_folder / "z").touch()
    with without_privileges():
        assert list(list_files(public_folder)) == ["locked", "z"]


@pytest.mark.parametrize("folder", ["", "large"], ids=["top", "below"])
def test_a_full_temporary_folder_stops_instead_of_hiding_a_large_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.setattr("runtime.sorted_entries._RUN", 4)
    (tmp_path / folder).mkdir(exist_ok=True)
    for index in range(9):
        (tmp_path / folder / f"{index:050}").touch()
    with (
        limited(resource.RLIMIT_FSIZE, 100),
        pytest.raises(CmtError, match=r"expected to sort .* File too large") as got,
    ):
        list(list_files(tmp_path))
    assert got.value.exit_code == 1
    assert "TMPDIR; the same command goes on" in str(got.value)
    assert len(list(list_files(tmp_path))) == 9


@pytest.mark.parametrize("folder", ["", "below"], ids=["top", "below"])
def test_too_many_open_files_stop(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    begun = (
        "from runtime.listing import list_files\n"
        "files = list_files(sys.argv[1])\n"
        "if sys.argv[2]: assert next(files) == 'a'"
    )
    (tmp_path / "a").touch()
    printed = without_descriptors(begun, "print(list(files))", tmp_path, folder)
    place = os.path.join(tmp_path, folder) if folder else str(tmp_path)
    assert printed.startswith(f"CmtError '{place}': expected to look into it, got: Too many open files; use fewer")


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN])
def test_a_disk_or_server_that_fails_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fail(folder: str) -> NoReturn:
        raise OSError(number, os.strerror(number), folder)

    (tmp_path / "below").mkdir()
    files = list_files(tmp_path)
    (tmp_path / "a").touch()
    assert next(files) == "a"
    monkeypatch.setattr("runtime.listing.sorted_entries", fail)
    with pytest.raises(CmtError, match=r"/below': expected to look into it, got: .*; mend its disk or server") as got:
        list(files)
    assert got.value.exit_code == 1


PATTERNS = {
    "*.png": ["a.png"],
    "*": ["a.png", "b.jpg"],
    "**": [".hid/x.png", "a.png", "b.jpg", "sub/.dot.png", "sub/c.png", "sub/deep/d.png"],
    "**/*.png": ["a.png", "sub/c.png", "sub/deep/d.png"],
    "*/*.png": ["sub/c.png"],
    "sub/**/*.png": ["sub/c.png", "sub/deep/d.png"],
    "s?b/[cd].png": ["sub/c.png"],
    ".hid/*": [".hid/x.png"],
    "sub/.*": ["sub/.dot.png"],
    "*.gif": [],
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_match_as_in_a_shell(tmp_path: Path, pattern: str) -> None:
    for name in ("a.png", "b.jpg", "sub/c.png", "sub/deep/d.png", "sub/.dot.png", ".hid/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = list(list_files(tmp_path, pattern=pattern))
    if pattern != "**":
        assert found == PATTERNS[pattern]
    expected = glob.glob(pattern, root_dir=tmp_path, recursive=True)
    assert found == sorted(name for name in expected if (tmp_path / name).is_file())


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.png", (".", "*.png")),
        ("a/b/*.png", ("a/b", "*.png")),
        ("/*.png", ("/", "*.png")),
        ("/a/*/b", ("/a", "*/b")),
        ("../**", ("..", "**")),
    ],
)
def test_split_pattern(pattern: str, expected: tuple[str, str]) -> None:
    assert split_pattern(pattern) == expected


def test_counting(tmp_path: Path) -> None:
    for name in ("a", "b", "sub/c", "sub/deep/d"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert count_files(tmp_path) == 4
    assert count_files(tmp_path / "missing") == 1
