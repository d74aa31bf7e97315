"""`model.pt`: a network, how it was made, and the held-out images that its export is checked on.

Plain containers and tensors only, so that ``torch.load(..., weights_only=True)`` reads it and nothing in it can run.
The code of a trunk is never in the file: a trunk that is not built in must be named again by whoever loads it.
"""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from cmt_export.checkpoint_checks import check_document
from cmt_export.networks import TRUNKS, load_trunk_factory
from cmt_export.recipes import Recipe, read_recipe
from runtime.atomic import atomic_output
from runtime.errors import CmtError, ModelError, UsageError, one_line

FORMAT = "cmt.checkpoint"
VERSION = 2
"""Version 1 knew one recipe dataclass for all names; such files are still read."""
PROBES = 256
"""Held-out images that a checkpoint carries for the parity gate and the golden input."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast to train; with the recipe, the data and the machine it determines the weights.

    Attributes:
        epochs: Passes over the training split.
        batch_size: Images a step.
        learning_rate: The peak of the one-cycle schedule (Adam).
        seed: Of initial weights, order of images, dropout, ε and augmentation.
        flip: Whether half of the images, drawn anew in every step, are mirrored left to right.
        crop: Largest move of an image in pixels, up or down and left or right, drawn for each; black comes after it.
        affine: Largest change of each entry of the 2x2 matrix that turns, stretches and slants an image, drawn anew.
    """

    epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 1e-3
    seed: int = 0
    flip: bool = False
    crop: int = 0
    affine: float = 0.0

    def __post_init__(self) -> None:
        """Raise `UsageError` for a value out of range."""
        if self.crop < 0:
            raise UsageError(f"schedule: expected crop >= 0, got {self.crop}")
        if not 0 <= self.affine < 0.5:
            raise UsageError(f"schedule: expected affine in [0, 0.5), got {self.affine}")
        if self.epochs < 1 or self.batch_size < 1 or not self.learning_rate > 0 or self.seed < 0:
            raise UsageError(
                "schedule: expected epochs >= 1, batch_size >= 1, learning_rate > 0 and seed >= 0, got "
                f"{self.epochs}, {self.batch_size}, {self.learning_rate}, {self.seed}"
            )


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How the arithmetic ran; a resumed run repeats it, because another choice gives other bits.

    Attributes:
        device: ``cpu`` or ``cuda``.
        precision: ``fp32`` or ``bf16`` (autocast).
        channels_last: Memory format of activations and weights.
        threads: Of PyTorch on the CPU.
    """

    device: str
    precision: str
    channels_last: bool
    threads: int


@dataclass(kw_only=True)
class Checkpoint:
    """Everything in `model.pt`.

    Attributes:
        trunk: A built-in name or ``package.module:factory``; a label, never imported from here.
        input_shape: ``(C, H, W)``.
        classes: K names.
        classmap: M, K labels; None for a recipe without one.
        recipe: The objective.
        schedule: The optimisation.
        execution: The arithmetic.
        data: Name, digest and size of the training split, digest of the test split, and where the Classmap came from.
        weights: The network's state dict.
        probe_images: uint8 ``(256, H, W, C)``, held out.
        probe_labels: int64 ``(256,)``.
        progress: Optimiser, position and random state of an unfinished run; empty when finished.
        history: One record a finished epoch.
    """

    trunk: str
    input_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    classmap: tuple[int, ...] | None
    recipe: Recipe
    schedule: Schedule
    execution: Execution
    data: dict[str, Any]
    weights: dict[str, torch.Tensor]
    probe_images: npt.NDArray[np.uint8]
    probe_labels: npt.NDArray[np.int64]
    progress: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        """Whether every epoch of the schedule is done."""
        return not self.progress

    def classmap_tensor(self, device: str) -> torch.Tensor | None:
        """Return M as int64 ``(K,)`` on a device; None where there is none."""
        return None if self.classmap is None else torch.tensor(self.classmap, device=device)

    def build(self, trunk: str | None = None) -> nn.Module:
        """Build the network with these weights, in evaluation mode on the CPU.

        Args:
            trunk: ``package.module:factory`` of a trunk that is not built in.

        Raises:
            UsageError: The trunk is not built in and was not named.
            ModelError: The weights do not fit the network.
        """
        network = self.recipe.build(
            load_trunk_factory(self._named_trunk(trunk)), input_shape=self.input_shape, classes=len(self.classes)
        )
        try:
            network.load_state_dict(self.weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise ModelError(f"checkpoint: expected weights of the trunk {self.trunk!r}, got: {reason}") from error
        return network.eval()

    def _named_trunk(self, trunk: str | None) -> str:
        if trunk is not None:
            return trunk
        if self.trunk in TRUNKS:
            return self.trunk
        raise UsageError(
            f"checkpoint: its trunk {self.trunk!r} is not built in, and code named by a file is never imported; "
            f"if you trust it: --trunk {self.trunk}"
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file whole or not at all.

        Raises:
            CmtError: It cannot be written.
        """
        document = {
            "format": FORMAT,
            "version": VERSION,
            "trunk": self.trunk,
            "input_shape": list(self.input_shape),
            "classes": list(self.classes),
            "classmap": None if self.classmap is None else list(self.classmap),
            "recipe": self.recipe.to_json(),
            "schedule": dict(vars(self.schedule)),
            "execution": dict(vars(self.execution)),
            "data": self.data,
            "weights": {name: value.detach().cpu() for name, value in self.weights.items()},
            "probe_images": torch.from_numpy(np.array(self.probe_images)),
            "probe_labels": torch.from_numpy(np.array(self.probe_labels)),
            "progress": self.progress,
            "history": self.history,
        }
        with atomic_output(path) as temporary:
            try:
                torch.save(document, temporary)
            except RuntimeError as error:  # torch's zip writer reports a full disk so
                raise CmtError(f"{path}: expected room to write, got: {str(error).splitlines()[0]}") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Checkpoint:
        """Read and check a file.

        Raises:
            UsageError: There is no such file.
            ModelError: It is no checkpoint of this project, or not of this version, or damaged.
        """
        if not Path(path).is_file():
            raise UsageError(f"{path}: expected a checkpoint written by cmt train, got no such file")
        document, version = _open(path)
        try:
            check_document(document)
            return cls._read(document, version)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else one_line(error)
            raise ModelError(
                f"{path}: expected a complete checkpoint, got a damaged one ({reason}); copy it anew, or train it again"
            ) from error

    @classmethod
    def _read(cls, document: dict[str, Any], version: int) -> Checkpoint:
        recipe, classmap = read_recipe(document["recipe"], version=version), document["classmap"]
        if recipe.needs_classmap != (classmap is not None):
            raise ValueError(f"expected {'a' if recipe.needs_classmap else 'no'} classmap for {recipe.name}")
        channels, height, width = document["input_shape"]
        return cls(
            trunk=document["trunk"],
            input_shape=(channels, height, width),
            classes=tuple(document["classes"]),
            classmap=None if classmap is None else tuple(classmap),
            recipe=recipe,
            schedule=Schedule(**document["schedule"]),
            execution=Execution(**document["execution"]),
            data=dict(document["data"]),
            weights=dict(document["weights"]),
            probe_images=document["probe_images"].numpy(),
            probe_labels=document["probe_labels"].numpy(),
            progress=dict(document["progress"]),
            history=list(document["history"]),
        )


