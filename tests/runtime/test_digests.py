from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import sys
from pathlib import Path

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


@pytest.mark.parametrize("library", ["libcrypto.so.3", "libcrypto.so.none"])
def test_an_openssl_that_offers_no_hash_stops_nothing(library: str, tmp_path: Path) -> None:
    (tmp_path / "openssl.cnf").write_text(
        "openssl_conf = here\n[here]\nproviders = these\n[these]\nbase = it\n[it]\nactivate = 1\n"
    )
    code = (
        "from runtime import openssl; from runtime.digests import sha256\n"
        f"openssl.OpenSSL.__init__.__defaults__ = ({library!r},)\n"
        "print(sha256(b'abc').hexdigest())"
    )
    environment = os.environ | {"OPENSSL_CONF": str(tmp_path / "openssl.cnf")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
