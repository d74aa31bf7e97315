from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import Guard
from tests.runtime.guard_files import Recipe, build


@pytest.fixture(scope="session")
def model() -> bytes:
    """An honest guard file under the pair rule."""
    return build(Recipe(threshold=0.25, calibrated=True))


@pytest.fixture
def model_path(model: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "guard.onnx"
    path.write_bytes(model)
    return path


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that every user reaches and may write to; those of pytest are closed to all but its own user."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.fixture(scope="session")
def guard(model: bytes) -> Guard:
    return Guard(model, device="cpu", threads=1)
