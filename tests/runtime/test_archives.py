from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from importlib import import_module
from pathlib import Path

import pytest

from runtime.archives import read_archive
from runtime.errors import ImageError, UsageError

MEMBERS = {"b.png": b"second", "sub/a.png": b"first", "\U0001f600.png": b"", "../up.png": b"never extracted"}


def write_tar(path: Path, mode: str) -> None:
    with tarfile.open(path, mode) as archive:
        folder = tarfile.TarInfo("sub")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in MEMBERS.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("sub")
        for name, content in MEMBERS.items():
            archive.writestr(name, content)


def read(path: Path, limit: int = 1000) -> list[tuple[str, bytes | str]]:
    members = read_archive(str(path), max_bytes=limit)
    return [(name, content.reason if isinstance(content, ImageError) else content) for name, content in members]


@pytest.mark.parametrize(
    ("suffix", "mode"), [(".tar", "w"), (".tar.gz", "w:gz"), (".tbz2", "w:bz2"), (".tar.xz", "w:xz")]
)
def test_tar(tmp_path: Path, suffix: str, mode: str) -> None:
    path = tmp_path / f"images{suffix}"
    write_tar(path, mode)
    assert read(path) == list(MEMBERS.items())
    assert sorted(tmp_path.parent.glob("up.png")) == []


def test_zip(tmp_path: Path) -> None:
    write_zip(tmp_path / "images.zip")
    assert read(tmp_path / "images.zip") == list(MEMBERS.items())


def test_links_and_devices_get_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "images.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in (("soft", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE), ("pipe", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    assert read(path) == [("soft", "not-a-file"), ("hard", "not-a-file"), ("pipe", "not-a-file")]


def test_a_bomb_is_too_large_whatever_its_header_says(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(1 << 22))
        archive.writestr("after.png", b"fine")
    assert read(path) == [("bomb.png", "too-large"), ("after.png", b"fine")]
    data = path.read_bytes()
    lying = data.replace((1 << 22).to_bytes(4, "little"), (5).to_bytes(4, "little"))
    path.write_bytes(lying)
    assert [name for name, content in read(path) if content != b"fine"] == ["bomb.png"]
    with gzip.open(tmp_path / "bomb.tar.gz", "wb") as file:
        member = tarfile.TarInfo("bomb.png")
        member.size = 1 << 22
        file.write(member.tobuf() + bytes(1 << 22) + bytes(1024))
    assert read(tmp_path / "bomb.tar.gz") == [("bomb.png", "too-large")]


def test_a_header_as_large_as_a_bomb(tmp_path: Path) -> None:
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 1 << 30
    with gzip.open(tmp_path / "bomb.tar.gz", "wb") as file:
        file.write(header.tobuf() + bytes(1 << 22))
    with pytest.raises(UsageError, match="expected an intact archive, got: a header of 1073741824 bytes"):
        read(tmp_path / "bomb.tar.gz")


def test_an_encrypted_or_damaged_member_gets_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("damaged.png", b"content of a file")
        archive.writestr("after.png", b"fine")
    path.write_bytes(path.read_bytes().replace(b"content of", b"CONTENT of"))
    assert read(path) == [("damaged.png", "unreadable"), ("after.png", b"fine")]
    data = bytearray(path.read_bytes())
    for start, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(start) + offset] |= 1  # the flag for encryption
    path.write_bytes(data)
    assert read(path) == [("damaged.png", "unreadable"), ("after.png", b"fine")]


@pytest.mark.parametrize("cut", [0, 100, 512, 700, 1024, 1536, 2000])
def test_a_tar_that_was_cut_short_is_never_taken_for_a_shorter_one(tmp_path: Path, cut: int) -> None:
    write_tar(tmp_path / "whole.tar", "w")
    path = tmp_path / "cut.tar"
    path.write_bytes((tmp_path / "whole.tar").read_bytes()[:cut])
    with pytest.raises(UsageError, match="expected an intact archive, got"):
        read(path)


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    write_tar(tmp_path / "images.tar", "w")
    data = bytearray((tmp_path / "images.tar").read_bytes())
    data[1536] ^= 0xFF  # the second file's name
    (tmp_path / "images.tar").write_bytes(data)
    with pytest.raises(UsageError, match="expected an intact archive, got: bad checksum"):
        read(tmp_path / "images.tar")


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.tar", b"no archive" * 100), ("a.tar.gz", b"\x1f\x8bno gzip"), ("a.zip", b"no archive"), ("a.zip", b"")],
)
def test_no_archive(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=r"expected an? (intact|readable) archive, got"):
        read(tmp_path / name)


@pytest.mark.parametrize("name", ["a.tar", "a.zip"])
def test_a_missing_archive(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="expected a readable archive, got: No such file or directory; check the path"):
        read(tmp_path / name)


@pytest.mark.parametrize("module", ["gzip", "bz2", "lzma"])
def test_compressed_streams_put_together_are_one_archive(tmp_path: Path, module: str) -> None:
    write_tar(tmp_path / "images.tar", "w")
    plain, compress = (tmp_path / "images.tar").read_bytes(), import_module(module).compress
    (tmp_path / "images.tar.gz").write_bytes(compress(plain[:700]) + compress(plain[700:]))
    assert read(tmp_path / "images.tar.gz") == list(MEMBERS.items())


def test_a_wrong_checksum_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "images.tar.gz"
    write_tar(path, "w:gz")
    path.write_bytes(path.read_bytes()[:-8] + bytes(8))
    with pytest.raises(UsageError, match="archive, got: CRC check failed"):
        read(path)


def test_rows_behind_the_end_are_not_lost_in_silence(tmp_path: Path) -> None:
    write_tar(tmp_path / "images.tar", "w")
    (tmp_path / "images.tar").write_bytes((tmp_path / "images.tar").read_bytes() * 2)
    with pytest.raises(UsageError, match="intact archive, got: data behind the end of the archive"):
        read(tmp_path / "images.tar")


def test_a_zip_member_without_a_name_has_its_row(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo(""), b"nameless")
    assert read(tmp_path / "images.zip") == [("", b"nameless")]
