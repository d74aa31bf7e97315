from __future__ import annotations

import json
from typing import Any

import pytest

from runtime.errors import ModelError
from runtime.spec import GuardSpec, InputSpec, canonical_json
from tests.runtime.guard_files import HASH, Recipe, document

GOOD = document(Recipe(threshold=0.25, calibrated=True), HASH) | {"digest": HASH}
CALIBRATION = GOOD["calibration"]


def edited(path: str, value: Any) -> dict[str, Any]:
    """The good document with one value replaced; `...` removes it."""
    changed = json.loads(json.dumps(GOOD))
    *parents, last = path.split(".")
    place = changed
    for parent in parents:
        place = place[parent]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return changed


def test_json_round_trip_is_exact() -> None:
    text = canonical_json(GOOD)
    spec = GuardSpec.from_json(text)
    assert spec.to_json() == text
    assert GuardSpec.from_json(spec.to_json()) == spec
    assert spec.input_shape == (6, 5, 1)
    assert spec.classmap == (1, 0, 3, 2)


def test_canonical_json_is_what_the_format_document_says() -> None:
    assert canonical_json({"b": [1, 2.5, None], "a": "é\n"}) == '{"a":"\\u00e9\\n","b":[1,2.5,null]}'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"x"], ids=["nan", "inf", "set", "bytes"])
