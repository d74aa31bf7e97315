import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from cmt_export.checkpoint import PROBES, Checkpoint, Schedule
from cmt_export.recipes import Undefended
from cmt_export.run import resume
from cmt_export.training import train
from runtime.errors import CmtError, ModelError, UsageError
from tests.cmt_export.conftest import begin


def test_it_loads_with_weights_only_and_holds_the_full_configuration(checkpoint_path):
    document = torch.load(checkpoint_path, weights_only=True)
    assert document["recipe"]["epsilon"] == 0.2
    schedule = {"epochs": 20, "batch_size": 64, "learning_rate": 2e-3, "seed": 0, "flip": False, "crop": 0}
    schedule |= {"affine": 0.0}
    assert document["schedule"] == schedule
    assert document["execution"] == {"device": "cpu", "precision": "fp32", "channels_last": True, "threads": 1}
    assert document["classmap"] == [1, 2, 0]
    assert len(document["data"]["train"]) == 64


def test_it_carries_held_out_images(checkpoint, bars):
    n = min(PROBES, len(bars.test))
    assert checkpoint.probe_images.shape == (n, 8, 8, 1)
    assert checkpoint.probe_images.dtype == np.uint8
    known = {image.tobytes(): label for image, label in zip(bars.test.images, bars.test.labels, strict=True)}
    for image, label in zip(checkpoint.probe_images, checkpoint.probe_labels, strict=True):
        assert known[image.tobytes()] == label


def test_saving_and_loading_changes_nothing(checkpoint, tmp_path):
    checkpoint.save(tmp_path / "copy.pt")
    copy = Checkpoint.load(tmp_path / "copy.pt")
    for name, value in checkpoint.weights.items():
        torch.testing.assert_close(copy.weights[name], value, rtol=0, atol=0)
    assert (copy.recipe, copy.schedule, copy.classmap) == (checkpoint.recipe, checkpoint.schedule, checkpoint.classmap)
    assert copy.finished


OLD_OPTIONS = {
    "alpha": 0.4, "beta": 0.4, "gamma": 0.2, "robust_loss": "bounded", "literal_clamp": 10.0, "epsilon": 0.2,
    "epsilon_sampling": "uniform", "differentiated": "logits", "lock": "trained", "lock_width": 64,
}  # fmt: skip


def test_a_file_of_version_1_is_read_and_built(checkpoint_path, checkpoint, tmp_path):
    document = torch.load(checkpoint_path, weights_only=True)
    document |= {"version": 1, "recipe": {"name": "cmt"} | OLD_OPTIONS}
    torch.save(document, tmp_path / "old.pt")
    old = Checkpoint.load(tmp_path / "old.pt")
    assert old.recipe == checkpoint.recipe
    pixels = torch.rand(2, 1, 8, 8)
    assert torch.equal(old.build()(pixels).logits, checkpoint.build()(pixels).logits)


def test_an_undefended_file_of_version_1_drops_the_options_that_meant_nothing(bars, tmp_path):
    run = begin(bars, recipe=Undefended(), classmap=None, schedule=Schedule(epochs=1, batch_size=384))
    train(run, tmp_path / "new.pt")
    document = torch.load(tmp_path / "new.pt", weights_only=True)
    document |= {"version": 1, "recipe": {"name": "none"} | OLD_OPTIONS}
    torch.save(document, tmp_path / "old.pt")
    old = Checkpoint.load(tmp_path / "old.pt")
    assert old.recipe == Undefended()
    assert old.build()(torch.rand(2, 1, 8, 8)).robust_logits is None


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_hostile_pickle_is_refused_and_not_run(tmp_path):
    sentinel = tmp_path / "ran"
    torch.save({"format": "cmt.checkpoint", "weights": _Bomb(sentinel)}, tmp_path / "bomb.pt")
    with pytest.raises(ModelError, match="written by cmt train, got another file"):
        Checkpoint.load(tmp_path / "bomb.pt")
    assert not sentinel.exists()


def _write_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"a": 1}))


def _write_text(path: Path) -> None:
    path.write_text("not a checkpoint\n")


def _write_state_dict(path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2).state_dict(), path)


def _write_empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("write", [_write_pickle, _write_text, _write_state_dict, _write_empty])
def test_other_files_are_refused(write, tmp_path):
    write(tmp_path / "other.pt")
    with pytest.raises(ModelError, match="expected a checkpoint written by cmt train, got another"):
        Checkpoint.load(tmp_path / "other.pt")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"absent\.pt: expected a checkpoint written by cmt train, got no such file"):
        Checkpoint.load(tmp_path / "absent.pt")


