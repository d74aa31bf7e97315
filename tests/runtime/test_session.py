from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest

from runtime.cpus import usable_cpus
from runtime.errors import DeviceError, ModelError, UsageError
from runtime.session import (
    CPU,
    CUDA,
    Device,
    _Session,
    _start,
    available_providers,
    create_session,
    parse_device,
    providers_for,
    running_device,
    session_options,
    try_provider,
)
from tests.runtime import onnx_bytes as onnx
from tests.runtime.guard_files import Recipe, decide, random_images


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auto", Device(name="auto")),
        ("cpu", Device(name="cpu")),
        ("cuda", Device(name="cuda")),
        ("cuda:0", Device(name="cuda", gpu=0)),
        ("cuda:12", Device(name="cuda", gpu=12)),
    ],
)
def test_parse_device(text: str, expected: Device) -> None:
    assert parse_device(text) == expected


@pytest.mark.parametrize("text", ["", "gpu", "CPU", "cuda:", "cuda:-1", "cuda:1234", "cuda:1\n", "cpu:0", 0, None])
def test_parse_device_refuses(text: str) -> None:
    with pytest.raises(UsageError, match="device: expected auto, cpu, cuda or cuda:N, got"):
        parse_device(text)


@pytest.mark.parametrize(
    ("device", "available", "expected"),
    [
        ("cpu", [CUDA, CPU], [CPU]),
        ("auto", [CPU], [CPU]),
        ("auto", [CUDA, CPU], [(CUDA, {"device_id": "0", "use_tf32": "0"}), CPU]),
        ("cuda:3", [CUDA, CPU], [(CUDA, {"device_id": "3", "use_tf32": "0"}), CPU]),
    ],
    ids=["cpu", "auto without", "auto with", "cuda:3"],
)
def test_providers_for(device: str, available: list[str], expected: list[object]) -> None:
    assert providers_for(parse_device(device), available) == expected


def test_cuda_needs_a_build_with_cuda() -> None:
    with pytest.raises(DeviceError, match="expected a build with CUDA"):
        providers_for(parse_device("cuda"), [CPU])


@pytest.mark.parametrize(
    ("device", "active", "expected"),
    [
        ("cpu", [CPU], "cpu"),
        ("auto", [CPU], "cpu"),
        ("auto", [CUDA, CPU], "cuda:0"),
        ("cuda", [CUDA, CPU], "cuda:0"),
        ("cuda:1", [CUDA, CPU], "cuda:1"),
    ],
)
def test_running_device(device: str, active: list[str], expected: str) -> None:
    assert running_device(parse_device(device), active) == expected


@pytest.mark.parametrize("active", [[CPU], []], ids=["silent fallback", "nothing"])
def test_cuda_by_name_never_falls_back(active: list[str]) -> None:
    with pytest.raises(DeviceError, match="device cuda:0: expected it to start, got only"):
        running_device(parse_device("cuda"), active)


def test_create_session_runs_the_file(model: bytes) -> None:
    recipe = Recipe(threshold=0.25)
    images = random_images(recipe, 5)
    session = create_session(model, device="cpu", threads=1)
    (labels,) = session.run(["labels"], {"images": images})
    assert labels.tolist() == decide(recipe, images)["labels"].tolist()
    assert session.get_providers() == [CPU]


def test_cuda_does_not_run_on_this_build(model: bytes) -> None:
    assert CUDA not in available_providers()
    with pytest.raises(DeviceError, match="expected"):
        create_session(model, device="cuda")


def test_options() -> None:
    options = session_options(3)
    assert options.intra_op_num_threads == 3
    assert options.inter_op_num_threads == 1
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    assert session_options().intra_op_num_threads == usable_cpus()


@pytest.mark.parametrize("threads", [0, -1, 1.0, True, "2", 5000])
def test_threads_must_be_a_number(threads: int) -> None:
    with pytest.raises(UsageError, match="threads: expected a whole number from 1 to 1024, got"):
        session_options(threads)


def test_bad_bytes_are_a_model_error_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelError, match="expected a graph that ONNX Runtime loads, got: "):
        create_session(b"\x08\x0a" + bytes(100), device="cpu")
    assert capfd.readouterr() == ("", "")


def test_a_broken_graph_is_not_tried_again_on_another_provider(capfd: pytest.CaptureFixture[str]) -> None:
    """Its message is no UTF-8, which older versions of ONNX Runtime take for a reason to print and retry."""
    node = onnx.node("Nonsense", "x", "y") + onnx.field(3, b"\xff\xfe")
    graph = onnx.graph([node], {}, [onnx.value_info("x", 1, [1])], [onnx.value_info("y", 1, [1])])
    with pytest.raises(ModelError, match="expected a graph that ONNX Runtime loads, got: "):
        create_session(onnx.model(graph), device="cpu")
    assert capfd.readouterr() == ("", "")


def test_ort_format_is_not_loaded() -> None:
    with pytest.raises(ModelError, match="expected a graph that ONNX Runtime loads"):
        create_session(b"\x08\x00\x00\x00ORTM" + bytes(100), device="cpu")


def test_try_provider(model: bytes) -> None:
    assert try_provider(model, CPU) == ""
    assert "got" in try_provider(b"nonsense", CPU)


def test_a_session_keeps_no_bytes_for_attempts_that_it_made_needless(model: bytes) -> None:
    held = [model, model]
    assert _start(held, session_options(1), [CPU]).get_providers() == [CPU]
    assert held == []


class Twice(_Session):
    """An ONNX Runtime to come that looks at the model before it loads it."""

    def _create_inference_session(self, *args: Any) -> None:
        assert self._model_bytes
        super()._create_inference_session(*args)


class Never(_Session):
    """An ONNX Runtime to come that keeps what it is given elsewhere."""

    _model_bytes = b""


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Twice, r"\d asks for the model twice, install an older one"), (Never, r"but \d.* never asked for it, got: ")],
)
def test_an_onnxruntime_that_takes_the_model_otherwise_is_named(
    model: bytes, kind: type[_Session], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.session._Session", kind)
    with pytest.raises(ModelError, match=message):
        create_session(model, device="cpu")


def test_results_do_not_depend_on_the_neighbours(model: bytes) -> None:
    images = random_images(Recipe(), 8)
    session = create_session(model, device="cpu", threads=1)
    order = np.random.default_rng(0).permutation(8)
    (straight,) = session.run(["logits"], {"images": images})
    (shuffled,) = session.run(["logits"], {"images": images[order]})
    assert np.array_equal(straight[order], shuffled)
