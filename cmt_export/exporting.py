"""From a checkpoint to the exported file: torch writes the network, `calibration` puts rule and metadata around it."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn

from calibration.golden import choose_golden
from calibration.pixels import to_pixels
from calibration.rules import OPSETS, assemble
from calibration.stamping import stamp
from cmt_export.checkpoint import Checkpoint
from cmt_export.networks import Logits
from cmt_export.parity import ParityReport, check_parity
from runtime.artifact import read_artifact
from runtime.atomic import atomic_output
from runtime.errors import CmtError, ModelError, UsageError, one_line
from runtime.session import create_session
from runtime.verdicts import Verdicts

OPSET = 20
"""GELU is one operator from this version on, and every supported ONNX Runtime knows it."""

_FAR = 0.1
_TRACED_BATCH = 2  # torch would turn a batch of one into a constant


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An exported file and the proof that it decides like the checkpoint.

    Attributes:
        model: The file.
        digest: Of its content.
        sha256: Of the file.
        parity: How its verdicts compare with PyTorch's.
    """

    model: bytes
    digest: str
    sha256: str
    parity: ParityReport


def export(
    checkpoint: Checkpoint,
    path: str | os.PathLike[str],
    *,
    trunk: str | None = None,
    opset: int = OPSET,
    resize: str = "bilinear",
    max_pixels: int = 1 << 24,
) -> Exported:
    """Write the guard file of a checkpoint, whole or not at all, after its verdicts have been compared with PyTorch's.

    Args:
        checkpoint: Finished or not.
        path: Where the ``.onnx`` goes.
        trunk: The factory of a trunk that is not built in.
        opset: Version of ``ai.onnx``, 18 to 21.
        resize: How the guard fits image files of another size: ``bilinear``, ``bicubic`` or ``none`` (refuse).
        max_pixels: Largest image file, in pixels, that the guard decodes.

    Raises:
        UsageError: The opset is not supported, or the trunk was not named.
        ModelError: The network cannot be exported.
        GateFailed: A verdict differs between PyTorch and ONNX Runtime; nothing is written.
        CmtError: The file cannot be written.
    """
    if opset not in OPSETS:
        raise UsageError(f"--opset: expected {OPSETS[0]} to {OPSETS[-1]}, got {opset}")
    network = checkpoint.build(trunk)
    model = build_guard(network, checkpoint, opset=opset, resize=resize, max_pixels=max_pixels)
    artifact = read_artifact(model)
    parity = check_parity(model, network, checkpoint)
    parity.require()
    with atomic_output(path) as temporary:
        temporary.write_bytes(model)
    return Exported(model=model, digest=artifact.spec.digest, sha256=artifact.sha256, parity=parity)


def build_guard(
    network: nn.Module,
    checkpoint: Checkpoint,
    *,
    opset: int = OPSET,
    resize: str = "bilinear",
    max_pixels: int = 1 << 24,
) -> bytes:
    """Return the bytes of the guard file of `network`, unchecked against PyTorch.

    Raises:
        ModelError: The network cannot be exported.
    """
    channels, height, width = checkpoint.input_shape
    rule = checkpoint.recipe.rule
    model = assemble(
        export_network(network, checkpoint.input_shape, opset=opset),
        rule=rule,
        classmap=checkpoint.classmap,
        threshold=0.0,
        input_shape=(height, width, channels),
    )
    document = {
        "schema": 1,
        "rule": rule,
        "classes": list(checkpoint.classes),
        "classmap": None if checkpoint.classmap is None else list(checkpoint.classmap),
        "threshold": 0.0,
        "calibration": None,
        "input": {
            "height": height,
            "width": width,
            "channels": channels,
            "resize": resize,
            "max_pixels": max_pixels,
        },
        "precision": "fp32",
        "recipe": checkpoint.recipe.to_json() | {"trunk": checkpoint.trunk},
        "training": _training_record(checkpoint),
        "producer": {"name": "cmt", "version": version("cmt")},
        "golden": _golden(model, network, checkpoint),
    }
    return stamp(model, document)


