"""What a file says about itself: the one metadata document `cmt.guard`, read strictly and written canonically.

Source: ``docs/file-format.md``, "Metadata".
"""

from __future__ import annotations

import binascii
import json
import math
import struct
from collections.abc import Iterable, Mapping
from typing import Any, Literal, cast

from runtime.errors import ModelError
from runtime.records import Record

SCHEMA = 1
LARGEST = 2**31 - 1
RULES = ("pair", "confidence", "detector")
RESIZES = ("bilinear", "bicubic", "none")

Rule = Literal["pair", "confidence", "detector"]
Resize = Literal["bilinear", "bicubic", "none"]


def canonical_json(document: object) -> str:
    """Return the one spelling of a JSON document that digests are taken over.

    Args:
        document: Anything `json` can write: objects, arrays, strings, finite numbers, booleans, null.

    Returns:
        ASCII text, keys sorted, separators ``,`` and ``:``.

    Raises:
        ModelError: The document holds something JSON cannot express, NaN and infinity included.
    """
    try:
        return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelError(f"metadata: expected a JSON document, got {error}; keep to plain JSON values") from None


class InputSpec(Record):
    """The images a guard takes, and how an image file becomes one.

    Attributes:
        height: Rows of the input, at least 1.
        width: Columns of the input, at least 1.
        channels: Values per pixel, at least 1; image files can fill 1 (grey) or 3 (RGB).
        resize: Filter for an image file of another size, ``none`` refuses it.
        max_pixels: Largest height * width of an image file that is decoded at all.

    Raises:
        ModelError: A field is out of range.
    """

    height: int
    width: int
    channels: int
    resize: Resize
    max_pixels: int

    def __post_init__(self) -> None:
        """Check every field."""
        for name in ("height", "width", "channels", "max_pixels"):
            value = getattr(self, name)
            _expect(_is_int(value, 1) and value <= LARGEST, f"input.{name}", f"a whole number in 1..{LARGEST}", value)
        _expect(is_text(self.resize) and self.resize in RESIZES, "input.resize", f"one of {RESIZES}", self.resize)


class Golden(Record):
    """One image with wide margins and the verdict its producer saw.

    Attributes:
        image: ``H * W * C`` bytes, row by row, channels last.
        label: The class it must get.
        accepted: Whether it must be accepted.
        confidence: What its confidence was, in [0, 1].
    """

    image: bytes
    label: int
    accepted: bool
    confidence: float

    def to_document(self) -> dict[str, Any]:
        """Return it as plain JSON values, the image as base64."""
        return {**self._asdict(), "image": _to_base64(self.image)}


