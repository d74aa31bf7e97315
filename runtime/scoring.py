"""Score inputs of any number: every one gets exactly one row, whatever is killed on the way."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path

from runtime.atomic import atomic_output
from runtime.blocks import Block, Shard, cut, digest_of
from runtime.counting import in_background
from runtime.cpus import usable_cpus
from runtime.engines import Engine, in_threads
from runtime.errors import CmtError, UsageError
from runtime.guard import BATCH, Guard
from runtime.inputs import Inputs, open_inputs
from runtime.journal import Job, Journal, Part, parts_folder
from runtime.rows import check_files
from runtime.sinks import Columns, format_for
from runtime.sorting import SortPlan, scratch_for
from runtime.summary import Outcome, Summary, Tally, summarize
from runtime.tasks import Scored, Task
from runtime.versions import decisive_versions

PART_BYTES, PART_SECONDS = 1 << 22, 1.0
"""A part is finished as soon as it has so many bytes or took so long: what a kill costs at most."""

Progress = Callable[[int, int | None], None]
"""Told of rows done, and about how many there are in all; None while that is not known."""


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """How to score.

    Attributes:
        logits: Write Z* too.
        batch: Images per run, 1 to 65,536.
        shard: Which share of the inputs to score.
        max_errors: Stop once more inputs than this could not be used; None never stops.
        sort: Where to put the images by verdict; None leaves them where they are.
        fresh: Forget what an earlier run of the same job finished.
    """

    logits: bool = False
    batch: int = BATCH
    shard: Shard = field(default_factory=Shard)
    max_errors: int | None = None
    sort: SortPlan | None = None
    fresh: bool = False

    def __post_init__(self) -> None:
        """Check what is not checked by its own type."""
        if self.max_errors is not None and self.max_errors < 0:
            raise UsageError(f"--max-errors: expected a number >= 0, got {self.max_errors}")


def score_folder(
    guard: Guard,
    folder: str | os.PathLike[str],
    output: Path,
    *,
    logits: bool = False,
    batch: int = BATCH,
    progress: Progress = lambda done, total: None,
) -> Summary:
    """Write one row for every file in a folder; the output appears whole or not at all.

    Args:
        guard: The guard to ask.
        folder: Where the images are; subfolders are included.
        output: File to write: .csv, .jsonl or .parquet. It gets no row of its own.
        logits: Write Z* too.
        batch: Images per run, 1 to 65,536.
        progress: Told how far it has come.

    Returns:
        The counts.

    Raises:
        UsageError: No folder, no file in it, an unknown suffix, pyarrow missing, or `batch` out of range.
        CmtError: The output cannot be written.
        ModelError: As for `Guard.classify`.
    """
    check_files(guard, batch)
    inputs = open_inputs(os.fspath(folder), spec=guard.spec.input, leave_out=own_files(output))
    engine = partial(in_threads, threads=usable_cpus())
    options = ScoreOptions(logits=logits, batch=batch)
    return score(guard, inputs, output, options=options, engine=engine, progress=progress)


def own_files(output: Path) -> tuple[Path, Path]:
    """Return what scoring writes and never reads: the output and its parts."""
    return output, parts_folder(output)


def score(
    guard: Guard,
    inputs: Inputs,
    output: Path,
    *,
    options: ScoreOptions,
    engine: Engine,
    progress: Progress = lambda done, total: None,
) -> Summary:
    """Write one row for every input; the output appears whole or not at all, and a killed run goes on where it was.

    Args:
        guard: The guard to ask; rows of one output are the same to the bit where it runs one thread an operator.
        inputs: What to score.
        output: File to write: .csv, .jsonl or .parquet.
        options: How to score.
        engine: Who does it.
        progress: Told how far it has come.

    Returns:
        The counts, those of the runs before included.

    Raises:
        UsageError: Nothing to score, an argument is wrong, or the inputs are not those of the run to go on from.
        ModelError: The run to go on from had another model; or as for `Guard.classify`.
        CmtError: The output cannot be written, or too many inputs failed.
    """
    check_files(guard, options.batch)
    form = format_for(output)
    check_places(inputs, output, options)
    columns = Columns(model=guard.digest, logits=options.logits)
    sort = None if options.sort is None else replace(options.sort, scratch=scratch_for(output))
    task = Task(batch=options.batch, suffix=output.suffix, columns=columns, sort=sort)
    with (
        Journal(output, _job(guard, inputs, options, output), fresh=options.fresh) as journal,
        in_background(inputs.count) as count,
    ):

        def tell(done: int) -> None:
            total = count()
            progress(done, None if total is None else max(done, total // options.shard.of))

        with atomic_output(output, within=journal.folder) as temporary:
            with closing(inputs.items()) as items:
                blocks = cut(items, batch=options.batch, shard=options.shard)
                tally = _finished(journal, blocks, output)
                tell(tally.total())
                _check_errors(tally, options, output)
                with closing(_in_parts(journal, engine(guard, task, blocks))) as finished:
                    for scored in finished:
                        tally += scored.tally
                        tell(tally.total())
                        _check_errors(tally, options, output)
            if not tally and options.shard.index == 0:
                got = f"an empty {inputs.kind}"
                raise UsageError(f"{inputs.place!a}: expected at least one file, got {got}; check the path")
            form.join(temporary, journal.encoded(), columns)
        journal.remove()
    if sort is not None:
        shutil.rmtree(Path(sort.folder, sort.scratch), ignore_errors=True)
    return summarize(tally)


def check_places(inputs: Inputs, output: Path, options: ScoreOptions) -> None:
    """Refuse what would be read and written at once.

    Raises:
        UsageError: The output is an input; or images are to be put, or shards written, where they would be scored.
    """
    if os.path.realpath(inputs.place) == os.path.realpath(output):
        raise UsageError(f"{str(output)!a}: expected a file of its own, got one that is read; name another with -o")
    places = [("--shard", output)] if options.shard.of > 1 else []
    if options.sort is not None:
        places.append(("--sort-into", Path(options.sort.folder)))
        if options.sort.link and inputs.kind == "archive":
            raise UsageError("--link: expected files to link to, got an archive; leave it out to copy")
    for option, path in places:
        if inputs.folder and Path(os.path.realpath(path)).is_relative_to(os.path.realpath(inputs.folder)):
            raise UsageError(f"{option}: expected {str(path)!a} outside of the folder that is scored, got it inside")


def _job(guard: Guard, inputs: Inputs, options: ScoreOptions, output: Path) -> Job:
    """Return everything that decides what the rows are."""
    return {
        "schema": 2,
        "model": guard.digest,
        "sha256": guard.sha256,
        "device": guard.device,
        "inputs": [inputs.kind, inputs.place],
        "batch": options.batch,
        "shard": [options.shard.index, options.shard.of],
        "logits": options.logits,
        "format": output.suffix,
        "sort": None if options.sort is None else [os.path.abspath(options.sort.folder), options.sort.link],
        "versions": decisive_versions(),
    }


def _finished(journal: Journal, blocks: Iterator[Block], output: Path) -> Tally:
    """Pass by the blocks that earlier runs finished, making sure that they are still the same."""
    tally: Tally = Counter()
    for part in journal.finished():
        digest = digest_of(block.inputs for block in islice(blocks, part.blocks))
        if digest != part.inputs:
            raise UsageError(
                f"{str(output)!a}: expected the inputs of the run before, got others after the first {tally.total()};"
                " use --fresh to start over, or score a manifest, which does not change"
            )
        tally += part.tally
    return tally


def _in_parts(journal: Journal, scored: Iterator[Scored]) -> Generator[Scored, None, None]:
    """Put what is scored on disk, a part after the other, and pass it on; the last is short, also when stopped."""
    waiting: list[Scored] = []
    begun, weight = time.monotonic(), 0
    try:
        for block in scored:
            waiting.append(block)
            weight += len(block.encoded)
            if weight >= PART_BYTES or time.monotonic() - begun >= PART_SECONDS:
                part, waiting = waiting, []  # where it cannot be written, it is not tried again below
                _append(journal, part)
                begun, weight = time.monotonic(), 0
            yield block
    finally:
        if waiting:
            _append(journal, waiting)


def _append(journal: Journal, scored: list[Scored]) -> None:
    tally = sum((block.tally for block in scored), Counter[Outcome]())
    part = Part(blocks=len(scored), inputs=digest_of(block.inputs for block in scored), tally=tally)
    journal.append(part, [block.encoded for block in scored])


def _check_errors(tally: Tally, options: ScoreOptions, output: Path) -> None:
    failed = sum(count for outcome, count in tally.items() if outcome.failed)
    if options.max_errors is not None and failed > options.max_errors:
        raise CmtError(
            f"{str(output)!a}: expected at most {options.max_errors} inputs that cannot be used, got {failed}; what is"
            " done is kept, a larger --max-errors goes on"
        )
