from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest

from runtime.doctor import NEEDS, ONE_NODE, Examination, examine, find_problems, missing_modules
from runtime.session import CPU, CUDA, create_session
from tests.runtime import onnx_bytes as onnx


@pytest.fixture(scope="module")
def found() -> Examination:
    return examine()


def test_the_one_node_model_is_what_its_comment_says() -> None:
    value = [1]
    graph = onnx.graph(
        [onnx.node("Identity", "x", "y")],
        {},
        [onnx.value_info("x", onnx.FLOAT, value)],
        [onnx.value_info("y", onnx.FLOAT, value)],
    )
    assert onnx.model(graph) == ONE_NODE
    (y,) = create_session(ONE_NODE, device="cpu").run(None, {"x": np.array([7], np.float32)})
    assert y.tolist() == [7]


def test_this_machine(found: Examination) -> None:
    assert found.providers[CPU] == ""
    assert found.python == ".".join(map(str, sys.version_info[:3]))
    assert found.versions["numpy"] == np.__version__
    assert 1 <= found.threads <= found.affinity
    assert found.missing_libraries == []
    assert asdict(found)["problems"] == found.problems


def test_score_can_run_wherever_these_tests_do() -> None:
    assert "score" not in missing_modules()
    assert set(missing_modules()) <= set(NEEDS)


def test_a_missing_module_names_its_extra() -> None:
    """In an interpreter that finds no third-party package at all."""
    code = "from runtime.doctor import missing_modules as m; import json; print(json.dumps(m()))"
    blocked = (
        "import sys, importlib.util, importlib.machinery, onnxruntime\n"
        "sys.path = [path for path in sys.path if 'site-packages' not in path]\n"
    )
    done = subprocess.run([sys.executable, "-c", blocked + code], capture_output=True, text=True, check=True)
    assert '"attack": {"onnx": "cmt[attack]", "scipy": "cmt[attack]"' in done.stdout
    assert '"torch": "cmt[train]"' in done.stdout
    assert '"pyarrow": "cmt[parquet]"' in done.stdout


@pytest.mark.parametrize(
    ("versions", "providers", "libraries", "expected"),
    [
        ({"onnxruntime": "1.32"}, {CPU: ""}, [], []),
        (
            {"onnxruntime": "1", "onnxruntime-gpu": "1"},
            {},
            [],
            ["onnxruntime and onnxruntime-gpu overwrite each other"],
        ),
        ({"onnxruntime": None, "onnxruntime-gpu": "1"}, {}, ["libcudnn.so.9"], ["CUDA needs libcudnn.so.9"]),
        ({}, {CUDA: "no device", CPU: ""}, [], [f"{CUDA} is listed but does not start: no device"]),
    ],
    ids=["healthy", "both packages", "library", "provider"],
)
def test_problems(
    versions: dict[str, str | None], providers: dict[str, str], libraries: list[str], expected: list[str]
) -> None:
    problems = find_problems(versions, providers, libraries)
    assert len(problems) == len(expected)
    assert all(problem.startswith(start) for problem, start in zip(problems, expected, strict=True))
