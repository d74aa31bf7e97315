"""Scoring one block, wherever it is done."""

from __future__ import annotations

import os
import stat
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from runtime.blocks import Block
from runtime.errors import ImageError
from runtime.files import max_bytes
from runtime.guard import Guard
from runtime.images import read
from runtime.inputs import Item, Remote, Source
from runtime.remote import fetch
from runtime.rows import Decoded, Loaded, judge
from runtime.sinks import FORMATS, Columns
from runtime.sorting import SortPlan, place
from runtime.spec import InputSpec
from runtime.summary import Outcome, Tally

_FETCHES = 16


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to do with blocks.

    Attributes:
        batch: Images per run.
        suffix: Of the output; says how rows are encoded.
        columns: Columns of the output.
        sort: Where to put the images by verdict; None leaves them where they are.
    """

    batch: int
    suffix: str
    columns: Columns
    sort: SortPlan | None = None


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The rows of a block.

    Attributes:
        block: Index of the block.
        inputs: SHA-256 over the names of its inputs.
        encoded: The rows, as the output's format has them.
        tally: Their outcomes.
    """

    block: int
    inputs: str
    encoded: bytes
    tally: Tally


def score_block(guard: Guard, block: Block, task: Task) -> Scored:
    """Decode, fit and judge a block, and encode its rows.

    Raises:
        ModelError: As for `Guard.classify`.
        CmtError: An image cannot be put where `task.sort` wants it.
        UsageError: An input needs a package that is missing.
    """
    spec = guard.spec.input
    sources = [_crashed() if i in block.crashing else item.source for i, item in enumerate(block.items)]
    if any(isinstance(source, Remote) for source in sources):
        with ThreadPoolExecutor(_FETCHES) as pool:
            sources = list(pool.map(lambda source: _here(source, spec), sources))
    keys = [item.key for item in block.items]
    files = [Loaded(key, _decode(source, spec), _size(source)) for key, source in zip(keys, sources, strict=True)]
    rows = list(judge(guard, files, task.batch))
    tally: Tally = Counter()
    classes = {*guard.spec.classes}
    for item, source, row in zip(block.items, sources, rows, strict=True):
        folder, slash, _ = item.name.partition("/")
        truth = folder if slash and folder in classes else ""
        tally[Outcome(truth, row.class_name, row.reason, row.failed)] += 1
        if task.sort is not None:
            place(task.sort, item.name, source, row)
    encoded = FORMATS[task.suffix].encode(rows, task.columns)
    return Scored(block=block.index, inputs=block.inputs, encoded=encoded, tally=tally)


def try_decoding(guard: Guard, item: Item) -> None:
    """Decode an input for nothing: whoever asks wants to know whether the process survives it."""
    _decode(_here(item.source, guard.spec.input), guard.spec.input)


def _here(source: Source, spec: InputSpec) -> Source:
    """Read an object that lies elsewhere."""
    if not isinstance(source, Remote):
        return source
    try:
        return fetch(source.uri, max_bytes=max_bytes(spec.max_pixels))
    except ImageError as error:
        return error


def _decode(source: Source, spec: InputSpec) -> Decoded:
    assert not isinstance(source, Remote)
    if isinstance(source, ImageError):
        return source
    try:
        return read(source, spec)
    except ImageError as error:
        return error


def _crashed() -> ImageError:
    return ImageError("expected an image, got a file that ends the process that decodes it", reason="unreadable")


def _size(source: Source) -> int | None:
    if isinstance(source, bytes):
        return len(source)
    try:
        status = os.stat(source) if isinstance(source, str) else None
    except (OSError, ValueError):
        return None
    return status.st_size if status is not None and stat.S_ISREG(status.st_mode) else None
