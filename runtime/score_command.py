"""What `cmt score` does with its options, and what it tells in the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from runtime.blocks import Shard
from runtime.cpus import usable_cpus
from runtime.engines import Engine, in_processes, in_threads
from runtime.errors import UsageError
from runtime.guard import BATCH, Guard
from runtime.inputs import open_inputs
from runtime.pace import pace
from runtime.scoring import ScoreOptions, own_files, score
from runtime.sorting import SortPlan
from runtime.summary import Summary, agreement, by_class, show_agreement


@dataclass(frozen=True, kw_only=True)
class Report:
    """What came of it.

    Attributes:
        facts: For machines.
        title: For people.
        rows: For people, names and values.
        images: All rows.
        failed: Rows of files that could not be used.
    """

    facts: Mapping[str, Any]
    title: str
    rows: list[tuple[str, Any]]
    images: int
    failed: int


def run(
    model: Path,
    inputs: str,
    output: Path,
    *,
    logits: bool,
    column: str | None,
    null: bool,
    sort_into: str | None,
    link: str | None,
    summary: bool,
    shard: str,
    max_errors: int | None,
    resume: bool,
    engine: str,
    address: str | None,
    batch: int | None,
    device: str,
    threads: int | None,
) -> Report:
    """Score, with a guard that runs one thread an operator; the arguments are the options of `cmt score`.

    Raises:
        CmtError: As for `runtime.scoring.score`, or options contradict each other.
    """
    if link is not None and sort_into is None:
        raise UsageError("--link: expected --sort-into beside it, got none")
    if address is not None and engine != "ray":
        raise UsageError("--address: expected --engine ray beside it, got local")
    options = ScoreOptions(
        logits=logits,
        batch=BATCH if batch is None else batch,
        shard=Shard.parse(shard),
        max_errors=max_errors,
        sort=None if sort_into is None else SortPlan(folder=sort_into, link=link or ""),
        fresh=not resume,
    )
    processors = _processors(threads)
    with Guard(model, device=device, threads=1) as guard, pace() as progress:
        source = open_inputs(inputs, spec=guard.spec.input, column=column, null=null, leave_out=own_files(output))
        chosen = _engine(guard, processors)
        if engine == "ray":
            from runtime.ray_engine import in_cluster

            chosen = partial(in_cluster, model=model.read_bytes(), address=address, actors=threads)
        found = score(guard, source, output, options=options, engine=chosen, progress=progress)
        facts = _facts(found, summary) | {"output": str(output), "model": guard.digest, "device": guard.device}
    return Report(
        facts=facts,
        title=f"{found.images} files -> {output}",
        rows=_rows(found, summary),
        images=found.images,
        failed=sum(found.failed.values()),
    )


def _processors(threads: int | None) -> int:
    if threads is not None and not 1 <= threads <= 1024:
        raise UsageError(f"--threads: expected a whole number from 1 to 1024, got {threads}")
    return threads or usable_cpus()


def _engine(guard: Guard, processors: int) -> Engine:
    if guard.device == "cpu":
        return partial(in_processes, processes=processors)
    return partial(in_threads, threads=processors)


def _facts(found: Summary, wanted: bool) -> dict[str, Any]:
    facts = asdict(found)
    del facts["tally"]
    if wanted:
        agreed = agreement(found.tally)
        facts["classes"] = by_class(found.tally)
        facts["agreement"] = None if agreed is None else agreed.to_document()
    return facts


def _rows(found: Summary, wanted: bool) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = [("accepted", found.accepted)]
    rows += [(f"rejected: {reason}", count) for reason, count in sorted(found.rejected.items())]
    rows += [(f"failed: {reason}", count) for reason, count in sorted(found.failed.items())]
    if wanted:
        for name, counts in by_class(found.tally).items():
            rows.append((f"class {name}", ", ".join(f"{verdict} {count}" for verdict, count in counts.items())))
        agreed = agreement(found.tally)
        rows += [] if agreed is None else show_agreement(agreed)
    return rows
