"""Score a folder: every file in it gets exactly one row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.atomic import atomic_output
from runtime.errors import UsageError
from runtime.guard import BATCH, Guard
from runtime.listing import key, list_files
from runtime.rows import classify_files
from runtime.sinks import sink_for


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How many rows of each kind were written.

    Attributes:
        images: All rows.
        accepted: Rows with a verdict to act on.
        rejected: Rows the guard rejected, by reason.
        failed: Rows of files that could not be used, by reason.
    """

    images: int
    accepted: int
    rejected: dict[str, int]
    failed: dict[str, int]


def score_folder(
    guard: Guard,
    folder: Path,
    output: Path,
    *,
    logits: bool = False,
    batch: int = BATCH,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Summary:
    """Write one row for every file in a folder; the output appears whole or not at all.

    Args:
        guard: The guard to ask.
        folder: Where the images are; subfolders are included.
        output: File to write: .csv, .jsonl or .parquet. It gets no row of its own.
        logits: Write Z* too.
        batch: Images per run, at least 1.
        progress: Called with rows done and rows in all, after every row.

    Returns:
        The counts.

    Raises:
        UsageError: No folder, no file in it, an unknown suffix, pyarrow missing, or `batch` below 1.
        CmtError: The output cannot be written.
        ModelError: As for `Guard.classify`.
    """
    sink = sink_for(output)
    paths = list(list_files(folder, leave_out=output))
    if not paths:
        raise UsageError(f"{str(folder)!a}: expected at least one file, got an empty folder; check the path")
    rejected: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    with atomic_output(output) as temporary, sink(temporary, guard.digest, logits) as write:
        rows = classify_files(guard, paths, batch=batch)
        for done, (path, row) in enumerate(zip(paths, rows, strict=True), start=1):
            write(replace(row, path=key(path, folder)))
            if row.reason:
                (failed if row.failed else rejected)[row.reason] += 1
            progress(done, len(paths))
    accepted = len(paths) - rejected.total() - failed.total()
    return Summary(images=len(paths), accepted=accepted, rejected=dict(rejected), failed=dict(failed))
