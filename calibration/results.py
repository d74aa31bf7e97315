"""What an evaluation found, and everything needed to find it again: frozen records that are one JSON file.

`calibration.evaluation` makes them, `calibration.report` shows them. Rates are ``[value, low, high]``, see
`calibration.metrics`.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibration.metrics import Counts, Rates
from calibration.records import from_json
from runtime.atomic import atomic_output
from runtime.errors import UsageError

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """The file under attack; the fields are those of its metadata, see ``docs/file-format.md``.

    Attributes:
        file: The path as it was named.
        digest: Digest of graph and metadata.
        sha256: SHA-256 of the file.
        graph: Digest of the graph alone.
        rule: ``pair``, ``confidence`` or ``detector``.
        classes: K names.
        classmap: M, or None.
        threshold: Smallest confidence that is accepted.
        calibration: How the threshold was measured, or None.
        precision: ``fp32``, ``int8``, ...
        recipe: Every option of the training objective.
        training: What is known of the training.
        input: ``height``, ``width``, ``channels``, ``resize``, ``max_pixels``.
    """

    file: str
    digest: str
    sha256: str
    graph: str
    rule: str
    classes: tuple[str, ...]
    classmap: tuple[int, ...] | None
    threshold: float
    calibration: Mapping[str, Any] | None
    precision: str
    recipe: Mapping[str, Any]
    training: Mapping[str, Any]
    input: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class DataRecord:
    """The images that were attacked.

    Attributes:
        name: What the user named.
        split: Always ``test``.
        digest: SHA-256 of that split.
        images: Its size.
        sample: Indices of the attacked images in it, ascending.
        seed: What the sample was drawn with.
        eight_bit: Whether attacked images were rounded to 8 bits before they were judged.
    """

    name: str
    split: str
    digest: str
    images: int
    sample: tuple[int, ...]
    seed: int
    eight_bit: bool


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Versions and machine.

    Attributes:
        cmt: Version of this program.
        python: Version.
        numpy: Version.
        onnxruntime: Version.
        onnx: Version.
        system: Operating system and processor architecture.
        device: Where the file really ran, ``cpu`` or ``cuda:N``.
        threads: Threads inside one operator.
    """

    cmt: str
    python: str
    numpy: str
    onnxruntime: str
    onnx: str
    system: str
    device: str
    threads: int


@dataclass(frozen=True, kw_only=True)
class SelfCheck:
    """How far the gradient of one file is from differences of its own logits; see `gradient_check.GradientCheck`.

    Attributes:
        file: Which file.
        of: The logits tensors that were differentiated.
        relative_error: 1e-5 to 1e-1 from rounding and kinks; about 1 says that a gradient is wrong.
        images: How many images it was measured on.
        seed: Seed of the directions.
    """

    file: str
    of: tuple[str, ...]
    relative_error: float
    images: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Score:
    """Counts of one set of verdicts, and the rates that follow from them."""

    counts: Counts
    rates: Rates