@pytest.mark.parametrize("size", [10, 1000, 20_000])
def test_a_truncated_file_is_refused(size, checkpoint_path, tmp_path):
    (tmp_path / "cut.pt").write_bytes(checkpoint_path.read_bytes()[:size])
    with pytest.raises(ModelError, match="expected a checkpoint"):
        Checkpoint.load(tmp_path / "cut.pt")


def test_one_flipped_bit_of_a_weight_is_refused(checkpoint_path, checkpoint, tmp_path):
    content = bytearray(checkpoint_path.read_bytes())
    weight = checkpoint.weights["head.weight"].numpy().tobytes()
    content[content.index(weight) + 2] ^= 1
    (tmp_path / "flipped.pt").write_bytes(content)
    with pytest.raises(
        ModelError, match=r"a complete checkpoint, got a damaged one \(another checksum in '.*/data/\d+"
    ):
        Checkpoint.load(tmp_path / "flipped.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 3}, "version 1 or 2, got 3"),
        ({"weights": 3}, "a complete checkpoint, got a damaged one"),
        ({"recipe": {"no": "such"}}, "a complete checkpoint, got a damaged one"),
        ({"input_shape": [1]}, "a complete checkpoint, got a damaged one"),
    ],
    ids=["version", "weights", "recipe", "shape"],
)
def test_damaged_documents_are_refused(change, message, checkpoint_path, tmp_path):
    document = torch.load(checkpoint_path, weights_only=True)
    torch.save(document | change, tmp_path / "damaged.pt")
    with pytest.raises(ModelError, match=message):
        Checkpoint.load(tmp_path / "damaged.pt")


