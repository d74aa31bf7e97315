from __future__ import annotations

import hashlib
import struct

import pytest

from runtime.artifact import canonical_json, digest, graph_digest, read_artifact
from runtime.errors import ModelError
from tests.runtime import onnx_bytes as onnx
from tests.runtime.guard_files import Recipe, build, document, stamp, unstamped

RECIPE = Recipe(threshold=0.3125)
BARE = unstamped(RECIPE)
DOCUMENT = document(RECIPE, "")


def test_digest_is_the_bytes_then_the_document() -> None:
    expected = hashlib.sha256(BARE + canonical_json(DOCUMENT).encode()).hexdigest()
    assert digest(BARE, DOCUMENT) == expected
    assert digest(BARE, DOCUMENT | {"digest": "anything"}) == expected


def test_graph_digest_zeroes_the_threshold_alone() -> None:
    raw = struct.pack("<f", 0.3125)
    assert BARE.count(raw) == 1
    assert graph_digest(BARE) == hashlib.sha256(BARE.replace(raw, bytes(4))).hexdigest()


def test_another_threshold_keeps_the_graph_digest() -> None:
    other = unstamped(Recipe(threshold=0.5))
    assert graph_digest(other) == graph_digest(BARE)
    assert digest(other, DOCUMENT) != digest(BARE, DOCUMENT)


def test_metadata_changes_neither() -> None:
    stamped = stamp(BARE, DOCUMENT)
    assert graph_digest(stamped) == graph_digest(BARE)
    assert digest(stamped, DOCUMENT) == digest(BARE, DOCUMENT)


def test_metadata_may_come_first() -> None:
    stamped = build(Recipe())
    bare = unstamped(Recipe())
    moved = stamped.removeprefix(bare) + bare
    assert graph_digest(moved) == graph_digest(stamped)
    assert read_artifact(moved).spec == read_artifact(stamped).spec


def test_field_order_counts() -> None:
    version, rest = BARE[:2], BARE[2:]
    assert graph_digest(rest + version) != graph_digest(BARE)


def test_a_file_without_threshold_has_no_digest() -> None:
    with pytest.raises(ModelError, match="expected the initializer threshold, got none"):
        graph_digest(onnx.model(onnx.graph([], {}, [], [])))
