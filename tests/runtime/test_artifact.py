from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.artifact import MAX_BYTES, read_artifact
from runtime.errors import ModelError, StaleError, UsageError
from tests.runtime.guard_files import HASH, Recipe, build, document, graph_digest, read_document, restamp, unstamped


def test_path_and_bytes_are_the_same(model: bytes, model_path: Path) -> None:
    for source in (model, model_path, str(model_path)):
        artifact = read_artifact(source)
        assert artifact.model == model
        assert artifact.sha256 == hashlib.sha256(model).hexdigest()
        assert artifact.graph == graph_digest(model)
        assert artifact.spec.classes == ("cat", "dog", "eel", "fox")


@pytest.mark.parametrize("rule", ["pair", "confidence", "detector"])
def test_every_rule_is_read(rule: str) -> None:
    assert read_artifact(build(Recipe(rule=rule))).spec.rule == rule


def test_pin_matches_in_either_case(model: bytes) -> None:
    pin = hashlib.sha256(model).hexdigest()
    assert read_artifact(model, sha256=pin).sha256 == pin
    assert read_artifact(model, sha256=pin.upper()).sha256 == pin


def test_pin_is_looked_at_before_the_content() -> None:
    with pytest.raises(ModelError, match="expected the pinned SHA-256 000"):
        read_artifact(b"no model at all", sha256=HASH)


@pytest.mark.parametrize("pin", ["", "abc", "g" * 64, "0" * 63, "0" * 65, "0" * 64 + "\n", 5])
def test_pin_must_be_a_sha256(model: bytes, pin: str) -> None:
    with pytest.raises(UsageError, match="sha256: expected 64 hexadecimal digits"):
        read_artifact(model, sha256=pin)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nothing\.onnx.*expected a readable model file, got: No such file"):
        read_artifact(tmp_path / "nothing.onnx")


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="expected a readable model file, got: a folder, pipe"):
        read_artifact(tmp_path)


def test_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelError, match="got: a folder, pipe"):
        read_artifact(tmp_path / "pipe")


def test_null_byte_in_the_path() -> None:
    with pytest.raises(ModelError, match="embedded null"):
        read_artifact("a\0b")


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").touch()
    with pytest.raises(ModelError, match=f"expected 1 to {MAX_BYTES} bytes, got 0"):
        read_artifact(tmp_path / "empty.onnx")


def test_large_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    code = (
        "import resource, sys, runtime.artifact as a\n"
        "from runtime.errors import ModelError\n"
        "resource.setrlimit(resource.RLIMIT_AS, (a.MAX_BYTES, a.MAX_BYTES))\n"
        "try: a.read_artifact(sys.argv[1])\n"
        "except ModelError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert f"bytes, got {MAX_BYTES + 1}" in done.stdout


def test_symlink_to_a_file_is_followed(model: bytes, model_path: Path, tmp_path: Path) -> None:
    (tmp_path / "link.onnx").symlink_to(model_path)
    assert read_artifact(tmp_path / "link.onnx").model == model


def test_threshold_of_another_precision_is_stale(model: bytes) -> None:
    changed = read_document(model)
    changed["precision"] = "int8"
    with pytest.raises(StaleError, match=r"stale threshold: expected one measured on the precision int8, got .* fp32"):
        read_artifact(restamp(model, changed))


def test_threshold_of_another_graph_is_stale(model: bytes) -> None:
    other = build(Recipe(threshold=0.25, calibrated=True, seed=5))
    changed = read_document(other) | {"calibration": read_document(model)["calibration"]}
    with pytest.raises(StaleError, match="stale threshold: expected one measured on the graph"):
        read_artifact(restamp(other, changed))


def test_metadata_copied_onto_another_graph(model: bytes) -> None:
    other = unstamped(Recipe(threshold=0.25, seed=5))
    metadata = model[len(unstamped(Recipe(threshold=0.25))) :]
    with pytest.raises(ModelError, match=r"expected the digest .* do not belong together"):
        read_artifact(other + metadata)


@pytest.mark.parametrize(
    ("threshold", "message"),
    [(0.5, "expected 0.5 as in the metadata, got 0.25 in the graph"), (0.25000002, "expected 0.25000002 as in")],
    ids=["another", "next float"],
)
def test_threshold_must_be_the_graphs(model: bytes, threshold: float, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read_artifact(restamp(model, read_document(model) | {"threshold": threshold}))


def test_threshold_is_compared_as_float32() -> None:
    recipe = Recipe(threshold=0.1, calibrated=True)
    assert read_artifact(build(recipe)).spec.threshold == 0.1


def test_classmap_must_be_the_graphs(model: bytes) -> None:
    with pytest.raises(ModelError, match=r"classmap: expected .* as in the metadata, got .* in the graph"):
        read_artifact(restamp(model, read_document(model) | {"classmap": [2, 3, 0, 1]}))


def test_single_head_has_no_classmap_in_the_graph(model: bytes) -> None:
    changed = read_document(model) | {"rule": "confidence", "classmap": None}
    with pytest.raises(ModelError, match="expected the outputs"):
        read_artifact(restamp(model, changed))


def test_message_names_the_file(model_path: Path) -> None:
    model_path.write_bytes(b"GIF89a")
    with pytest.raises(ModelError, match=r"guard\.onnx.*expected"):
        read_artifact(model_path)


def test_golden_must_fit_the_shape() -> None:
    recipe = Recipe(document={"golden": document(Recipe(height=7), "")["golden"]})
    with pytest.raises(ModelError, match=r"golden\.image: expected 30 bytes, got '35 bytes'"):
        read_artifact(build(recipe))
