"""What `cmt score` can read images from: a folder, a glob, a manifest, an archive, or paths on standard input."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias

from runtime import archives, manifests
from runtime.errors import ImageError, UsageError
from runtime.files import max_bytes
from runtime.listing import MAGIC, count_files, key, list_files, split_pattern
from runtime.remote import is_uri, local_path
from runtime.spec import InputSpec

MANIFESTS = (".csv", ".jsonl", ".parquet")


class Remote(NamedTuple):
    """An object that a URI names."""

    uri: str


Source: TypeAlias = str | bytes | Remote | ImageError
"""A path, the content itself, an object elsewhere, or why there is none of them."""


class Item(NamedTuple):
    """One input.

    Attributes:
        key: Its name in its row.
        name: Its name before it was escaped; relative where there is a folder it lies in.
        source: Where its bytes are.
    """

    key: str
    name: str
    source: Source


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """A stream of inputs.

    Attributes:
        kind: ``folder``, ``glob``, ``manifest``, ``archive`` or ``stdin``.
        place: What was named, absolute.
        items: Starts the stream; every call starts it anew, except on standard input.
        count: About how many items there are; None where only reading tells. May take a while.
        folder: The folder that is scored; empty where there is none.
    """

    kind: str
    place: str
    items: Callable[[], Generator[Item, None, None]]
    count: Callable[[], int | None]
    folder: str = ""


def open_inputs(
    text: str,
    *,
    spec: InputSpec,
    column: str | None = None,
    null: bool = False,
    leave_out: Sequence[str | os.PathLike[str]] = (),
) -> Inputs:
    """Say what a text on the command line names.

    Args:
        text: A folder; a glob that is no existing path; a .csv, .jsonl or .parquet manifest, whose relative paths
            start at its own folder; a .tar or .zip; or ``-`` for paths on standard input.
        spec: What the guard takes: bounds what is read of a member of an archive.
        column: Column of a manifest; by default ``path``, else ``uri``.
        null: Paths on standard input end with null bytes.
        leave_out: Files and folders that are no inputs: the output.

    Raises:
        UsageError: It is none of them, or an option does not belong to it. What is wrong with a folder or a file shows
            when it is read.
    """
    suffix = os.path.splitext(text)[1]
    is_file = os.path.isfile(text)
    if column is not None and not (is_file and suffix in MANIFESTS):
        raise UsageError(f"--column: expected a .csv, .jsonl or .parquet manifest beside it, got {text!a}")
    if null and text != "-":
        raise UsageError(f"--null: expected - for paths on standard input beside it, got {text!a}")
    if text == "-":
        names = partial(manifests.read_standard_input, null=null)
        return Inputs(kind="stdin", place="-", items=lambda: _listed(names(), os.curdir), count=lambda: None)
    place = os.path.abspath(text)
    if is_file and suffix in MANIFESTS:
        return Inputs(
            kind="manifest",
            place=place,
            items=lambda: _listed(manifests.read_manifest(place, column), os.path.dirname(place)),
            count=lambda: manifests.count_rows(place),
        )
    if is_file and text.endswith(archives.SUFFIXES):
        limit = max_bytes(spec.max_pixels)
        return Inputs(kind="archive", place=place, items=lambda: _archived(place, limit), count=lambda: None)
    if not os.path.lexists(text) and MAGIC.search(text):
        folder, pattern = split_pattern(text)
        return Inputs(
            kind="glob",
            place=os.path.join(os.path.realpath(folder), pattern),
            items=lambda: _found(folder, pattern, leave_out),
            count=lambda: None,
            folder=folder,
        )
    return Inputs(
        kind="folder",
        place=os.path.realpath(text),
        items=lambda: _found(text, "", leave_out),
        count=lambda: count_files(text),
        folder=text,
    )


def _found(folder: str, pattern: str, leave_out: Sequence[str | os.PathLike[str]]) -> Generator[Item, None, None]:
    for name in list_files(folder, pattern=pattern, leave_out=leave_out):
        yield Item(key(name), name, os.path.join(folder, name))


def _listed(names: Iterator[str], folder: str) -> Generator[Item, None, None]:
    for name in names:
        if not is_uri(name):
            source: Source = os.path.join(folder, name)
        else:
            path = local_path(name)
            source = Remote(name) if path is None else path
        yield Item(key(name), name, source)


def _archived(archive: str, limit: int) -> Generator[Item, None, None]:
    for name, content in archives.read_archive(archive, max_bytes=limit):
        yield Item(key(name), name, content)
