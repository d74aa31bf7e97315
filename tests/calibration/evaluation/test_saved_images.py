import csv

import numpy as np
import pytest
from PIL import Image

from calibration.attacks import Fgs
from calibration.evaluation import EvaluationConfig, evaluate
from calibration.evaluation.saved_images import COLUMNS, ImageFolder
from calibration.judge import Judge
from calibration.pixels import to_pixels
from runtime.artifact import read_artifact
from runtime.errors import CmtError, UsageError
from tests.calibration.guards import dataset, guard_file

N = 30


@pytest.fixture
def stored(tmp_path, request):
    """One attack, its results, and its folder."""
    (tmp_path / "guard.onnx").write_bytes(guard_file())
    images = ImageFolder(tmp_path / "images", resume=False)
    config = EvaluationConfig(
        attacks=(Fgs(epsilon=0.2),), threats=("grey-box",), n=N, eight_bit=request.param, device="cpu", threads=1
    )
    found = evaluate(config, tmp_path / "guard.onnx", dataset(), on_images=images.keep)
    (folder,) = (tmp_path / "images").iterdir()
    with (folder / "index.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert images.holds(found.cells[0])
    return found, folder, rows


def check_rows(found, rows):
    [cell] = found.cells
    assert tuple(rows[0]) == COLUMNS
    assert [int(row["index"]) for row in rows] == list(found.data.sample)
    assert [int(row["label"]) for row in rows] == found.data.truth.tolist()
    outcomes = [row["outcome"] for row in rows]
    for name in ("fooled", "rejected", "correct"):
        assert outcomes.count(name) == getattr(cell.counts, name)
    assert {row["accepted"] for row in rows} <= {"true", "false"}
    np.testing.assert_array_equal(
        np.array([row["confidence"] for row in rows], np.float32), cell.verdicts.confidence_array
    )
    np.testing.assert_array_equal(np.array([row["linf"] for row in rows], np.float32), cell.changes.norm("linf"))


@pytest.mark.parametrize("stored", [True], indirect=True, ids=["8 bit"])
def test_pictures_get_the_verdict_of_their_row_again(stored):
    found, folder, rows = stored
    check_rows(found, rows)
    images = np.stack([np.asarray(Image.open(folder / row["file"])) for row in rows])[..., None]
    judge = Judge(read_artifact(folder.parents[1] / "guard.onnx"), device="cpu", threads=1)
    verdicts = judge.verdicts(to_pixels(images))
    assert [str(one).lower() for one in verdicts.accepted.tolist()] == [row["accepted"] for row in rows]
    assert [int(row["answer"]) for row in rows] == verdicts.labels.tolist()


@pytest.mark.parametrize("stored", [False], indirect=True, ids=["float"])
def test_pixels_get_the_verdict_of_their_row_again(stored):
    found, folder, rows = stored
    check_rows(found, rows)
    with np.load(folder / "images.npz") as kept:
        x_adv, index, labels = kept["x_adv"], kept["index"], kept["labels"]
    assert (x_adv.dtype, x_adv.shape) == (np.float32, (N, 1, 6, 5))
    assert index.tolist() == list(found.data.sample)
    assert labels.tolist() == found.data.truth.tolist()
    judge = Judge(read_artifact(folder.parents[1] / "guard.onnx"), device="cpu", threads=1)
    assert judge.verdicts(x_adv).labels.tolist() == [int(row["answer"]) for row in rows]
    assert sorted(path.name for path in folder.iterdir()) == ["images.npz", "index.csv"]


def test_places_that_are_taken(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="expected a folder, got a file"):
        ImageFolder(tmp_path / "file", resume=False)
    with pytest.raises(UsageError, match="expected an empty or new folder, got files in it"):
        ImageFolder(tmp_path, resume=False)
    ImageFolder(tmp_path, resume=True)


def test_a_folder_below_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises((UsageError, CmtError), match="expected"):
        ImageFolder(tmp_path / "file" / "images", resume=False)
