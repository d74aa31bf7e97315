import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibration.attacks import Deployed, Fgs, Pgd
from calibration.attacks.square import Square
from calibration.evaluation import unfinished
from calibration.evaluation.unfinished import Unfinished, UnfinishedAttack
from calibration.gradients import GradientGraph
from calibration.pixels import to_pixels
from calibration.results import Results
from runtime.errors import CmtError
from runtime.guard import Guard
from tests.calibration.cli_runs import ATTACK, FAST, cmt, fill
from tests.calibration.guards import dataset, guard_file
from tests.calibration.report_samples import results

PGD = Pgd(epsilon=0.2, steps=3, restarts=2)
SQUARE = Square(epsilon=0.2, queries=20)


@pytest.fixture(scope="module")
def victims():
    with Guard(guard_file(), device="cpu", threads=1) as guard:
        yield {"pgd": GradientGraph(guard_file(), of=["logits"], device="cpu", threads=1), "square": Deployed(guard)}


@pytest.fixture
def images():
    test = dataset().test
    return to_pixels(test.images[:50]), test.labels[:50]


@pytest.fixture
def worthwhile(monkeypatch):
    """Every batch is worth keeping."""
    monkeypatch.setattr(unfinished, "WORTH_KEEPING", 0.0)


def stopping(begun, after):
    """Keep batches as `begun` does, and be interrupted after some."""

    def keep(batch, craft):
        if batch.rows[0] >= after:
            raise KeyboardInterrupt
        return begun(batch, craft)

    return keep


def counting(begun):
    """Keep batches as `begun` does, and count those that are crafted."""
    crafted = []

    def keep(batch, craft):
        return begun(batch, lambda: crafted.append(batch.rows[0]) or craft())

    return keep, crafted


def same(one, other):
    for name in ("x_adv", "gradients", "queries", "no_gradient"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("attack", [PGD, SQUARE], ids=lambda one: one.name)
@pytest.mark.usefixtures("worthwhile")
def test_an_interrupted_attack_goes_on_to_the_same_images(attack, victims, images, tmp_path):
    begun = UnfinishedAttack(tmp_path / "parts" / "key")
    with pytest.raises(KeyboardInterrupt):
        attack(victims[attack.name], *images, batch_size=16, keep=stopping(begun, after=32))
    again = UnfinishedAttack(tmp_path / "parts" / "key")
    keep, crafted = counting(again)
    found = attack(victims[attack.name], *images, batch_size=16, keep=keep)
    assert crafted == [32, 48]
    assert again.seconds > 0
    same(found, attack(victims[attack.name], *images, batch_size=16))
    again.discard()
    assert not (tmp_path / "parts").exists()


def test_what_is_made_quickly_is_not_written(victims, images, tmp_path):
    PGD(victims["pgd"], *images, keep=UnfinishedAttack(tmp_path / "parts" / "key"))
    assert not (tmp_path / "parts").exists()


def shorten(path):
    path.write_bytes(path.read_bytes()[:-40])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(bytes(content))


def rewritten(**changes):
    def change(path):
        with np.load(path) as kept:
            arrays = {name: kept[name] for name in kept.files}
        for name, make in changes.items():
            arrays[name] = make(arrays[name])
        np.savez(path, **arrays)

    return change


def without_images(path):
    with np.load(path) as kept:
        np.savez(path, **{name: kept[name] for name in kept.files if name != "x"})


@pytest.mark.parametrize(
    "damage",
    [
        shorten,
        flip,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"PK\3\4"),
        without_images,
        rewritten(x=lambda x: x[:5]),
        rewritten(x=lambda x: x.astype(np.float64)),
        rewritten(x=lambda x: x.astype(object)),
        rewritten(gradients=lambda counts: counts[:-1]),
        rewritten(flat=lambda flat: flat.astype(np.int8)),
        rewritten(rows=lambda rows: rows + 1),
        rewritten(seconds=lambda seconds: -seconds),
        rewritten(seconds=lambda seconds: "long"),
    ],
    ids=[
        "cut short", "a bit flipped", "empty", "no archive", "no images", "fewer images", "another type", "objects",
        "fewer counts", "numbers for truth", "other rows", "a negative time", "no time",
    ],
)  # fmt: skip
@pytest.mark.usefixtures("worthwhile")
def test_what_is_damaged_is_made_again(damage, victims, images, tmp_path):
    folder = tmp_path / "key"
    whole = PGD(victims["pgd"], *images, batch_size=25, keep=UnfinishedAttack(folder))
    damage(folder / "25.npz")
    keep, crafted = counting(UnfinishedAttack(folder))
    same(PGD(victims["pgd"], *images, batch_size=25, keep=keep), whole)
    assert crafted == [25]