def _open(path: str | os.PathLike[str]) -> tuple[dict[str, Any], int]:
    """Return the document of a file that calls itself a checkpoint of a known version, and that version."""
    foreign = f"{path}: expected a checkpoint written by cmt train, got another file"
    try:
        _check_sums(path)
        document = torch.load(path, map_location="cpu", weights_only=True)
    except ModelError:
        raise
    except Exception as error:  # a foreign file can surface as anything in the readers of zip files and pickles
        raise ModelError(f"{foreign} ({type(error).__name__})") from error
    if not isinstance(document, dict) or _scalar(document.get("format")) != FORMAT:
        raise ModelError(f"{path}: expected a checkpoint written by cmt train, got another project's file")
    version = _scalar(document.get("version"))
    if version not in (1, VERSION):
        raise ModelError(f"{path}: expected checkpoint version 1 or {VERSION}, got {version!r}; update cmt")
    return document, version


def _check_sums(path: str | os.PathLike[str]) -> None:
    """Raise `ModelError` unless every member has the CRC the file records, at which torch's reader does not look."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ModelError(
            f"{path}: expected a complete checkpoint, got a damaged one (another checksum in {damaged!a}); "
            "copy it anew, or train it again"
        )


def _scalar(value: Any) -> Any:
    """Return text or a number as it is, and of anything else the name of its type: tensors do not compare as values."""
    return value if isinstance(value, str | int) else type(value).__name__
