from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from runtime import Guard, ModelError, UsageError
from runtime.errors import DeviceError, StaleError
from tests.runtime.guard_files import Recipe, build, decide, random_images, read_document, restamp

RECIPES = {
    "pair": Recipe(),
    "pair with threshold": Recipe(threshold=0.3, calibrated=True),
    "confidence": Recipe(rule="confidence"),
    "confidence with threshold": Recipe(rule="confidence", threshold=0.9, calibrated=True),
    "detector": Recipe(rule="detector", threshold=0.9, calibrated=True),
    "colour": Recipe(channels=3, height=4, width=4),
    "two classes": Recipe(classes=("no", "yes"), classmap=(1, 0)),
}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("n", [1, 2, 7, 300])
def test_verdicts_follow_the_rule(name: str, n: int) -> None:
    recipe = RECIPES[name]
    guard = Guard(build(recipe), device="cpu", threads=1)
    images = random_images(recipe, n)
    verdicts, expected = guard.classify(images), decide(recipe, images)
    assert verdicts.labels.tolist() == expected["labels"].tolist()
    assert verdicts.accepted.tolist() == expected["accepted"].tolist()
    np.testing.assert_allclose(verdicts.confidence, expected["confidence"], atol=1e-5)
    np.testing.assert_allclose(verdicts.logits, expected["logits"], atol=1e-4)
    if recipe.rule == "pair":
        np.testing.assert_allclose(verdicts.robust_logits, expected["robust_logits"], atol=1e-4)
    else:
        assert verdicts.robust_logits is None
    arrays = (verdicts.labels, verdicts.accepted, verdicts.confidence, verdicts.logits)
    assert [array.dtype.name for array in arrays] == ["int32", "bool", "float32", "float32"]


def test_both_verdicts_occur() -> None:
    recipe = RECIPES["pair with threshold"]
    accepted = decide(recipe, random_images(recipe, 300))["accepted"]
    assert 0.1 < accepted.mean() < 0.9


def test_one_image_is_a_batch_of_one(guard: Guard) -> None:
    image = random_images(Recipe(), 1)[0]
    assert list(guard.classify(image)) == list(guard.classify(image[np.newaxis]))


@pytest.mark.parametrize(
    "view",
    [
        lambda images: np.asfortranarray(images),
        lambda images: np.repeat(images, 2, axis=2)[:, :, ::2],
        lambda images: images[::-1][::-1],
        lambda images: images.transpose(3, 2, 1, 0).copy().transpose(3, 2, 1, 0),
    ],
    ids=["fortran", "strided", "reversed", "transposed"],
)
def test_memory_layout_does_not_matter(guard: Guard, view: object) -> None:
    images = random_images(Recipe(), 5)
    assert np.array_equal(guard.classify(view(images)).logits, guard.classify(images).logits)  # type: ignore[operator]
    assert list(guard.classify(view(images)[0])) == [guard.classify(images)[0]]  # type: ignore[operator]


def test_read_only_images_are_fine(guard: Guard) -> None:
    images = random_images(Recipe(), 2)
    images.flags.writeable = False
    assert len(guard.classify(images)) == 2


