"""The commands of the edge: score, info, doctor, bench. Nothing heavy is imported until one runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from runtime.errors import SomeInputsFailed
from runtime.terminal import print_json, print_table

MODEL = click.argument("model", type=click.Path(path_type=Path), metavar="GUARD.onnx")
DEVICE = click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]", help="Where to run.")
THREADS = click.option("--threads", type=int, metavar="N", help="Threads; by default what this process may use.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document for machines.")


@click.command()
@MODEL
@click.argument("inputs", metavar="FOLDER|GLOB|MANIFEST|ARCHIVE|-")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="FILE.csv, .jsonl or .parquet.")
@click.option("--logits", is_flag=True, help="Write the logits too.")
@click.option("--column", metavar="NAME", help="Where a manifest has its paths; else in path or uri.")
@click.option("-0", "--null", is_flag=True, help="Paths on standard input end with null bytes.")
@click.option("--sort-into", type=click.Path(), metavar="DIR", help="Copy files into accepted/CLASS/ and rejected/.")
@click.option("--link", type=click.Choice(["hard", "symbolic"]), help="Link them there instead.")
@click.option("--summary", is_flag=True, help="Show counts per class; accuracy where folders are named like classes.")
@click.option("--shard", default="0/1", metavar="i/N", help="Score every N-th block of files, from number i on.")
@click.option("--max-errors", type=int, metavar="N", help="Stop when more files than this cannot be used.")
@click.option("--resume/--fresh", default=True, help="Go on where a killed run was, or start over.  [default: resume]")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="Who scores.")
@click.option("--address", metavar="ADDRESS", help="Of a running Ray cluster; by default one is started here.")
@click.option("--batch", type=int, metavar="N", help="Images per run, 32 unless said otherwise.")
@DEVICE
@click.option("--threads", type=int, metavar="N", help="Processors to use; by default those this process may use.")
@JSON
def score(model: Path, inputs: str, output: Path, as_json: bool, **options: Any) -> None:
    """Classify or reject every image, one row each.

    Images come from a folder with its subfolders, a quoted glob, a .csv, .jsonl or .parquet manifest with a column of
    paths, a .tar or .zip, or - for paths on standard input. A file that cannot be used gets a row with the reason, and
    the command ends with exit code 5. The output appears whole or not at all; after a kill, the same command goes on.

    Example: cmt score guard.onnx photos/ -o verdicts.csv
    """
    from runtime.score_command import run

    report = run(model, inputs, output, **options)
    if as_json:
        print_json(report.facts)
    else:
        print_table(report.title, report.rows)
    if report.failed:
        raise SomeInputsFailed(
            f"expected {report.images} usable images, got {report.failed} that are not; their rows in {output} say why"
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
