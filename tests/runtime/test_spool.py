from __future__ import annotations

import resource
import tempfile
from pathlib import Path

import pytest

from runtime import spool as module
from runtime.errors import CmtError
from runtime.spool import Spool
from tests.runtime.limits import limited, without_descriptors

LINE = "expected to sort the names of a large folder there, got: "


@pytest.mark.parametrize("read", [1, 3, 8192])
def test_runs_are_merged(read: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_READ", read)
    spool = Spool()
    for run in ([b"a", b"long record"], [], [b"b", b"z"], [b"a\n"]):
        spool.append(run)
    assert list(spool.merged()) == [b"a", b"a\n", b"b", b"long record", b"z"]


def test_a_full_folder_is_one_line_that_names_it() -> None:
    spool = Spool()
    expected = f"^temporary folder '{tempfile.gettempdir()}': {LINE}File too large; free some"
    with pytest.raises(CmtError, match=expected), limited(resource.RLIMIT_FSIZE, 100):
        spool.append([b"name" * 30])
    spool.close()


def test_no_folder_that_takes_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "missing")])
    with pytest.raises(CmtError, match=f"^temporary folder: {LINE}No usable temporary directory found .*TMPDIR"):
        Spool()


def test_no_descriptor_left_is_not_taken_for_a_full_folder() -> None:
    printed = without_descriptors("import tempfile\nfrom runtime.spool import Spool", "Spool()")
    assert printed.startswith("CmtError temporary folder: ")
    assert "got: Too many open files; use fewer --threads, or allow more open files with ulimit -n" in printed
