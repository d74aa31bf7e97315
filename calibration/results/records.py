"""The parts of a results file: the file under attack, the images, the machine, one record for each attack.

`calibration.results.document` puts them together; rates are ``[value, low, high]``, see `calibration.metrics`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from calibration.metrics import Counts, Rates
from calibration.results.detection_figures import DetectionFigures
from calibration.results.image_columns import ChangeColumns, IntArray, VerdictColumns, unpack_labels
from runtime.errors import ModelError, UsageError
from runtime.spec import InputSpec


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

    def __post_init__(self) -> None:
        """Check what reports show one by one: the input."""
        try:
            InputSpec(**self.input)
        except (ModelError, TypeError) as error:
            raise UsageError(f"model.input: expected that of a guard file, got: {error}; attack again") from None


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
        labels: True label of each attacked image, packed (`image_columns.pack`); None in files of schema 1.

    Raises:
        UsageError: The sample is none of the split, or there is not one label for each image.
    """

    name: str
    split: str
    digest: str
    images: int
    sample: tuple[int, ...]
    seed: int
    eight_bit: bool
    labels: str | None

    def __post_init__(self) -> None:
        """Check the sample and the labels."""
        if any(low >= high for low, high in pairwise((-1, *self.sample, self.images))):
            raise UsageError(f"results: expected ascending indices of {self.images} images, got others in the sample")
        if self.labels is not None:
            unpack_labels(self.labels, count=len(self.sample))

    @property
    def truth(self) -> IntArray | None:
        """True label of each attacked image, ``(n,)`` int64; None in files of schema 1."""
        return None if self.labels is None else unpack_labels(self.labels, count=len(self.sample))


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
    """How far the gradient of one file is from differences of its own logits; see `gradients.check.GradientCheck`.

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
class LogitsCheck:
    """Whether a tensor that attacks take for logits holds probabilities, whose gradients vanish.

    Attributes:
        file: Which file.
        tensor: Which tensor.
        operator: The ONNX operator it comes from.
        probabilities: Whether every row of it was in [0, 1] and added up to 1.
    """

    file: str
    tensor: str
    operator: str
    probabilities: bool


@dataclass(frozen=True, kw_only=True)
class Repetition:
    """The same attack on the same images twice.

    Attributes:
        attack: What was crafted, in words.
        images: On how many images.
        different: For how many of them the pixels differed in one bit at least.
    """

    attack: str
    images: int
    different: int


@dataclass(frozen=True, kw_only=True)
class Score:
    """One set of verdicts: counts, the rates that follow from them, and the verdicts themselves.

    Attributes:
        counts: Outcomes.
        rates: The same as shares.
        verdicts: What was said to each image; None in files of schema 1.
    """

    counts: Counts
    rates: Rates
    verdicts: VerdictColumns | None


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
        verdicts: What was said to each attacked image; None in files of schema 1.
        changes: How far each image was changed; None in files of schema 1.
        detection: How well attacked images are told from benign ones; None in files of schema 1.
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
    verdicts: VerdictColumns | None
    changes: ChangeColumns | None
    detection: DetectionFigures | None
    mean_l2: float
    mean_linf: float
    largest_linf: float
    zero_gradients: int
    gradients_per_image: float
    queries_per_image: float
    seconds: float
    examples: tuple[Example, ...]

    def __post_init__(self) -> None:
        """Refuse a budget that is no number; everything else about parameters is the attack's own."""
        epsilon = self.parameters.get("epsilon", 0.0)
        if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not 0 <= epsilon <= sys.float_info.max:
            raise UsageError(f"parameters: expected epsilon as a number from 0, got {epsilon!a:.40}; attack again")


@dataclass(frozen=True, kw_only=True)
class Probe:
    """An attack that was run for a sanity check alone.

    Attributes:
        purpose: What it is compared for, ``one step``, ``doubled``, ``half``, ``unbounded``, ``noise``,
            ``decisions`` or ``twin``.
        of: The name of the planned attack it is a variant of.
        cell: What it found.
    """

    purpose: str
    of: str
    cell: Cell

    @property
    def on_twin(self) -> bool:
        """Whether the undefended twin was attacked and judged, in place of the file that the results are about."""
        return self.purpose == "twin"
