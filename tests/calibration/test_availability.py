import numpy as np
import pytest

from calibration.availability import CHANGES, measure_availability
from runtime.guard import Guard
from tests.calibration.guards import dataset, guard_file

MOST = {
    "none": 0,
    "one grey level brighter": 1,
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


def test_a_pixel_to_the_right():
    images = pictures(1)
    shifted = CHANGES["one pixel to the right"](images, np.random.default_rng(0))
    np.testing.assert_array_equal(shifted[:, :, 1:], images[:, :, :-1])
    np.testing.assert_array_equal(shifted[:, :, 0], images[:, :, 0])


def test_shares_are_those_of_the_guard():
    test = dataset().test
    with Guard(guard_file(), device="cpu", threads=1) as guard:
        found = {one.change: one for one in measure_availability(guard, test.images[:50], test.labels[:50])}
        verdicts = guard.classify(test.images[:50])
    assert list(found) == list(CHANGES)
    assert found["none"].accepted.value == verdicts.accepted.mean()
    assert found["none"].right_label.value == np.mean(verdicts.labels == test.labels[:50])
    assert found["uniform noise, 0.1"].accepted.low < found["uniform noise, 0.1"].accepted.value
