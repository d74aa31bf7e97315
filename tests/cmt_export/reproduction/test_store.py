import errno
import json
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

from cmt_export.reproduction.sharing import sharing
from cmt_export.reproduction.store import Store, clear
from cmt_export.reproduction.unit import Unit, Work
from runtime.errors import CmtError, UsageError


@dataclass(frozen=True, kw_only=True)
class Text(Unit):
    """Writes what it is told behind what it needs."""

    kind: ClassVar[str] = "text"
    files: ClassVar[tuple[str, ...]] = ("text.txt",)
    text: str
    after: tuple[Unit, ...] = ()

    @property
    def title(self) -> str:
        return f"write {self.text}"

    def run(self, work: Work) -> None:
        before = "".join((work.of(unit) / "text.txt").read_text() for unit in self.after)
        (work.folder / "text.txt").write_text(before + self.text)

    def seconds(self, pace) -> float:
        return 1.0


A = Text(text="a")
B = Text(text="b", after=(A,))


@pytest.fixture
def store(tmp_path, digits):
    return Store(tmp_path / "work", name="digits", data=digits)


def _do(store: Store, *units: Text, data=None) -> None:
    for unit in units:
        folder = store.begin(unit)
        unit.run(
            Work(
                folder=folder,
                data=data,
                of=store.folder,
                device="cpu",
                threads=1,
                report=lambda done, total: None,
                command="",
            )
        )
        store.finish(unit, seconds=0.5, device="cpu", threads=1)


def _again(store: Store, digits) -> Store:
    return Store(store.path, name="digits", data=digits)


def test_a_finished_unit_is_found_again(store, digits):
    assert store.find(B) is None
    _do(store, A, B)
    record = _again(store, digits).find(B)
    assert (record.title, record.seconds, record.options["text"]) == ("write b", 0.5, "b")
    assert record.needs == {store.key(A): store.find(A).digest}
    assert store.find(replace(B, text="c")) is None


def test_a_unit_that_was_stopped_before_its_record_does_not_count(store, digits):
    _do(store, A)
    folder = store.begin(B)
    (folder / "text.txt").write_text("ab")
    assert _again(store, digits).find(B) is None


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "text.txt").write_text("x"), "text.txt is damaged"),
        (lambda folder: (folder / "text.txt").write_text(""), "text.txt is damaged"),
        (lambda folder: (folder / "text.txt").unlink(), "text.txt is damaged"),
        (lambda folder: (folder / "unit.json").write_text('{"kind": "te'), "its record cannot be read"),
        (lambda folder: (folder / "unit.json").write_text("[]"), "its record cannot be read"),
        (lambda folder: (folder / "unit.json").write_bytes(b"\xff\x00"), "its record cannot be read"),
        (lambda folder: _edit(folder, key="0" * 64), "its record is another one's"),
        (lambda folder: _edit(folder, files={}), "its record is another one's"),
        (lambda folder: _edit(folder, needs={}), "what it was made from has changed"),
    ],
    ids=["changed", "truncated", "gone", "half a record", "a list", "no text", "key", "files", "needs"],
)
def test_damage_is_noticed_and_named(store, digits, damage, reason):
    _do(store, A, B)
    damage(store.folder(B))
    opened = _again(store, digits)
    assert opened.find(B) is None
    assert opened.what_is_wrong(B) == reason
    assert opened.find(A) is not None
    _do(opened, B)
    assert opened.find(B) is not None
    assert opened.what_is_wrong(B) == ""


def _edit(folder, **changes):
    document = json.loads((folder / "unit.json").read_text())
    (folder / "unit.json").write_text(json.dumps(document | changes))


def test_what_was_made_from_something_else_is_made_again(store, digits):
    """The same key, other bits: a training that chose another precision, say."""
    _do(store, A, B)
    opened = _again(store, digits)
    folder = opened.begin(A)
    assert opened.find(B) is None  # while it is being made
    (folder / "text.txt").write_text("other bits")
    opened.finish(A, seconds=1, device="cpu", threads=1)
    assert opened.find(B) is None
    assert opened.what_is_wrong(B) == "what it was made from has changed"
    _do(opened, A)
    assert opened.find(B) is not None  # the old bits are back


def test_the_folder_of_something_else_is_refused(tmp_path, digits):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="expected a folder, got a file; name another"):
        Store(tmp_path / "file", name="digits", data=digits)
    with pytest.raises(UsageError, match="expected an empty folder or the work folder of digits, got something else"):
        Store(tmp_path, name="digits", data=digits)
    Store(tmp_path / "work", name="mnist", data=digits)
    with pytest.raises(UsageError, match="work folder of digits, got the one of mnist; name another"):
        Store(tmp_path / "work", name="digits", data=digits)


_HOLD = """
import sys
from pathlib import Path
from cmt_export.reproduction.sharing import sharing
with sharing(Path(sys.argv[1])) as claim, claim(sys.argv[2]) as mine:
    print(mine, flush=True)
    sys.stdin.read()
"""


def test_a_unit_belongs_to_one_process_until_that_is_gone(store):
    first, second = store.key(A), store.key(B)
    with (
        subprocess.Popen(
            [sys.executable, "-c", _HOLD, store.path, first], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other,
        sharing(store.path) as claim,
    ):
        assert other.stdout.readline() == "True\n"
        with claim(first) as taken, claim(second) as free:
            assert (taken, free) == (False, True)
        other.kill()
        other.wait()
        with claim(first) as freed:
            assert freed


def test_a_lock_that_cannot_be_written_is_one_line(store):
    (store.path / "lock").mkdir()
    with pytest.raises(CmtError, match="lock': expected to write it, got: Is a directory"), sharing(store.path):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_every_claim_is_granted_where_the_disk_has_no_locks(store, monkeypatch, number):
    def lockf(*_):
        raise OSError(number, "no locks")

    monkeypatch.setattr("fcntl.lockf", lockf)
    with sharing(store.path) as claim, claim(store.key(A)) as mine:
        assert mine


def test_a_lock_that_fails_otherwise_is_one_line(store, monkeypatch):
    def lockf(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("fcntl.lockf", lockf)
    with sharing(store.path) as claim, pytest.raises(CmtError, match="expected to lock a file"), claim(store.key(A)):
        pass


@pytest.mark.parametrize("name", [".tmp-1-work.json", "lock"])
def test_a_folder_whose_first_run_was_killed_at_once_is_taken(tmp_path, digits, name):
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / name).write_text("")
    assert Store(folder, name="digits", data=digits).find(A) is None
    assert (folder / "work.json").exists()


def test_clear_leaves_an_empty_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("")
    (tmp_path / "file").write_text("")
    clear(tmp_path)
    assert list(tmp_path.iterdir()) == []
