import numpy as np
import pytest
import torch

from cmt_export.augmentation import augment


def _pixels(n=64, shape=(3, 6, 5), seed=0):
    return torch.rand((n, *shape), generator=torch.Generator().manual_seed(seed))


def _augmented(pixels, seed=0, **options):
    options = {"flip": False, "crop": 0, "affine": 0.0} | options
    return augment(pixels, **options, generator=torch.Generator().manual_seed(seed))


def test_nothing_asked_for_changes_nothing():
    pixels = _pixels()
    assert _augmented(pixels) is pixels


def test_flip_mirrors_each_image_or_leaves_it():
    pixels = _pixels()
    flipped = _augmented(pixels, flip=True)
    mirrored = torch.from_numpy(pixels.numpy()[..., ::-1].copy())
    left = [torch.equal(one, same) for one, same in zip(flipped, pixels, strict=True)]
    turned = [torch.equal(one, same) for one, same in zip(flipped, mirrored, strict=True)]
    assert all(a != b for a, b in zip(left, turned, strict=True))
    assert 16 < sum(turned) < 48


@pytest.mark.parametrize("margin", [1, 2])
def test_crop_moves_each_image_and_fills_with_black(margin):
    pixels = _pixels(n=200)
    moved = _augmented(pixels, crop=margin).numpy()
    padded = np.pad(pixels.numpy(), [(0, 0), (0, 0), (margin, margin), (margin, margin)])
    offsets = [(y, x) for y in range(2 * margin + 1) for x in range(2 * margin + 1)]
    found = set()
    for one, frame in zip(moved, padded, strict=True):
        matching = [(y, x) for y, x in offsets if np.array_equal(one, frame[:, y : y + 6, x : x + 5])]
        assert len(matching) == 1
        found.add(matching[0])
    assert found == set(offsets)


def test_affine_draws_a_map_for_each_image_about_its_middle():
    pixels = torch.zeros(200, 1, 21, 21)
    pixels[:, :, 10, 10] = 0.3  # stays in the middle
    pixels[:, :, 9:12, 15:18] = 0.7
    moved = _augmented(pixels, affine=0.2)
    assert set(moved.unique().tolist()) == set(pixels.unique().tolist())
    assert (moved[:, 0, 10, 10] == pixels[0, 0, 10, 10]).all()
    other = moved.clone()
    other[:, 0, 8:13, 8:13] = 0
    columns = torch.arange(21.0) - 10
    mass = other.sum((1, 2, 3))
    across, down = ((other.sum(axis)[:, 0] * columns).sum(1) / mass for axis in (2, 3))
    # Output places are mapped to input places: 6 pixels to the right come from 6·(1 ± 0.2) and the rows 6·(± 0.2).
    assert 6 / 1.25 < across.min() < 5.4
    assert 6.6 < across.max() < 6 / 0.75
    assert -2 < down.min() < -0.5
    assert 0.5 < down.max() < 2


def test_affine_leaves_what_does_not_depend_on_the_place():
    inside = _augmented(torch.full((8, 3, 12, 12), 0.25), affine=0.1)[:, :, 4:8, 4:8]
    torch.testing.assert_close(inside, torch.full_like(inside, 0.25))


def test_the_generator_decides():
    pixels = _pixels()
    options = {"flip": True, "crop": 2, "affine": 0.1}
    assert torch.equal(_augmented(pixels, seed=3, **options), _augmented(pixels, seed=3, **options))
    assert not torch.equal(_augmented(pixels, seed=3, **options), _augmented(pixels, seed=4, **options))