class Calibration(Record):
    """Where a threshold comes from.

    Attributes:
        data: SHA-256 of the held-out set.
        images: Its size.
        acceptance: The share of correctly classified images that was to be kept, in (0, 1].
        per_class: Whether of each class by itself.
        reached: The share that is kept, in [0, 1].
        interval: Its exact 95 % interval.
        precision: Precision of the graph it was measured on.
        graph: Graph digest of the file it was measured on.
    """

    data: str
    images: int
    acceptance: float
    per_class: bool
    reached: float
    interval: tuple[float, float]
    precision: str
    graph: str

    def to_document(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {**self._asdict(), "interval": list(self.interval)}


class Producer(Record):
    """The program that wrote the file.

    Attributes:
        name: Its name.
        version: Its version.
    """

    name: str
    version: str


class GuardSpec(Record):
    """The metadata document of one guard file.

    Attributes:
        schema: Version of the document, 1.
        rule: What `accepted` means: ``pair``, ``confidence`` or ``detector``.
        classes: K >= 2 distinct names.
        classmap: M, K labels with ``M[y] != y``; None unless the rule is ``pair``.
        threshold: Least confidence that is accepted, in [0, 1].
        calibration: How the threshold was measured; None when it is 0 and nothing was.
        input: The images it takes.
        precision: ``fp32``, ``int8``, ...
        recipe: Every option of the training objective.
        training: What is known of the training data; `data` is its SHA-256.
        producer: The program that wrote the file.
        golden: One image and its verdict, run whenever the file is loaded.
        digest: SHA-256 of graph and document.

    Raises:
        ModelError: A field has the wrong type, is out of range or contradicts another one.
    """

    schema: int
    rule: Rule
    classes: tuple[str, ...]
    classmap: tuple[int, ...] | None
    threshold: float
    calibration: Calibration | None
    input: InputSpec
    precision: str
    recipe: Mapping[str, Any]
    training: Mapping[str, Any]
    producer: Producer
    golden: Golden
    digest: str

    def __post_init__(self) -> None:
        """Check every field and how they fit together."""
        _expect(_is_int(self.schema, SCHEMA) and self.schema == SCHEMA, "schema", str(SCHEMA), self.schema)
        _expect(is_text(self.rule) and self.rule in RULES, "rule", f"one of {RULES}", self.rule)
        _check_classes(self.classes)
        self._check_classmap()
        _expect(_is_share(self.threshold), "threshold", "a number in [0, 1]", self.threshold)
        measured = self.calibration is not None or self.threshold == 0
        _expect(measured, "calibration", f"a record of how threshold {self.threshold} was measured", None)
        if self.calibration is not None:
            _check_calibration(self.calibration)
        _expect(is_text(self.precision), "precision", "a line of text", self.precision)
        _expect(isinstance(self.recipe, Mapping), "recipe", "an object", self.recipe)
        known = isinstance(self.training, Mapping) and is_text(self.training.get("data"))
        _expect(known, "training", "an object with the line of text `data`", self.training)
        _expect(is_text(self.producer.name), "producer.name", "a line of text", self.producer.name)
        _expect(is_text(self.producer.version), "producer.version", "a line of text", self.producer.version)
        _check_golden(self.golden, size=math.prod(self.input_shape), k=len(self.classes))
        _expect(is_sha256(self.digest), "digest", "a SHA-256", self.digest)

    def _check_classmap(self) -> None:
        if self.rule != "pair":
            _expect(self.classmap is None, "classmap", f"null under the rule {self.rule}", self.classmap)
            return
        k = len(self.classes)
        _expect(isinstance(self.classmap, tuple), "classmap", "a list of labels under the rule pair", self.classmap)
        classmap = cast(tuple[int, ...], self.classmap)
        _expect(len(classmap) == k, "classmap", f"{k} labels, one a class", f"{len(classmap)} of them")
        for label, partner in enumerate(classmap):
            valid = _is_int(partner, 0) and partner < k and partner != label
            _expect(valid, f"classmap[{label}]", f"a label below {k} other than {label}", partner)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one image."""
        return self.input.height, self.input.width, self.input.channels

    @property
    def threshold32(self) -> float:
        """The threshold as the graph compares with it: rounded to float32."""
        rounded: float = struct.unpack("<f", struct.pack("<f", self.threshold))[0]
        return rounded

    @classmethod
    def from_json(cls, text: str) -> GuardSpec:
        """Read the document as a file holds it.

        Raises:
            ModelError: It is not JSON, not canonical, or a field is missing, unknown, mistyped or out of range.
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"metadata: expected JSON, got {_shorten(error)}; export the file again") from None
        if canonical_json(document) != text:
            raise ModelError("metadata: expected canonical JSON, got another spelling of it; export the file again")
        return cls.from_document(document)

    @classmethod
    def from_document(cls, document: object) -> GuardSpec:
        """Build a spec from the parsed document.

        Raises:
            ModelError: A field is missing, unknown, of the wrong type or out of range.
        """
        schema = document.get("schema") if isinstance(document, dict) else None
        if _is_int(schema, 0) and schema != SCHEMA:
            raise ModelError(
                f"metadata: expected schema {SCHEMA}, got {_shorten(schema)}; use a matching version of cmt"
            )
        values = _keys(document, cls._fields, "metadata")
        golden = Golden(**_keys(values["golden"], Golden._fields, "golden"))
        values["golden"] = golden._replace(image=_from_base64(golden.image))
        values["classes"] = _tuple(values["classes"], "classes")
        if values["classmap"] is not None:
            values["classmap"] = _tuple(values["classmap"], "classmap")
        values["input"] = InputSpec(**_keys(values["input"], InputSpec._fields, "input"))
        values["producer"] = Producer(**_keys(values["producer"], Producer._fields, "producer"))
        if values["calibration"] is not None:
            record = _keys(values["calibration"], Calibration._fields, "calibration")
            record["interval"] = _tuple(record["interval"], "calibration.interval")
            values["calibration"] = Calibration(**record)
        return cls(**values)

    def to_document(self) -> dict[str, Any]:
        """Return the document as plain JSON values, `digest` included."""
        document = self._asdict()
        document["golden"] = self.golden.to_document()
        document["classes"] = list(self.classes)
        document["classmap"] = None if self.classmap is None else list(self.classmap)
        document["input"] = self.input._asdict()
        document["producer"] = self.producer._asdict()
        document["calibration"] = None if self.calibration is None else self.calibration.to_document()
        document["recipe"] = dict(self.recipe)
        document["training"] = dict(self.training)
        return document

    def to_json(self) -> str:
        """Return the document in its one canonical spelling."""
        return canonical_json(self.to_document())


