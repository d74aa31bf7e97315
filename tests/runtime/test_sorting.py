from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import NoReturn

import pytest

from runtime.errors import CmtError, ImageError, UsageError
from runtime.inputs import Source
from runtime.rows import Row
from runtime.sorting import SortPlan, place
from tests.runtime.privileges import without_privileges

KEPT = Row(path="", label=0, class_name="cat", accepted=True, confidence=1.0)
REFUSED = Row(path="", label=0, class_name="cat", confidence=1.0, reason="pair-mismatch")
BAD = Row(path="", reason="unreadable")


@pytest.fixture
def image(tmp_path: Path) -> str:
    (tmp_path / "image.png").write_bytes(b"content")
    return str(tmp_path / "image.png")


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("link", ["", "hard", "symbolic"])
def test_images_go_where_their_verdict_says(tmp_path: Path, image: str, link: str) -> None:
    plan = SortPlan(folder=str(tmp_path / "out"), link=link)
    for _ in range(2):  # doing it again changes nothing
        place(plan, "sub/a.png", image, KEPT)
        place(plan, "sub/b.png", image, REFUSED)
        place(plan, "c.png", image, BAD)
    names = ["accepted/cat/sub/a.png", "rejected/c.png", "rejected/sub/b.png"]
    assert tree(tmp_path / "out") == dict.fromkeys(names, b"content")
    kept = tmp_path / "out" / names[0]
    assert kept.is_symlink() == (link == "symbolic")
    assert kept.samefile(image) == (link != "")


def test_hard_links_stay_on_one_file_system(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"got 'a\.png' on another; use --link symbolic"):
        place(SortPlan(folder=str(tmp_path / "out"), link="hard"), "a.png", "/proc/version", KEPT)


def test_content_of_an_archive_is_written(tmp_path: Path) -> None:
    place(SortPlan(folder=str(tmp_path / "out")), "a.png", b"content", KEPT)
    assert tree(tmp_path / "out") == {"accepted/cat/a.png": b"content"}


def test_what_cannot_be_opened_now_is_not_left_out(tmp_path: Path, image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str) -> NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)

    monkeypatch.setattr("runtime.sorting.open_regular", fail)
    with pytest.raises(CmtError, match="got: Too many open files; use fewer --threads"):
        place(SortPlan(folder=str(tmp_path / "out")), "a.png", image, KEPT)


@pytest.mark.parametrize("link", ["", "hard", "symbolic"])
@pytest.mark.parametrize("source", ["missing", "pipe", ImageError("expected ...", reason="not-a-file")], ids=str)
def test_what_cannot_be_read_stays(tmp_path: Path, link: str, source: Source) -> None:
    os.mkfifo(tmp_path / "pipe")
    source = str(tmp_path / source) if isinstance(source, str) else source
    place(SortPlan(folder=str(tmp_path / "out"), link=link), "a.png", source, BAD)
    assert tree(tmp_path / "out") == {}


def test_what_opens_and_cannot_be_read_stays(tmp_path: Path) -> None:
    (tmp_path / "memory").symlink_to("/proc/self/mem")
    place(SortPlan(folder=str(tmp_path / "out")), "a.png", str(tmp_path / "memory"), BAD)
    assert tree(tmp_path / "out") == {}


@pytest.mark.parametrize(
    "name", ["../a.png", "/abs/a.png", "sub/../../a.png", "./a.png", "a//b.png", "nul\0.png", "..", "-o"]
)
def test_no_name_leads_out(tmp_path: Path, image: str, name: str) -> None:
    place(SortPlan(folder=str(tmp_path / "in" / "out")), name, image, KEPT)
    outside = {path for path in tree(tmp_path) if not path.startswith("in/out/accepted/cat/")}
    assert outside == {"image.png"}


def test_no_class_leads_out_and_no_two_share_a_folder(tmp_path: Path, image: str) -> None:
    names = ["..", ".", "a/b", "a%2Fb", "../../up", "é", "con\\aux", "%2E", "%2E.", "a" * 300, "a" * 301]
    for name in names:
        row = Row(path="", label=0, class_name=name, accepted=True, confidence=1.0)
        place(SortPlan(folder=str(tmp_path / "out")), "a.png", image, row)
    folders = list((tmp_path / "out" / "accepted").iterdir())
    assert len(folders) == len(names)
    assert {path.name for folder in folders for path in folder.iterdir()} == {"a.png"}


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("猫" * 29, "猫" * 29),
        ("a b/é.", "a b%2Fé."),
        ("猫" * 85, "猫" * 85),
        ("猫" * 86, "猫" * 63 + "%-" + sha256(("猫" * 86).encode()).hexdigest()),
        ("a" * 256, "a" * 189 + "%-" + sha256(b"a" * 256).hexdigest()),
        ("\u202ecat\xa0", "%E2%80%AEcat%C2%A0"),
    ],
    ids=["Chinese", "mixed", "longest", "too long", "ASCII", "unseen"],
)
def test_a_class_of_any_name_has_a_folder(tmp_path: Path, image: str, name: str, folder: str) -> None:
    row = Row(path="", label=0, class_name=name, accepted=True, confidence=1.0)
    place(SortPlan(folder=str(tmp_path / "out")), "a.png", image, row)
    assert set(tree(tmp_path / "out")) == {f"accepted/{folder}/a.png"}