FACTS = {"name": "bars", "train": "0" * 64, "images": 384, "test": "0" * 64}
PROGRESS = {"epoch": 0, "step": 1, "loss_sum": torch.zeros(()), "optimizer": {}, "schedule": {}}
PROGRESS |= {"generator": torch.get_rng_state()}
EXECUTION_FACTS = {"device": "cpu", "precision": "fp32", "channels_last": True, "threads": 1}
CONTRADICTIONS = {
    "no data": ({"data": {}}, "no 'name'"),
    "no training digest": ({"data": {key: FACTS[key] for key in ("name", "images", "test")}}, "no 'train'"),
    "digest of another type": ({"data": FACTS | {"train": 3}}, "expected data.train as str, got 3"),
    "float probes": ({"probe_images": torch.zeros(96, 8, 8, 1)}, r"probe_images uint8 .*, got torch.float32 \(96, 8,"),
    "large probes": ({"probe_images": torch.zeros(96, 9, 8, 1).byte()}, r"uint8 \(N, 8, 8, 1\), N from 1, got torch.u"),
    "no probes": (
        {"probe_images": torch.zeros(0, 8, 8, 1).byte(), "probe_labels": torch.zeros(0).long()},
        r"probe_images uint8 \(N, 8, 8, 1\), N from 1, got torch.uint8 \(0, 8",
    ),
    "sparse probes": ({"probe_images": torch.zeros(96, 8, 8, 1).byte().to_sparse()}, "expected probe_images uint8"),
    "few labels": (
        {"probe_labels": torch.zeros(95).long()},
        r"probe_labels int64 \(96,\) in \[0, 3\), got torch.int64",
    ),
    "unknown label": ({"probe_labels": torch.full((96,), 3)}, r"probe_labels int64 \(96,\) in \[0, 3\), got '3..3'"),
    "float labels": ({"probe_labels": torch.zeros(96)}, "expected probe_labels int64"),
    "classes": ({"classes": ["a", "b\n", "c"]}, "expected classes of at least two distinct lines of text"),
    "fewer classes": ({"classes": ["a", "b"]}, "expected classmap of another one of 2 labels for each, got .1, 2, 0"),
    "pair of itself": ({"classmap": [0, 2, 1]}, "expected classmap of another one of 3 labels for each"),
    "no classmap": ({"classmap": None}, "expected a classmap for cmt"),
    "empty image": ({"input_shape": [1, 0, 8]}, "expected input_shape of three whole numbers from 1"),
    "weight": ({"weights": {"head.bias": 3}}, "expected weights of tensors by their names, got 'head.bias'"),
    "short progress": ({"progress": {"epoch": "x"}}, "expected progress.epoch as int, got 'x'"),
    "no optimiser": ({"progress": {"epoch": 0, "step": 1, "loss_sum": torch.zeros(())}}, "no 'optimizer'"),
    "epoch": ({"progress": PROGRESS | {"epoch": 20}}, r"expected progress.epoch in \[0, 20\), got 20"),
    "generator": ({"progress": PROGRESS | {"generator": torch.zeros(3)}}, "expected progress.generator as uint8"),
    "history": ({"history": []}, "expected history of the 20 epochs done"),
    "device": ({"execution": EXECUTION_FACTS | {"device": "abacus"}}, "expected execution.device cpu or cuda"),
    "epochs": (
        {"schedule": {"epochs": torch.ones(2), "batch_size": 1, "learning_rate": 1.0, "seed": 0}},
        r"expected schedule.epochs as int, got torch.float32 \(2,\)",
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_documents_that_contradict_themselves_are_refused_in_one_line(name, checkpoint_path, tmp_path):
    change, message = CONTRADICTIONS[name]
    torch.save(torch.load(checkpoint_path, weights_only=True) | change, tmp_path / "odd.pt")
    with pytest.raises(ModelError, match=rf"odd\.pt: expected a complete .* a damaged one \(.*{message}") as caught:
        Checkpoint.load(tmp_path / "odd.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["version", "format"])
def test_tensors_in_place_of_words_are_refused(key, checkpoint_path, tmp_path):
    torch.save(torch.load(checkpoint_path, weights_only=True) | {key: torch.ones(3)}, tmp_path / "odd.pt")
    with pytest.raises(ModelError, match=r"odd\.pt: expected .*, got ('Tensor'|another project's file)"):
        Checkpoint.load(tmp_path / "odd.pt")


def test_progress_of_another_network_is_refused(bars, checkpoint):
    checkpoint.progress = PROGRESS | {"optimizer": {"state": {}, "param_groups": []}}
    with pytest.raises(
        ModelError, match=r"--resume: expected the progress of this run, got a damaged one \(ValueError"
    ):
        resume(bars, checkpoint)


def test_moments_of_another_shape_are_refused(bars, checkpoint):
    state = begin(bars, recipe=checkpoint.recipe).optimizer.state_dict()
    moments = {"step": torch.ones(()), "exp_avg": torch.ones(3), "exp_avg_sq": torch.ones(3)}
    checkpoint.progress = PROGRESS | {"optimizer": state | {"state": {0: moments}}}
    with pytest.raises(ModelError, match=r"a damaged one \(ValueError: expected exp_avg \(.*\), got \(3,\)\)"):
        resume(bars, checkpoint)


def test_weights_of_another_network_are_refused(checkpoint):
    checkpoint.weights.pop("head.bias")
    with pytest.raises(ModelError, match="expected weights of the trunk 'oracle'"):
        checkpoint.build()


def test_the_code_of_a_trunk_is_never_taken_from_the_file(bars, tmp_path):
    run = begin(bars, trunk="tests.cmt_export.residual:make_trunk", schedule=Schedule(epochs=1, batch_size=64))
    train(run, tmp_path / "own.pt")
    loaded = Checkpoint.load(tmp_path / "own.pt")
    with pytest.raises(UsageError, match=r"code named by a file is never imported; .*--trunk tests\.cmt_export"):
        loaded.build()
    assert loaded.build("tests.cmt_export.residual:make_trunk")(torch.rand(2, 1, 8, 8)).logits.shape == (2, 3)


def test_an_unwritable_place_is_one_line(checkpoint, tmp_path):
    with pytest.raises(CmtError, match=r"expected to write it, got: No such file or directory"):
        checkpoint.save(tmp_path / "no" / "folder" / "model.pt")


def test_images_are_not_moved_backwards():
    with pytest.raises(UsageError, match="schedule: expected crop >= 0, got -1"):
        Schedule(crop=-1)
    with pytest.raises(UsageError, match=r"schedule: expected affine in \[0, 0.5\), got 0.5"):
        Schedule(affine=0.5)


@pytest.mark.parametrize("options", [{"epochs": 0}, {"batch_size": 0}, {"learning_rate": float("nan")}, {"seed": -1}])
def test_wrong_schedules(options):
    with pytest.raises(UsageError, match="schedule: expected epochs >= 1"):
        Schedule(**options)