def _check_classes(classes: tuple[str, ...]) -> None:
    _expect(isinstance(classes, tuple) and len(classes) >= 2, "classes", "a list of at least 2 names", classes)
    for index, name in enumerate(classes):
        _expect(is_text(name), f"classes[{index}]", "a line of text", name)
    _expect(len(set(classes)) == len(classes), "classes", "distinct names", classes)


def _check_calibration(calibration: Calibration) -> None:
    for name in ("data", "graph"):
        value = getattr(calibration, name)
        _expect(is_sha256(value), f"calibration.{name}", "a SHA-256", value)
    _expect(_is_int(calibration.images, 1), "calibration.images", "a whole number >= 1", calibration.images)
    within = _is_share(calibration.acceptance) and calibration.acceptance > 0
    _expect(within, "calibration.acceptance", "a number in (0, 1]", calibration.acceptance)
    _expect(_is_share(calibration.reached), "calibration.reached", "a number in [0, 1]", calibration.reached)
    _expect(isinstance(calibration.per_class, bool), "calibration.per_class", "true or false", calibration.per_class)
    low_high = calibration.interval
    ordered = len(low_high) == 2 and all(map(_is_share, low_high)) and low_high[0] <= calibration.reached <= low_high[1]
    _expect(ordered, "calibration.interval", "two numbers around `reached`", low_high)
    _expect(is_text(calibration.precision), "calibration.precision", "a line of text", calibration.precision)


def _check_golden(golden: Golden, *, size: int, k: int) -> None:
    _expect(len(golden.image) == size, "golden.image", f"{size} bytes", f"{len(golden.image)} bytes")
    _expect(_is_int(golden.label, 0) and golden.label < k, "golden.label", f"a label in 0..{k - 1}", golden.label)
    _expect(isinstance(golden.accepted, bool), "golden.accepted", "true or false", golden.accepted)
    _expect(_is_share(golden.confidence), "golden.confidence", "a number in [0, 1]", golden.confidence)


def _keys(value: object, names: Iterable[str], where: str) -> dict[str, Any]:
    """Return a copy of `value` once its keys are exactly `names`."""
    expected = set(names)
    _expect(isinstance(value, dict), where, "an object", value)
    got = cast(dict[str, Any], value)
    if got.keys() != expected:
        missing, unknown = sorted(expected - got.keys()), sorted(got.keys() - expected)
        raise ModelError(
            f"{where}: expected the keys {sorted(expected)}, got missing {missing} and unknown {_shorten(unknown)}"
            "; export the file again"
        )
    return dict(got)


def _tuple(value: object, where: str) -> tuple[Any, ...]:
    _expect(isinstance(value, list), where, "a list", value)
    return tuple(cast(list[Any], value))


def _to_base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def _from_base64(text: object) -> bytes:
    try:
        data = binascii.a2b_base64(cast(str, text), strict_mode=True)
    except (TypeError, ValueError):
        data = None
    spelled = data is not None and _to_base64(data) == text
    _expect(spelled, "golden.image", "base64", text)
    return cast(bytes, data)


def _is_int(value: object, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def is_text(value: object) -> bool:
    """Say whether `value` is non-empty text for one line: no control characters, no lone surrogates."""
    return isinstance(value, str) and value != "" and not any(map(_is_control, value))


def _is_control(letter: str) -> bool:
    return letter < " " or "\x7f" <= letter <= "\x9f" or letter in "\u2028\u2029" or "\ud800" <= letter <= "\udfff"


def is_sha256(value: object) -> bool:
    """Say whether `value` is 64 lower-case hexadecimal digits."""
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def _expect(condition: bool, where: str, expected: str, got: object) -> None:
    if not condition:
        raise ModelError(f"{where}: expected {expected}, got {_shorten(got)}; export the file again")


def _shorten(value: object) -> str:
    """Return one short line of `value` for a message, whatever it holds."""
    try:
        text = str(value) if isinstance(value, Exception) else ascii(value)
    except (ValueError, RecursionError):
        text = f"a very large {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."