def test_a_half_written_copy_of_a_killed_run_is_replaced(tmp_path: Path, image: str) -> None:
    plan = SortPlan(folder=str(tmp_path / "out"))
    place(plan, "a.png", image, KEPT)
    folder = tmp_path / "out" / "accepted" / "cat"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(CmtError, match="expected to write it, got: No space left"):
            place(plan, "a.png", image, KEPT)
    assert os.listdir(folder) == ["a.png"]


def test_an_unwritable_place_is_one_line(public_folder: Path, image: str) -> None:
    (public_folder / "out").mkdir(mode=0o555)
    os.chmod(image, 0o644)
    with without_privileges(), pytest.raises(CmtError, match="expected to write it, got: Permission denied"):
        place(SortPlan(folder=str(public_folder / "out")), "a.png", b"content", KEPT)


def test_kinds_of_links() -> None:
    with pytest.raises(UsageError, match="--link: expected hard or symbolic, got 'soft'"):
        SortPlan(folder="out", link="soft")


@pytest.mark.parametrize("name", [".", "x" * 300, "/".join(["y" * 200] * 30), "folder", "folder/a.png/b.png"])
def test_a_name_no_file_can_have_there_is_replaced(tmp_path: Path, image: str, name: str) -> None:
    plan = SortPlan(folder=str(tmp_path / "out"))
    place(plan, "folder/a.png", image, KEPT)
    place(plan, name, image, KEPT)
    found = tree(tmp_path / "out" / "accepted" / "cat")
    assert len(found) == 2
    assert {path.split("/")[0] for path in found} == {"folder", "renamed"}


def test_steps_up_do_not_depend_on_the_current_folder(tmp_path: Path, image: str) -> None:
    for name in ("../../a.png", "..b/a.png", "a.png"):
        place(SortPlan(folder=str(tmp_path / "out")), name, image, KEPT)
    assert set(tree(tmp_path / "out" / "accepted" / "cat")) == {"__/__/a.png", "..b/a.png", "a.png"}


@pytest.mark.parametrize(
    "names",
    [
        ("../a.png", "__/a.png"),
        ("=x.png", "./=x.png", "%2E/=x.png"),
        ("/x/a.png", "x/a.png", "%2F/x/a.png"),
        ("x/a.png", "x//a.png", "x/./a.png", "y/../x/a.png"),
        ("s3://x/a.png", "s3:/x/a.png", "s3:/%2F/x/a.png"),
        ("..", f"renamed/{sha256(b'__').hexdigest()}", "__"),
    ],
    ids=["step up", "here", "root", "spellings", "object", "renamed"],
)
def test_no_name_takes_the_place_of_another(tmp_path: Path, names: tuple[str, ...]) -> None:
    """In an archive or a store, every spelling is a file of its own."""
    for _ in range(2):  # doing it again changes nothing
        for name in names:
            place(SortPlan(folder=str(tmp_path / "out")), name, name.encode(), KEPT)
    assert sorted(tree(tmp_path / "out").values()) == sorted(name.encode() for name in names)


@pytest.mark.parametrize(
    ("name", "place_there"),
    [
        ("./sub/a.png", "sub/a.png"),
        ("sub//./a.png", "sub/a.png"),
        ("/sub/a.png", "%2F/sub/a.png"),
        ("../a.png", "__/a.png"),
        ("file:///sub/a.png", "file:/%2F/%2F/sub/a.png"),
    ],
    ids=["here", "spelling", "root", "step up", "uri"],
)
def test_a_file_on_disk_keeps_its_path(tmp_path: Path, image: str, name: str, place_there: str) -> None:
    place(SortPlan(folder=str(tmp_path / "out")), name, image, KEPT)
    assert set(tree(tmp_path / "out")) == {f"accepted/cat/{place_there}"}


def test_the_same_name_at_once_is_one_whole_file(tmp_path: Path) -> None:
    content = bytes(1 << 16)
    plan = SortPlan(folder=str(tmp_path / "out"))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: place(plan, "a.png", content, KEPT), range(200)))
    assert (tmp_path / "out" / "accepted" / "cat" / "a.png").read_bytes() == content
    assert os.listdir(tmp_path / "out" / plan.scratch) == []
