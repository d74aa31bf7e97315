import numpy as np
import pytest

from calibration.availability import CHANGES, INVISIBLE, measure_availability
from runtime.guard import Guard
from tests.calibration.guards import dataset, guard_file

MOST = {
    "none": 0,
    "one grey level brighter": 1,
    "float noise of one level, rounded to 8 bits": 1,
    "normal noise, 1 level": 7,
    "normal noise, 2 levels": 14,
    "uniform noise, 0.1": 26,
}


def pictures(channels):
    """Smooth pictures, so that JPEG has little to lose."""
    row = np.linspace(0, 255, 16)
    image = np.add.outer(row, row)[..., None] / 2 * np.ones(channels)
    return np.rint(np.stack([image, 255 - image])).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "colour"])
@pytest.mark.parametrize("name", CHANGES)
def test_changes_are_small_and_keep_the_form(name, channels):
    images = pictures(channels)
    before = images.copy()
    changed = CHANGES[name](images, np.random.default_rng(0))
    assert (changed.dtype, changed.shape) == (np.uint8, images.shape)
    np.testing.assert_array_equal(images, before)
    assert np.abs(changed.astype(int) - images).max() <= MOST.get(name, 40)
    assert (name == "none") == np.array_equal(changed, images)


SHIFTS = {"right": (0, 1), "left": (0, -1), "down": (1, 0), "up": (-1, 0)}


@pytest.mark.parametrize("direction", SHIFTS)
def test_a_pixel_to_each_side(direction):
    images = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 1), dtype=np.uint8)
    where = {"up": "one pixel up", "down": "one pixel down"}.get(direction, f"one pixel to the {direction}")
    changed = CHANGES[where](images, np.random.default_rng(0))
    down, right = SHIFTS[direction]
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    np.testing.assert_array_equal(changed, padded[:, 1 - down : 6 - down, 1 - right : 8 - right])


def test_float_noise_moves_half_of_the_pixels_by_one_level():
    images = np.full((1, 100, 100, 1), 100, np.uint8)
    changed = CHANGES["float noise of one level, rounded to 8 bits"](images, np.random.default_rng(0))
    assert set(np.unique(changed)) == {99, 100, 101}
    assert np.mean(changed == 100) == pytest.approx(0.5, abs=0.03)


def test_shares_are_those_of_the_guard():
    test = dataset().test
    with Guard(guard_file(), device="cpu", threads=1) as guard:
        found = {one.change: one for one in measure_availability(guard, test.images[:50], test.labels[:50])}
        verdicts = guard.classify(test.images[:50])
    assert list(found) == list(CHANGES)
    assert {name for name, one in found.items() if one.invisible} == set(INVISIBLE)
    assert found["none"].accepted.value == verdicts.accepted.mean()
    assert found["none"].right_label.value == np.mean(verdicts.labels == test.labels[:50])
    assert found["uniform noise, 0.1"].accepted.low < found["uniform noise, 0.1"].accepted.value