@dataclass(frozen=True, kw_only=True)
class Source:
    """What an attacker differentiated.

    Attributes:
        file: The path as it was named.
        digest: Digest of graph and metadata.
        sha256: SHA-256 of the file.
        tensor: The logits tensors the attack reads, joined by ``+``; ``verdicts`` where it only asks.
        straight_through: Whether gradients pass through the roundings of a quantised file as if they were not there.
    """

    file: str
    digest: str
    sha256: str
    tensor: str
    straight_through: bool


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The verdict on one picture.

    Attributes:
        label: The class; -1 where a logit was not finite.
        accepted: Whether to act on it.
        confidence: In [0, 1]; higher means keep.
    """

    label: int
    accepted: bool
    confidence: float


@dataclass(frozen=True, kw_only=True)
class Example:
    """One image for the gallery.

    Attributes:
        index: Its place in the test split.
        label: The true label.
        attacked_image: Base64 of an 8-bit PNG; the verdict is on the unrounded pixels unless the data record says
            `eight_bit`.
        benign_image: Base64 of an 8-bit PNG.
        benign: The verdict without attack.
        attacked: The verdict under attack.
    """

    index: int
    label: int
    attacked_image: str
    benign_image: str
    benign: Answer
    attacked: Answer


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One attack under one threat.

    Attributes:
        threat: ``grey-box``, ``black-box``, ...
        reading: Which reading of it, see `calibration.threats`.
        adaptive: Whether the attacker optimises against the reject rule itself.
        strength: Order of the threats; higher is stronger.
        attack: Short name of the attack.
        parameters: Every hyper-parameter.
        source: What was differentiated.
        counts: Outcomes on the attacked images.
        rates: The same as shares.
        mean_l2: Mean L2 norm of the perturbation, pixels in [0, 1].
        mean_linf: Mean L-infinity norm.
        largest_linf: Largest L-infinity norm.
        zero_gradients: Images whose every gradient was zero in every pixel: they were not attacked at all.
        gradients_per_image: Mean number of gradients an image took.
        queries_per_image: Mean number of decisions an image took.
        seconds: Time spent on crafting and judging.
        examples: At most a dozen pictures.
    """

    threat: str
    reading: str
    adaptive: bool
    strength: int
    attack: str
    parameters: Mapping[str, Any]
    source: Source
    counts: Counts
    rates: Rates
    mean_l2: float
    mean_linf: float
    largest_linf: float
    zero_gradients: int
    gradients_per_image: float
    queries_per_image: float
    seconds: float
    examples: tuple[Example, ...]


@dataclass(frozen=True, kw_only=True)
class Results:
    """One evaluation of one file.

    Attributes:
        schema: Version of this format.
        complete: Whether every planned cell is here; False after an interruption.
        command: What to run to repeat it.
        model: The file under attack.
        data: The images.
        environment: Versions and machine.
        self_check: One record for each differentiated file.
        benign: The verdicts without attack.
        cells: Adaptive attacks first, then the strongest threat first, within a threat the attack that fools most
            first.

    Raises:
        UsageError: The schema is another one.
    """

    schema: int = SCHEMA
    complete: bool
    command: str
    model: ModelRecord
    data: DataRecord
    environment: Environment
    self_check: tuple[SelfCheck, ...]
    benign: Score
    cells: tuple[Cell, ...]

    def __post_init__(self) -> None:
        """Check the schema and sort the cells."""
        if self.schema != SCHEMA:
            raise UsageError(f"results: expected schema {SCHEMA}, got {self.schema}; use a matching version of cmt")
        object.__setattr__(self, "cells", tuple(sorted(self.cells, key=_order)))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        document: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self), allow_nan=False))
        return document

    @classmethod
    def from_json(cls, document: object) -> Results:
        """Build results from parsed JSON.

        Raises:
            UsageError: A field is missing, unknown or of another type, or the schema is another one.
        """
        schema = document.get("schema") if isinstance(document, dict) else None
        if isinstance(schema, int) and schema != SCHEMA:
            raise UsageError(f"results: expected schema {SCHEMA}, got {schema}; use a matching version of cmt")
        return from_json(cls, document, "results")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Results:
        """Read a results file.

        Raises:
            UsageError: It is missing, or no results file.
        """
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        except OSError as error:
            raise UsageError(
                f"{path}: expected a results file, got: {error.strerror}; `cmt attack` writes one"
            ) from None
        except (ValueError, RecursionError):
            raise UsageError(f"{path}: expected JSON written by `cmt attack`, got something else") from None
        try:
            return cls.from_json(document)
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a results file, whole or not at all.

        Raises:
            CmtError: It cannot be written.
        """
        with atomic_output(path) as temporary:
            temporary.write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")


def _order(cell: Cell) -> tuple[bool, int, float, str, str]:
    parameters = json.dumps(cell.parameters, sort_keys=True)
    return (not cell.adaptive, -cell.strength, -cell.rates.fooled.value, cell.attack, parameters)


def _refuse_constant(name: str) -> float:
    raise ValueError(name)
