from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from runtime.files import NotRegularError, max_bytes, open_regular


def test_the_limit_of_bytes_follows_the_limit_of_pixels() -> None:
    assert max_bytes(100) == 800 + (1 << 20)


def test_a_file_and_a_link_to_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"abc"


@pytest.mark.parametrize("kind", ["folder", "pipe", "socket", "device", "link to device"])
def test_anything_else_is_refused_without_waiting(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("x")
    else:
        path = Path("/dev/zero")
    if kind == "link to device":
        path = tmp_path / "zero"
        path.symlink_to("/dev/zero")
    with pytest.raises(NotRegularError, match="a folder, pipe, socket or device"):
        open_regular(path)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No such file"):
        open_regular(tmp_path / "missing")


def test_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="Too many levels"):
        open_regular(tmp_path / "loop")
