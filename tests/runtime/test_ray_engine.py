"""On a real cluster: a head and two machines' worth of processes on loopback, one of them killed in the middle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner

from runtime import CmtError, UsageError
from runtime.cli import score
from tests.runtime.image_files import encode, noise

ROOT = Path(__file__).parents[2]
HAS_RAY = find_spec("ray") is not None and find_spec("pyarrow") is not None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Many names of a few pictures that take some milliseconds each; every fiftieth is no image."""
    root = tmp_path / "images"
    root.mkdir()
    for index in range(8):
        (tmp_path / f"{index}.jpg").write_bytes(encode(noise(480, 640, 3, seed=index), "JPEG"))
    (tmp_path / "none").write_bytes(b"no image")
    for index in range(800):
        os.link(tmp_path / ("none" if index % 50 == 7 else f"{index % 8}.jpg"), root / f"{index:04}.jpg")
    return root


def test_a_machine_is_lost_and_no_row_is(model_path: Path, tmp_path: Path, folder: Path) -> None:
    model_path.write_bytes(model_of_large_images())
    output = tmp_path / "rows.csv"
    if not HAS_RAY:
        error = (
            CliRunner().invoke(score, [str(model_path), str(folder), "-o", str(output), "--engine", "ray"]).exception
        )
        with pytest.raises(UsageError, match=r"--engine ray: expected ray\[data\], got none; install cmt\[ray\]"):
            raise error or AssertionError
        return
    whole = tmp_path / "whole.csv"
    options = [str(model_path), str(folder), "--logits", "--batch", "4"]
    CliRunner().invoke(score, [*options, "-o", str(whole)])
    command = [sys.executable, ROOT / "tests/runtime/ray_cluster.py", model_path, folder, output]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["in_the_middle"], told
    assert "got 16 that are not" in told["errors"]
    assert output.read_bytes() == whole.read_bytes()


def test_no_cluster_at_the_address(model_path: Path, tmp_path: Path, folder: Path) -> None:
    options = [str(model_path), str(folder), "-o", str(tmp_path / "rows.csv")]
    error = CliRunner().invoke(score, [*options, "--engine", "ray", "--address", "127.0.0.1:1"]).exception
    with pytest.raises(CmtError, match=r"expected a Ray cluster, got|expected ray"):
        raise error or AssertionError
    assert not (tmp_path / "rows.csv").exists()


def model_of_large_images() -> bytes:
    from tests.runtime.guard_files import Recipe, build

    return build(Recipe(threshold=0.25, calibrated=True, max_pixels=1 << 20))