def export_network(network: nn.Module, input_shape: tuple[int, int, int], *, opset: int) -> onnx.ModelProto:
    """Return the bare network as ONNX: ``pixels`` to the tensors of its `Logits`, under their names.

    Args:
        network: Maps pixels to `Logits`, in evaluation mode on the CPU.
        input_shape: ``(C, H, W)``.
        opset: Version of ``ai.onnx``.

    Raises:
        ModelError: torch cannot export it, or the batch axis did not stay symbolic.
    """
    wrapped = _TupleOutputs(network)
    example = torch.rand(_TRACED_BATCH, *input_shape)
    try:
        with _quiet():
            program = torch.onnx.export(
                wrapped,
                (example,),
                dynamo=True,
                input_names=["pixels"],
                output_names=wrapped.output_names(example),
                dynamic_shapes=({0: torch.export.Dim("N")},),
                opset_version=opset,
                external_data=False,
                optimize=True,
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        reason = one_line(_first_cause(error))
        raise ModelError(f"export: expected a trunk that torch.onnx can export, got: {reason}") from error
    assert program is not None  # only the exporter that writes to a file returns None
    model = program.model_proto
    axis = model.graph.input[0].type.tensor_type.shape.dim[0]
    if not axis.dim_param:
        raise ModelError(
            f"export: expected a symbolic batch axis, got {axis.dim_value}; a trunk must not fix its batch size, as "
            "len(x) and numbers do: take it from x.shape[0]"
        )
    return model


def _first_cause(error: BaseException) -> BaseException:
    """Return where a chain of errors began: only there the exporter names the operator."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


class _TupleOutputs(nn.Module):
    """The tensors of `Logits` as a tuple, the only form the exporter names."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._present(pixels).values())

    @torch.no_grad()
    def output_names(self, pixels: Tensor) -> list[str]:
        return list(self._present(pixels))

    def _present(self, pixels: Tensor) -> dict[str, Tensor]:
        outputs: Logits = self.network(pixels)
        return {name: value for name, value in vars(outputs).items() if value is not None}


@contextlib.contextmanager
def _quiet() -> Any:
    """Keep the exporter's progress lines and deprecation warnings of its dependencies off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _training_record(checkpoint: Checkpoint) -> dict[str, Any]:
    facts = {key: value for key, value in checkpoint.data.items() if key != "train"}
    record = {"data": checkpoint.data["train"], **facts, "schedule": vars(checkpoint.schedule)}
    if checkpoint.history:
        record |= {"epochs_done": len(checkpoint.history), "benign": checkpoint.history[-1]}
    return record


def _golden(model: onnx.ModelProto, network: nn.Module, checkpoint: Checkpoint) -> dict[str, Any]:
    """Choose the held-out image whose verdict is the hardest to change by rounding."""
    images = checkpoint.probe_images
    if checkpoint.recipe.rule == "detector":
        images = _far_from_every_limit(network, images)
    session = create_session(model.SerializeToString(), device="cpu")
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, {"images": images}), strict=True))
    verdicts = Verdicts(**outputs, classes=checkpoint.classes)
    if not np.isfinite(verdicts.logits).all():
        raise CmtError("export: expected finite logits, got NaN or infinity; the checkpoint's training diverged")
    return choose_golden(images, verdicts, threshold=0.0).to_document()


@torch.no_grad()
def _far_from_every_limit(network: nn.Module, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the images on which no detector is within a tenth of its limit; all of them where there is none such."""
    outputs: Logits = network(torch.from_numpy(to_pixels(images)))
    assert outputs.anomalies is not None  # a network of this rule has detectors
    far = ((outputs.anomalies - 1).abs() > _FAR).all(1).numpy()
    return images[far] if far.any() else images
