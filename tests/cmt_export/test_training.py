import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from calibration.datasets import make_dataset
from cmt_export.checkpoint import Checkpoint, Execution, Schedule
from cmt_export.execution import choose_execution, resolve_device, running
from cmt_export.networks import TRUNKS, build_network
from cmt_export.recipes import Batch, Cmt, Undefended
from cmt_export.run import resume
from cmt_export.training import Step, train
from runtime.errors import CmtError, DeviceError, UsageError
from tests.cmt_export import residual
from tests.cmt_export.conftest import CLASSMAP, EXECUTION, begin, make_bars


def test_it_learns_to_classify_and_to_pair(checkpoint):
    assert checkpoint.history[-1]["accuracy"] > 0.95
    assert checkpoint.history[-1]["rejected"] < 0.2
    assert len(checkpoint.history) == 20


def _same_weights(left: Checkpoint, right: Checkpoint) -> bool:
    return all(torch.equal(left.weights[name], right.weights[name]) for name in left.weights)


@pytest.mark.parametrize("trunk", ["oracle", "tests.cmt_export.residual:make_trunk"], ids=["dropout", "batch-norm"])
@pytest.mark.parametrize("stop_at", [6, 8, 12], ids=["epoch-end", "mid-epoch", "later-epoch-end"])
def test_a_stopped_run_resumes_to_the_same_bits(bars, tmp_path, trunk, stop_at):
    schedule = Schedule(epochs=3, batch_size=64, flip=True, crop=1, affine=0.1)
    straight = train(begin(bars, trunk=trunk, schedule=schedule), tmp_path / "straight.pt")

    def stop(step: Step) -> None:
        if step.record is None and step.epoch * step.steps + step.step == stop_at:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(begin(bars, trunk=trunk, schedule=schedule), tmp_path / "stopped.pt", on_step=stop)
    stopped = Checkpoint.load(tmp_path / "stopped.pt")
    assert not stopped.finished
    resumed = train(resume(bars, stopped, trunk=trunk), tmp_path / "stopped.pt")
    assert _same_weights(straight, resumed)
    assert straight.history == resumed.history
    assert Checkpoint.load(tmp_path / "stopped.pt").finished


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(bars, tmp_path):
    first, same, other = (
        train(begin(bars, schedule=Schedule(epochs=1, batch_size=64, seed=seed)), tmp_path / "model.pt")
        for seed in (0, 0, 1)
    )
    assert _same_weights(first, same)
    assert not _same_weights(first, other)


