"""The commands that need PyTorch: export, verify, demo. Options become frozen configuration here."""

from __future__ import annotations

from pathlib import Path

import click

from calibration.datasets import load_dataset
from calibration.options import SIZE
from cmt_export.checkpoint import Checkpoint
from cmt_export.exporting import OPSET
from cmt_export.exporting import export as export_file
from cmt_export.options import TRUNK
from cmt_export.parity import ParityReport, check_parity
from runtime.artifact import read_artifact
from runtime.cli import JSON
from runtime.terminal import print_json, print_table


@click.command()
@click.option("--ckpt", type=click.Path(path_type=Path), required=True, help="model.pt, written by cmt train.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default="guard.onnx", show_default=True)
@click.option("--opset", type=int, default=OPSET, show_default=True, help="Version of ai.onnx, 18 to 21.")
@click.option("--resize", type=click.Choice(["bilinear", "bicubic", "none"]), default="bilinear", show_default=True)
@click.option("--max-pixels", type=int, default=1 << 24, show_default=True, help="Largest image file to decode.")
@TRUNK
@JSON
def export(
    ckpt: Path, output: Path, opset: int, resize: str, max_pixels: int, trunk: str | None, as_json: bool
) -> None:
    """Write a checkpoint as one ONNX file, after comparing its verdicts with PyTorch's.

    Example: cmt export --ckpt model.pt -o guard.onnx
    """
    checkpoint = Checkpoint.load(ckpt)
    exported = export_file(checkpoint, output, trunk=trunk, opset=opset, resize=resize, max_pixels=max_pixels)
    facts = {"file": str(output), "bytes": len(exported.model), "digest": exported.digest, "sha256": exported.sha256}
    if as_json:
        print_json(facts | {"parity": exported.parity.to_json()})
        return
    print_table(f"exported {ckpt}", [*facts.items(), ("parity", _parity_line(exported.parity))])
    click.echo(
        f"next: cmt score {output} FOLDER -o verdicts.csv    or: cmt attack {output} --data DATA -o results.json"
    )


@click.command()
@click.argument("model", type=click.Path(path_type=Path), metavar="GUARD.onnx")
@click.option("--ckpt", type=click.Path(path_type=Path), required=True, help="The checkpoint it was exported from.")
@click.option(
    "--data", metavar="DATA", help="Compare on this data's test split; by default on the checkpoint's images."
)
@click.option("-n", "n", type=int, default=1000, show_default=True, help="Test images of DATA to compare on.")
@SIZE
@TRUNK
@JSON
def verify(
    model: Path, ckpt: Path, data: str | None, n: int, size: tuple[int, int] | None, trunk: str | None, as_json: bool
) -> None:
    """Check that GUARD.onnx decides like its checkpoint, verdict for verdict; exit code 6 if not.

    Example: cmt verify guard.onnx --ckpt model.pt --data mnist/
    """
    artifact, checkpoint = read_artifact(model), Checkpoint.load(ckpt)
    images = labels = None
    if data is not None:
        dataset = load_dataset(data, size=size)
        dataset.require_classes(checkpoint.classes, owner=str(ckpt))
        dataset.require_shape(artifact.spec.input_shape, owner=str(model))
        rows = dataset.test.sample(n)
        images, labels = dataset.test.images[rows], dataset.test.labels[rows]
    parity = check_parity(artifact.model, checkpoint.build(trunk), checkpoint, images=images, labels=labels)
    if as_json:
        print_json(parity.to_json())
    else:
        print_table(f"{model} against {ckpt}", [("parity", _parity_line(parity))])
    parity.require()


def _parity_line(parity: ParityReport) -> str:
    compared = f"{parity.benign} benign, {parity.adversarial} adversarial, {parity.near} near an edge"
    return (
        f"{parity.different} different verdicts on {compared}; {parity.undecidable} within rounding; "
        f"largest logit gap {parity.largest_logit_gap:.1e}"
    )


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), default="cmt-demo", show_default=True, metavar="DIR")
@click.option("--seed", type=int, default=0, show_default=True)
@JSON
def demo(output: Path, seed: int, as_json: bool) -> None:
    """Go the whole way on scikit-learn's digits: train, export, verify, calibrate, attack, score, report.

    Needs no file and no network, and takes about two minutes on two cores.

    Example: cmt demo -o cmt-demo
    """
    from cmt_export.demo import run_demo

    run_demo(output, seed=seed, as_json=as_json)