@pytest.mark.parametrize(
    ("images", "got"),
    [
        (np.zeros((2, 6, 5, 1), np.float32), r"float32 \(2, 6, 5, 1\)"),
        (np.zeros((2, 6, 5, 1), np.int8), r"int8 \(2, 6, 5, 1\)"),
        (np.zeros((2, 6, 5, 1), np.bool_), r"bool \(2, 6, 5, 1\)"),
        (np.zeros((2, 6, 5, 1), object), r"object \(2, 6, 5, 1\)"),
        (np.zeros((2, 6, 5, 3), np.uint8), r"uint8 \(2, 6, 5, 3\)"),
        (np.zeros((2, 1, 6, 5), np.uint8), r"uint8 \(2, 1, 6, 5\)"),
        (np.zeros((2, 5, 6, 1), np.uint8), r"uint8 \(2, 5, 6, 1\)"),
        (np.zeros((0, 6, 5, 1), np.uint8), r"uint8 \(0, 6, 5, 1\)"),
        (np.zeros((2, 0, 0, 1), np.uint8), r"uint8 \(2, 0, 0, 1\)"),
        (np.zeros((6, 5), np.uint8), r"uint8 \(6, 5\)"),
        (np.zeros((1, 1, 6, 5, 1), np.uint8), r"uint8 \(1, 1, 6, 5, 1\)"),
        (np.zeros((), np.uint8), r"uint8 \(\)"),
        (np.ma.masked_array(np.zeros((2, 6, 5, 1), np.uint8), mask=True), r"uint8 \(2, 6, 5, 1\) with a mask"),
        ([[0]], "list"),
        (None, "NoneType"),
        (b"\x89PNG", "bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_wrong_images_are_named(guard: Guard, images: object, got: str) -> None:
    with pytest.raises(UsageError, match=rf"images: expected uint8 \(N, 6, 5, 1\) with N >= 1.*, got {got}; pass"):
        guard.classify(images)  # type: ignore[arg-type]


def test_what_a_guard_says_of_itself(model: bytes, model_path: Path) -> None:
    guard = Guard(model_path, device="cpu")
    assert guard.spec.input_shape == (6, 5, 1)
    assert guard.spec.classes == ("cat", "dog", "eel", "fox")
    assert guard.device == "cpu"
    assert guard.digest == guard.spec.digest
    assert guard.sha256 == hashlib.sha256(model).hexdigest()
    assert repr(guard) == f"<Guard '{model_path}': pair, 4 classes, cpu>"


def test_pin(model_path: Path, guard: Guard) -> None:
    assert Guard(model_path, sha256=guard.sha256).digest == guard.digest
    with pytest.raises(ModelError, match="expected the pinned SHA-256"):
        Guard(model_path, sha256="0" * 64)


def test_a_path_of_bytes_is_a_path(model_path: Path) -> None:
    folder = os.fsencode(model_path.parent)
    (entry,) = (entry for entry in os.scandir(folder) if entry.name == os.fsencode(model_path.name))
    with Guard(entry) as guard:
        assert guard.digest == Guard(model_path).digest


def test_auto_falls_back_and_says_so(model: bytes) -> None:
    assert Guard(model, device="auto").device == "cpu"


def test_cuda_by_name_is_refused_without_a_gpu(model: bytes) -> None:
    with pytest.raises(DeviceError, match="expected"):
        Guard(model, device="cuda")


@pytest.mark.parametrize("source", [None, 3, bytearray(b"x"), open], ids=["none", "int", "bytearray", "function"])
def test_model_must_be_path_or_bytes(source: object) -> None:
    with pytest.raises(UsageError, match="model: expected a path or bytes, got"):
        Guard(source)  # type: ignore[arg-type]


def test_device_is_checked_before_the_file() -> None:
    with pytest.raises(UsageError, match="device: expected auto"):
        Guard("missing.onnx", device="tpu")


def test_stale_threshold_is_refused(model: bytes) -> None:
    with pytest.raises(StaleError, match="stale threshold"):
        Guard(restamp(model, read_document(model) | {"precision": "int8"}))


def test_closed_guard_says_so(model: bytes) -> None:
    guard = Guard(model, device="cpu")
    guard.close()
    guard.close()
    with pytest.raises(UsageError, match="expected an open guard, got a closed one"):
        guard.classify(random_images(Recipe(), 1))
    with pytest.raises(UsageError, match="expected an open guard, got a closed one"):
        guard.classify_files(["absent.png"])


def test_context_manager_closes(model: bytes) -> None:
    with Guard(model, device="cpu") as guard:
        assert len(guard.classify(random_images(Recipe(), 1))) == 1
    with pytest.raises(UsageError, match="closed"):
        guard.warmup()


def test_warmup(guard: Guard) -> None:
    guard.warmup()
    guard.warmup(4)
    for batch in (0, 65_537, 10**20):
        with pytest.raises(UsageError, match=f"batch: expected a whole number from 1 to 65536, got {batch}"):
            guard.warmup(batch)


@pytest.mark.parametrize("broken", ["w", "v"], ids=["first head", "second head"])
def test_non_finite_logits_fail_closed(broken: str) -> None:
    """Weights that overflow only on bright images: the golden image stays dark and the file loads."""
    recipe = Recipe()
    size = int(np.prod(recipe.shape))
    huge = np.full((size, recipe.k), 3e38, np.float32)
    dark = np.zeros((1, *recipe.shape), np.uint8)
    golden = {"image": base64.b64encode(dark.tobytes()).decode(), "label": 0, "accepted": False, "confidence": 0.0625}
    bad = Recipe(weights={broken: huge}, document={"golden": golden})
    guard = Guard(build(bad), device="cpu", threads=1)
    verdicts = guard.classify(np.concatenate([dark, np.full_like(dark, 255)]))
    assert verdicts.labels.tolist() == [0, -1]
    assert verdicts.accepted.tolist() == [False, False]
    assert verdicts.confidence[1] == 0
    assert verdicts[1].name == ""


def test_a_view_larger_than_memory_is_refused(guard: Guard) -> None:
    images = np.broadcast_to(np.zeros((1, *guard.spec.input_shape), np.uint8), (2**50, *guard.spec.input_shape))
    with pytest.raises(UsageError, match=f"expected a batch that fits into memory, got {2**50}; pass fewer"):
        guard.classify(images)