def _write_out(data, network, loss, *, epochs, batch_size, learning_rate, seed):
    """The training of recipes `none` and `cmt` as a plain loop: the order of images, epsilons and dropout by hand."""
    network.train().to(memory_format=torch.channels_last)
    weights = list(network.parameters())
    optimizer = torch.optim.Adam(weights, lr=learning_rate, fused=True)
    n = len(data.train)
    steps = math.ceil(n / batch_size)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=learning_rate, total_steps=epochs * steps + 1, cycle_momentum=False
    )
    for epoch in range(epochs):
        generator = np.random.default_rng([seed, epoch])
        order, epsilons = generator.permutation(n), 0.2 * (1 - generator.random(steps))
        torch.manual_seed(seed * 1_000_003 + epoch + 1)
        for step, epsilon in enumerate(epsilons):
            rows = np.sort(order[step * n // steps : (step + 1) * n // steps])
            pixels = torch.from_numpy(data.train.images[rows].transpose(0, 3, 1, 2).astype(np.float32) / 255)
            pixels = pixels.to(memory_format=torch.channels_last)
            optimizer.zero_grad()
            loss(pixels, torch.from_numpy(data.train.labels[rows]), float(epsilon)).backward()
            optimizer.step()
            cycle.step()
    return network.state_dict()


@pytest.mark.parametrize("name", ["none", "cmt"])
def test_published_recipes_train_bit_for_bit_as_written_out(bars, tmp_path, name):
    """What files of these two recipes were trained with must stay what they are trained with."""
    recipe, dual = (Undefended(), False) if name == "none" else (Cmt(epsilon=0.2), True)
    options = {"epochs": 2, "batch_size": 64, "learning_rate": 2e-3, "seed": 5}
    schedule = Schedule(**options)
    got = train(
        begin(bars, recipe=recipe, schedule=schedule, classmap=CLASSMAP if dual else None), tmp_path / "m.pt"
    ).weights

    torch.manual_seed(5)
    lock = "trained" if dual else "none"
    network = build_network(TRUNKS["oracle"], input_shape=(1, 8, 8), classes=3, dual=dual, lock=lock)

    def loss(pixels, labels, epsilon):
        clean = network(pixels := pixels.requires_grad_(dual))
        if not dual:
            return F.cross_entropy(clean.logits, labels)
        others = clean.logits.scatter(1, labels[:, None], -torch.inf).logsumexp(1)
        odds = others - clean.logits.gather(1, labels[:, None])[:, 0]
        (gradient,) = torch.autograd.grad(odds.sum(), pixels, retain_graph=True)
        attacked = network((pixels.detach() + epsilon * gradient.sign()).clamp(0, 1))
        return recipe.multi_task_loss(clean, attacked, labels, torch.tensor(CLASSMAP)[labels])

    with running(EXECUTION):  # on some processors the number of threads changes the bits
        expected = _write_out(bars, network, loss, **options)
    for weight, value in expected.items():
        assert torch.equal(got[weight], value), weight


def test_an_interrupted_checkpoint_is_usable(bars, tmp_path):
    def stop(step: Step) -> None:
        if step.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        train(begin(bars), tmp_path / "model.pt", on_step=stop)
    network = Checkpoint.load(tmp_path / "model.pt").build()
    assert network(torch.rand(2, 1, 8, 8)).logits.shape == (2, 3)


def test_a_killed_run_goes_on_from_its_last_epoch(tmp_path, bars):
    """A real process, a real SIGKILL."""
    path = tmp_path / "model.pt"
    code = (
        "import sys, time; from pathlib import Path\n"
        "from tests.cmt_export.conftest import begin, make_bars\n"
        "from calibration.datasets import make_dataset\n"
        "from cmt_export.training import train\n"
        "bars = make_dataset('bars', ['vertical', 'horizontal', 'diagonal'], make_bars(384, 0), make_bars(96, 1))\n"
        "def stall(step):\n if (step.epoch, step.step) == (1, 2): time.sleep(3600)\n"
        "train(begin(bars), Path(sys.argv[1]), on_step=stall)\n"
    )
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], cwd=root, env=os.environ | {"PYTHONPATH": str(root)}
    )
    try:
        while not path.exists():
            assert process.poll() is None
            time.sleep(0.1)
    finally:
        process.kill()
        process.wait()
    killed = Checkpoint.load(path)
    assert (killed.finished, len(killed.history)) == (False, 1)
    resumed = train(resume(bars, killed), path)
    assert _same_weights(resumed, train(begin(bars), tmp_path / "straight.pt"))


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(bars, tmp_path):
    with pytest.raises(
        CmtError, match=r"expected a finite loss, got (nan|inf) in epoch 1; lower --learning-rate"
    ) as caught:
        train(begin(bars, schedule=Schedule(epochs=1, batch_size=64, learning_rate=1e30)), tmp_path / "model.pt")
    assert caught.value.exit_code == 1
    assert not list(tmp_path.iterdir())


def test_every_step_and_epoch_is_reported(bars, tmp_path):
    steps = []
    train(begin(bars), tmp_path / "model.pt", on_step=steps.append)
    assert [step.step for step in steps if step.record is None] == [1, 2, 3, 4, 5, 6] * 2
    assert [step.epoch for step in steps if step.record] == [0, 1]
    assert math.isfinite(steps[-1].loss)


def test_no_batch_is_too_small_for_batch_normalisation(tmp_path):
    images, labels = make_bars(65, 3)
    data = make_dataset("odd", ["a", "b", "c"], (images, labels), make_bars(9, 4))
    run = begin(data, trunk="tests.cmt_export.residual:make_trunk", schedule=Schedule(epochs=1, batch_size=64))
    assert math.isfinite(train(run, tmp_path / "model.pt").history[0]["loss"])


def test_resuming_on_other_data_is_refused(bars, tmp_path):
    def stop(step: Step) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(begin(bars), tmp_path / "model.pt", on_step=stop)
    other = make_dataset("others", bars.classes, make_bars(384, 7), make_bars(96, 8))
    with pytest.raises(UsageError, match=r"expected the data the run began with \(bars\), got others"):
        resume(other, Checkpoint.load(tmp_path / "model.pt"))


