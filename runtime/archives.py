"""Images in tar and zip archives, streamed: nothing is extracted, and a bomb is met by its size."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterator
from importlib import import_module
from typing import IO, Self, cast

from runtime.causes import remedy
from runtime.errors import ImageError, UsageError, one_line

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".zip")
_COMPRESSIONS = ((b"\x1f\x8b", "gzip"), (b"BZh", "bz2"), (b"\xfd7zXZ\0", "lzma"))
_CHUNK = 1 << 20
_HEADER_LIMIT = 1 << 20
_LONG_HEADERS = {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE} | {
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
}


def read_archive(archive: str, *, max_bytes: int) -> Iterator[tuple[str, bytes | ImageError]]:
    """Yield the members of an archive in its order, folders left out.

    Args:
        archive: Path of a .tar (also compressed) or .zip file.
        max_bytes: Largest member that is read; a larger one is ``too-large``, whatever its header says.

    Yields:
        Name, and content or why the member cannot be used.

    Raises:
        UsageError: The archive cannot be read, is damaged or cut short.
    """
    members = _zip_members if archive.endswith(".zip") else _tar_members
    try:
        yield from members(archive, max_bytes)
    except OSError as error:
        got = error.strerror or one_line(error)
        mend = remedy(error, "check the path")
        raise UsageError(f"{archive!a}: expected a readable archive, got: {got}; {mend}") from None
    except Exception as error:  # damaged bytes surface as many things
        raise UsageError(f"{archive!a}: expected an intact archive, got: {one_line(error)}") from None


class _DamagedError(tarfile.TarError):
    """A header that is none: `tarfile` takes it for the end of the archive, and rows would be lost."""


class _Member(tarfile.TarInfo):
    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if member.type in _LONG_HEADERS and member.size > _HEADER_LIMIT:
            raise _DamagedError(f"a header of {member.size} bytes")
        return member

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile)
        except _HeaderError as error:
            if isinstance(error, _EOFHeaderError):
                raise  # the two empty blocks that end every archive
            raise _DamagedError(str(error) or "a damaged header") from None


_HeaderError: type[Exception] = tarfile.HeaderError
_EOFHeaderError: type[Exception] = tarfile.EOFHeaderError  # type: ignore[attr-defined]


def _tar_members(archive: str, max_bytes: int) -> Iterator[tuple[str, bytes | ImageError]]:
    with _decompressed(archive) as stream, tarfile.open(fileobj=stream, mode="r|", tarinfo=_Member) as opened:
        for member in opened:
            opened.members = []  # type: ignore[attr-defined]  # it would keep every header
            if member.isdir():
                continue
            file = opened.extractfile(member) if member.isfile() else None
            if file is None:
                yield member.name, ImageError("expected a regular file, got a link or device", reason="not-a-file")
            else:
                yield member.name, _content(file, member.size, max_bytes)
        _check_end(stream)


def _decompressed(archive: str) -> IO[bytes]:
    """Open a file and whatever compression it has, in one stream or several."""
    with open(archive, "rb") as file:
        start = file.read(6)
    for magic, module in _COMPRESSIONS:
        if start.startswith(magic):
            return cast(IO[bytes], import_module(module).open(archive, "rb"))
    return open(archive, "rb")


def _check_end(stream: IO[bytes]) -> None:
    """Read what is left: compressed streams check their sums at their end, and rows behind the end would be lost."""
    while rest := stream.read(_CHUNK):
        if rest.strip(b"\0"):
            raise _DamagedError("data behind the end of the archive, as from files put together")


def _zip_members(archive: str, max_bytes: int) -> Iterator[tuple[str, bytes | ImageError]]:
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            if member.filename.endswith("/"):
                continue
            content: bytes | ImageError
            try:
                with opened.open(member) as file:
                    content = _content(file, member.file_size, max_bytes)
            except Exception as error:  # encrypted, damaged, an unknown method: each its own exception
                content = ImageError(f"expected a readable member, got: {one_line(error)}", reason="unreadable")
            yield member.filename, content


def _content(file: IO[bytes], size: int, max_bytes: int) -> bytes | ImageError:
    content = file.read(max_bytes + 1) if size <= max_bytes else b""
    if size > max_bytes or len(content) > max_bytes:
        return ImageError(f"expected at most {max_bytes} bytes, got more", reason="too-large")
    return content
