"""The commands of the edge: score, info, doctor, bench. Nothing heavy is imported until one runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from runtime.errors import SomeInputsFailed
from runtime.terminal import print_json, print_table, progress

MODEL = click.argument("model", type=click.Path(path_type=Path), metavar="GUARD.onnx")
DEVICE = click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]", help="Where to run.")
THREADS = click.option("--threads", type=int, metavar="N", help="Threads; by default what this process may use.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document for machines.")


@click.command()
@MODEL
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="FILE.csv, .jsonl or .parquet.")
@click.option("--logits", is_flag=True, help="Write the logits too.")
@click.option("--batch", type=int, metavar="N", help="Images per run, 32 unless said otherwise.")
@DEVICE
@THREADS
@JSON
def score(
    model: Path,
    folder: Path,
    output: Path,
    logits: bool,
    batch: int | None,
    device: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Classify or reject every file in FOLDER, one row each.

    Subfolders are included. A file that cannot be used gets a row with the reason, and the command ends with exit
    code 5. The output appears whole or not at all.

    Example: cmt score guard.onnx photos/ -o verdicts.csv
    """
    from runtime.guard import BATCH, Guard
    from runtime.scoring import score_folder

    with Guard(model, device=device, threads=threads) as guard:
        with progress("scoring") as report:
            summary = score_folder(
                guard, folder, output, logits=logits, batch=BATCH if batch is None else batch, progress=report
            )
        facts = {**asdict(summary), "output": str(output), "model": guard.digest, "device": guard.device}
    if as_json:
        print_json(facts)
    else:
        print_table(
            f"{summary.images} files -> {output}",
            [("accepted", summary.accepted)]
            + [(f"rejected: {reason}", count) for reason, count in sorted(summary.rejected.items())]
            + [(f"failed: {reason}", count) for reason, count in sorted(summary.failed.items())],
        )
    failed = sum(summary.failed.values())
    if failed:
        raise SomeInputsFailed(
            f"expected {summary.images} usable images, got {failed} that are not; their rows in {output} say why"
        )


@click.command()
@MODEL
@JSON
def info(model: Path, as_json: bool) -> None:
    """Check GUARD.onnx and show what it is: digests, provenance, calibration.

    Every check of the trusted loader is made, except running it.

    Example: cmt info guard.onnx
    """
    from runtime.artifact import read_artifact

    artifact = read_artifact(model)
    document = artifact.spec.to_document()
    document["golden"].pop("image")
    facts = {"file": str(model), "bytes": len(artifact.model), "sha256": artifact.sha256, "graph": artifact.graph}
    if as_json:
        print_json(facts | document)
    else:
        print_table(str(model), [*facts.items(), *_flat(document)])


def _flat(document: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value under its dotted name; a matrix by its size, for it says nothing in a row."""
    for name, value in document.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], list):
            yield prefix + name, f"{len(value)} x {len(value[0])} numbers, see --json"
        else:
            yield prefix + name, value


@click.command()
@JSON
def doctor(as_json: bool) -> None:
    """Examine this machine: versions, processors, devices that really start, what each command lacks.

    Example: cmt doctor
    """
    from runtime.doctor import examine

    found = examine()
    if as_json:
        print_json(asdict(found))
        return
    providers = {name: reason or "runs" for name, reason in found.providers.items()}
    missing = {f"cmt {command}": f"needs {', '.join(modules)}" for command, modules in found.missing.items()}
    versions = {name: version for name, version in found.versions.items() if version}
    cpus = f"{found.threads} used, {found.affinity} by affinity, {found.quota or 'no'} by control group"
    rows = {"python": found.python, "system": found.system, **versions, "processors": cpus, **providers, **missing}
    print_table("this machine", rows.items())
    for problem in found.problems or ["no problem found"]:
        click.echo(problem)


@click.command()
@MODEL
@DEVICE
@THREADS
@click.option("--seconds", type=float, default=2.0, show_default=True, metavar="S", help="How long per batch size.")
@JSON
def bench(model: Path, device: str, threads: int | None, seconds: float, as_json: bool) -> None:
    """Measure what the guard costs over a bare ONNX Runtime session of the same file.

    Example: cmt bench guard.onnx --threads 2
    """
    from runtime.bench import compare

    costs = compare(model, device=device, threads=threads, seconds=seconds)
    if as_json:
        print_json([asdict(cost) for cost in costs])
        return
    print_table(
        "Guard.classify / bare session",
        [
            (f"batch {cost.batch}", f"{cost.guard * 1e3:.3f} ms / {cost.bare * 1e3:.3f} ms = {cost.ratio:.3f}")
            for cost in costs
        ],
    )