def test_canonical_json_refuses(value: object) -> None:
    with pytest.raises(ModelError, match="expected a JSON document"):
        canonical_json({"a": value})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected JSON"),
        ("{", "expected JSON"),
        ("[" * 100_000, "expected JSON"),
        ("1" * 5000, "expected JSON"),
        ("[]", "expected an object"),
        ("null", "expected an object"),
        ("NaN", "expected a JSON document"),
        (json.dumps(GOOD), "expected canonical JSON"),
        (canonical_json(GOOD) + " ", "expected canonical JSON"),
        (canonical_json(GOOD).replace('"schema":1', '"schema":1,"schema":1'), "expected canonical JSON"),
        (canonical_json(GOOD).replace('"cat"', '"c\\u0061t"'), "expected canonical JSON"),
        (canonical_json(GOOD).replace("0.25", "0.250"), "expected canonical JSON"),
    ],
    ids=[
        "empty",
        "cut off",
        "very deep",
        "huge number",
        "list",
        "null",
        "nan",
        "spaces",
        "trailing space",
        "repeated key",
        "escape",
        "digits",
    ],
)
def test_from_json_refuses(text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        GuardSpec.from_json(text)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("schema", 2, "expected schema 1, got 2"),
        ("schema", True, "schema: expected 1, got True"),
        ("schema", "1", "schema: expected 1"),
        ("schema", ..., "got missing .'schema'."),
        ("surprise", 1, "unknown .'surprise'."),
        ("rule", "none", "rule: expected one of"),
        ("rule", ["pair"], "rule: expected one of"),
        ("classes", [], "classes: expected a list of at least 2 names"),
        ("classes", ["cat"], "classes: expected a list of at least 2 names"),
        ("classes", "cats", "classes: expected a list"),
        ("classes", ["cat", "dog", "cat", "fox"], "classes: expected distinct names"),
        ("classes", ["cat", "", "eel", "fox"], "classes.1.: expected a line of text"),
        ("classes", ["cat", 2, "eel", "fox"], "classes.1.: expected a line of text"),
        ("classes", ["cat", "\ud800", "eel", "fox"], "classes.1.: expected a line of text"),
        ("classes", ["cat", "\x1b[2J", "eel", "fox"], "classes.1.: expected a line of text"),
        ("classmap", None, "classmap: expected a list of labels"),
        ("classmap", [1, 0, 3], "classmap: expected 4 labels, one a class"),
        ("classmap", [1, 0, 3, 2, 1], "classmap: expected 4 labels, one a class"),
        ("classmap", [1, 0, 3, 4], "classmap.3.: expected a label below 4"),
        ("classmap", [1, 0, 3, -1], "classmap.3.: expected a label below 4"),
        ("classmap", [0, 1, 3, 2], "classmap.0.: expected a label below 4 other than 0"),
        ("classmap", [1.0, 0, 3, 2], "classmap.0.: expected a label"),
        ("classmap", [True, 0, 3, 2], "classmap.0.: expected a label"),
        ("threshold", 1.5, "threshold: expected a number in .0, 1."),
        ("threshold", -0.1, "threshold: expected a number in .0, 1."),
        ("threshold", "0", "threshold: expected a number in .0, 1."),
        ("threshold", False, "threshold: expected a number in .0, 1."),
        ("calibration", None, "calibration: expected a record of how threshold 0.25 was measured"),
        ("calibration", [], "calibration: expected an object"),
        ("calibration.data", "abc", "calibration.data: expected a SHA-256"),
        ("calibration.graph", HASH.replace("0", "A"), "calibration.graph: expected a SHA-256"),
        ("calibration.images", 0, "calibration.images: expected a whole number >= 1"),
        ("calibration.images", 1.0, "calibration.images: expected a whole number >= 1"),
        ("calibration.acceptance", 0, "calibration.acceptance: expected a number in .0, 1."),
        ("calibration.reached", 2, "calibration.reached: expected a number in"),
        ("calibration.precision", "", "calibration.precision: expected a line of text"),
        ("calibration.extra", 1, "calibration: expected the keys"),
        ("input.height", 0, "input.height: expected a whole number in 1"),
        ("input.width", 2.5, "input.width: expected a whole number in 1"),
        ("input.channels", True, "input.channels: expected a whole number in 1"),
        ("input.max_pixels", -1, "input.max_pixels: expected a whole number in 1"),
        ("input.height", 10**4000, "input.height: expected a whole number in 1"),
        ("input.max_pixels", 2**31, "input.max_pixels: expected a whole number in 1"),
        ("input.resize", "nearest", "input.resize: expected one of"),
        ("input.resize", {}, "input.resize: expected one of"),
        ("input.depth", 3, "input: expected the keys"),
        ("precision", None, "precision: expected a line of text"),
        ("recipe", [], "recipe: expected an object"),
        ("training", {}, "training: expected an object with the line of text `data`"),
        ("training", None, "training: expected an object with the line of text `data`"),
        ("training", {"data": ""}, "training: expected an object with the line of text `data`"),
        ("training", {"data": "a\x1b[2J"}, "training: expected an object with the line of text `data`"),
        ("training", {"data": "\ud800"}, "training: expected an object with the line of text `data`"),
        ("producer", {"name": "cmt"}, "producer: expected the keys"),
        ("producer.version", 1, "producer.version: expected a line of text"),
        ("golden", None, "golden: expected an object"),
        ("golden.image", "AAAA", "golden.image: expected 30 bytes, got '3 bytes'"),
        ("golden.image", "A", "golden.image: expected base64"),
        ("golden.image", "AA==\n", "golden.image: expected base64"),
        ("golden.image", "é", "golden.image: expected base64"),
        ("golden.image", 5, "golden.image: expected base64"),
        ("golden.label", 4, "golden.label: expected a label in 0..3"),
        ("golden.label", -1, "golden.label: expected a label in 0..3"),
        ("golden.accepted", 1, "golden.accepted: expected true or false"),
        ("golden.confidence", 1.1, "golden.confidence: expected a number in"),
        ("digest", "0" * 63, "digest: expected a SHA-256"),
        ("digest", ..., "got missing .'digest'."),
    ],
    ids=lambda value: str(value)[:24] if isinstance(value, str) else None,
)
def test_every_field_is_checked(path: str, value: object, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        GuardSpec.from_json(canonical_json(edited(path, value)))


@pytest.mark.parametrize("rule", ["confidence", "detector"])
def test_only_the_pair_rule_has_a_classmap(rule: str) -> None:
    assert GuardSpec.from_document(edited("rule", rule) | {"classmap": None}).classmap is None
    with pytest.raises(ModelError, match=f"classmap: expected null under the rule {rule}"):
        GuardSpec.from_document(edited("rule", rule))


def test_threshold_zero_needs_no_calibration() -> None:
    assert GuardSpec.from_document(edited("threshold", 0) | {"calibration": None}).calibration is None


def test_configuration_is_frozen_and_keyword_only() -> None:
    spec = InputSpec(height=1, width=1, channels=1, resize="none", max_pixels=1)
    with pytest.raises(AttributeError, match="cannot assign"):
        spec.height = 2  # type: ignore[misc]
    with pytest.raises(TypeError, match="positional"):
        InputSpec(1, 1, 1, "none", 1)  # type: ignore[misc]