def test_a_finished_run_is_not_resumed(bars, checkpoint):
    with pytest.raises(UsageError, match="expected an unfinished checkpoint"):
        resume(bars, checkpoint)


@pytest.mark.parametrize(
    ("classmap", "message"),
    [
        (None, "expected 3 labels, got none"),
        ((1, 0), "expected 3 labels, got 2"),
        ((1, 1, 0), "expected another class for every class, got 1 for 1"),
        ((1, 3, 0), "expected another class for every class, got 3 for 1"),
    ],
    ids=["none", "short", "fixed-point", "range"],
)
def test_wrong_classmaps(bars, classmap, message):
    with pytest.raises(UsageError, match=message):
        begin(bars, classmap=classmap)


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("lock", ["trained", "frozen", "additive", "gated", "none"])
def test_every_execution_and_lock_trains(bars, tmp_path, precision, channels_last, lock):
    execution = Execution(device="cpu", precision=precision, channels_last=channels_last, threads=1)
    run = begin(
        bars,
        execution=execution,
        recipe=Cmt(lock=lock),
        trunk="tests.cmt_export.residual:make_trunk",
        schedule=Schedule(epochs=1, batch_size=128),
    )
    before = {name: value.clone() for name, value in run.network.state_dict().items()}
    weights = train(run, tmp_path / "model.pt").weights
    moved = {name for name, value in weights.items() if not torch.equal(value, before[name])}
    assert any(name.startswith("robust_head") for name in moved)
    assert any(name.startswith("lock") for name in moved) == (lock not in ("frozen", "none"))


def test_the_execution_is_measured_and_leaves_the_generator_alone():
    torch.manual_seed(5)
    network = build_network(residual.make_trunk, input_shape=(1, 8, 8), classes=3, dual=True, lock="trained")
    batch = Batch(
        pixels=torch.rand(8, 1, 8, 8),
        labels=torch.zeros(8, dtype=torch.int64),
        classmap=torch.tensor(CLASSMAP),
        position=1.0,
        draw=1.0,
        generator=torch.Generator(),
    )
    state, weights = torch.get_rng_state(), network.head.weight.clone()
    chosen = choose_execution(network, Cmt(), batch, threads=1)
    assert chosen.precision in ("fp32", "bf16")
    assert (chosen.device, chosen.threads) == (resolve_device("auto"), 1)
    assert torch.equal(network.head.weight, weights)
    assert network.head.weight.grad is None
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(("name", "error"), [("tpu", UsageError), ("cuda", DeviceError)])
def test_devices_that_are_not_there(name, error, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(error, match=f"--device.*expected.*{'got' if name == 'cuda' else 'tpu'}"):
        resolve_device(name)


def test_every_batch_has_its_own_draw_position_and_generator(bars):
    run = begin(bars, schedule=Schedule(epochs=2, batch_size=2))
    order, draws = run.shuffle()
    assert sorted(order) == list(range(384))
    assert len(draws) == 192
    assert 0 < draws.min() < 0.1
    assert 0.9 < draws.max() <= 1
    first = run.batch(order[:2], draws[0])
    run.step = 191
    last = run.batch(order[-2:], draws[-1])
    assert (first.position, last.position) == (1 / 384, 0.5)
    assert first.generator.initial_seed() != last.generator.initial_seed()
    run.epoch, run.step = 1, 0
    assert not np.array_equal(run.shuffle()[0], order)
    assert run.batch(order[:2], 1.0).generator.initial_seed() != first.generator.initial_seed()


def test_augmentation_changes_pixels_anew_in_every_step_and_no_other_random_number(bars):
    plain, changed = (begin(bars, schedule=Schedule(epochs=1, batch_size=8, crop=crop)) for crop in (0, 2))
    rows = np.arange(8)
    before, after = plain.batch(rows, 1.0), changed.batch(rows, 1.0)
    assert torch.equal(before.labels, after.labels)
    assert before.generator.initial_seed() == after.generator.initial_seed()
    assert not torch.equal(before.pixels, after.pixels)
    assert torch.equal(after.pixels, changed.batch(rows, 1.0).pixels)
    changed.step = 1
    assert not torch.equal(after.pixels, changed.batch(rows, 1.0).pixels)


def test_images_are_not_moved_out_of_themselves(bars):
    with pytest.raises(UsageError, match="--crop: expected less than the images' 8x8 pixels, got 8"):
        begin(bars, schedule=Schedule(crop=8))
