"""The files an evaluation works with: guards as they are, other people's classifiers adopted into the contract."""

from __future__ import annotations

import hashlib
import os
from typing import NamedTuple

import onnx

from calibration.adoption import Adoption, adopt, is_guard_file
from calibration.datasets import Dataset
from calibration.graphs.reading import read_model
from runtime.artifact import Artifact, read_artifact
from runtime.errors import ModelError, UsageError


class Opened(NamedTuple):
    """One checked file.

    Attributes:
        file: Its path as the user named it.
        artifact: What is run; for an adopted file with the rule of a classifier that accepts everything.
        sha256: SHA-256 of the file as it lies on the disk.
        locked: Whether it has logits from before a gradient lock.
    """

    file: str
    artifact: Artifact
    sha256: str
    locked: bool


def open_victim(
    path: str | os.PathLike[str], dataset: Dataset, *, adoption: Adoption | None, foreign: bool = False
) -> Opened:
    """Read a guard file, or adopt any other classifier.

    Args:
        path: The file.
        dataset: The images and classes it has to fit.
        adoption: How to read it as somebody else's classifier; None insists on a guard file, unless it is `foreign`.
        foreign: Whether a file without our metadata may be adopted unasked.

    Raises:
        ModelError: It is invalid.
        UsageError: It does not fit the data, or a tensor has to be named.
    """
    name = os.fspath(path)
    if adoption is not None and is_guard_file(read_model(name)):
        raise UsageError(
            f"{name}: expected another classifier, got a guard file; leave out --input, --logits and the like"
        )
    if adoption is None and foreign and not is_guard_file(read_model(name)):
        adoption = Adoption()
    if adoption is None:
        artifact = read_artifact(name)
        sha256 = artifact.sha256
    else:
        with open(name, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        artifact = _adopted(name, adoption, dataset)
    dataset.require_classes(artifact.spec.classes, owner=name)
    dataset.require_shape(artifact.spec.input_shape, owner=name)
    return Opened(name, artifact, sha256, locked=_is_locked(artifact))


def _adopted(name: str, adoption: Adoption, dataset: Dataset) -> Artifact:
    """Return a classifier in the contract; what is wrong with it is said of the file that the user named."""
    model = adopt(name, adoption, dataset)
    try:
        return read_artifact(model)
    except ModelError as error:
        reason = str(error).removeprefix("'model bytes': ")
        raise type(error)(f"{name!a}: {reason}") from None


def _is_locked(artifact: Artifact) -> bool:
    graph = onnx.load_model_from_string(artifact.model).graph
    return any("unlocked_logits" in node.output for node in graph.node)