@pytest.mark.usefixtures("worthwhile")
def test_a_folder_that_cannot_be_written(victims, images, tmp_path):
    (tmp_path / "parts").write_bytes(b"a file")
    with pytest.raises(CmtError, match=r"-o '.*parts/key': expected a folder, got a file"):
        PGD(victims["pgd"], *images, keep=UnfinishedAttack(tmp_path / "parts" / "key"))


def test_another_file_image_or_machine_is_another_attack(tmp_path, victims, images, monkeypatch):
    monkeypatch.setattr(unfinished, "WORTH_KEEPING", 0.0)
    found = results()
    others = [
        replace(found, model=replace(found.model, sha256="ab" * 32)),
        replace(found, data=replace(found.data, digest="ab" * 32)),
        replace(found, data=replace(found.data, sample=(*found.data.sample[:-1], found.data.sample[-1] + 1))),
        replace(found, data=replace(found.data, seed=found.data.seed + 1)),
        replace(found, data=replace(found.data, eight_bit=not found.data.eight_bit)),
        replace(found, environment=replace(found.environment, threads=77)),
    ]
    kept = Unfinished(tmp_path / "parts", resume=True)
    for key, one in [("a", found), ("b", found), *(("a", other) for other in others)]:
        Fgs(epsilon=0.1)(victims["pgd"], *images, keep=kept.attack(key, one))
    assert len(list((tmp_path / "parts").iterdir())) == 2 + len(others)
    assert kept.found
    assert not Unfinished(tmp_path / "parts", resume=False).found


def test_a_killed_command_goes_on_within_its_attack(tmp_path, monkeypatch):
    """A real process, killed without a word in the middle of its only attack."""
    monkeypatch.chdir(tmp_path)
    fill(tmp_path)
    sweep = ["attack", "guard.onnx", "--data", "data.npz", "-n", "200", "-a", "igs", "--steps", "5000", *FAST]
    sweep += ["--epsilon", "0.2", "--threat", "nearly-white-box", "-o"]
    eager = "import sys; sys.argv[0] = 'cmt'; from calibration.evaluation import unfinished; "
    eager += "unfinished.WORTH_KEEPING = 0; from cmt_export.cli import main; main()"
    process = subprocess.Popen([sys.executable, "-c", eager, *sweep, "results.json"])
    parts = Path("results.json.parts")
    try:
        while process.poll() is None and not any(parts.glob("*/[0-9]*.npz")):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
    finally:
        process.kill()
    assert not Path("results.json").exists()
    [batch] = parts.glob("*/[0-9]*.npz")
    with np.load(batch) as kept:
        arrays = {name: kept[name] for name in kept.files}
    np.savez(batch, **(arrays | {"gradients": arrays["gradients"] + 1, "seconds": 5000.0}))
    for output in ("results.json", "straight.json"):
        assert cmt(monkeypatch, *sweep, output, "--resume") == 0
    assert not parts.exists()
    [again], [straight] = (Results.load(name).cells for name in ("results.json", "straight.json"))
    assert again.verdicts == straight.verdicts
    assert again.seconds > 5000 > straight.seconds
    taken = len(arrays["rows"]) / 200
    assert again.gradients_per_image == pytest.approx(straight.gradients_per_image + taken)


def test_without_resume_nothing_of_before_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path)
    parts = tmp_path / "results.json.parts" / "key"
    parts.mkdir(parents=True)
    np.savez(parts / "0.npz")
    assert cmt(monkeypatch, *ATTACK, *FAST) == 0
    assert not parts.exists()
