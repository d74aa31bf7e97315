import numpy as np
import pytest

from calibration.gradients.check import check_gradient

PIXELS = np.random.default_rng(1).random((8, 1, 6, 6), dtype=np.float32)
AXIS = np.random.default_rng(2).standard_normal(36)
AXIS -= AXIS.mean()  # small values have small rounding
AXIS /= np.linalg.norm(AXIS)
PERIOD = 2.37e-3  # no step is a multiple of it


def slopes(x, *, wrong=0.0):
    """Value and slope along AXIS of a line of slope 100 that turns by 60 after every half PERIOD."""
    along = x.reshape(len(x), -1).astype(np.float64) @ AXIS
    place = np.mod(along / PERIOD, 1.0)
    value = 100 * along + 60 * PERIOD * np.where(place < 0.5, place, 1 - place)
    return value, np.where(place < 0.5, 160.0, 40.0) + wrong


def check(x, *, wrong=0.0):
    return check_gradient(
        lambda x: {"logits": slopes(x)[0].astype(np.float32)[:, None]},
        lambda x, weights: (
            ((weights["logits"][:, 0] * slopes(x, wrong=wrong)[1])[:, None] * AXIS[None])
            .reshape(x.shape)
            .astype(np.float32)
        ),
        x,
    )


def test_kinks_beside_every_image_are_no_error():
    assert check(PIXELS).relative_error < 0.2


def test_large_logits_are_no_error():
    """Short steps do not change them in float32: quotients of zero agree, and say nothing."""
    offset, bend = 1000.0, 0.3

    def logits(x):
        along = x.reshape(len(x), -1).astype(np.float64) @ AXIS
        return {"logits": (offset + along + bend * along**2).astype(np.float32)[:, None]}

    def vjp(x, weights):
        along = x.reshape(len(x), -1).astype(np.float64) @ AXIS
        slope = weights["logits"][:, 0] * (1 + 2 * bend * along)
        return (slope[:, None] * AXIS[None]).reshape(x.shape).astype(np.float32)

    assert check_gradient(logits, vjp, PIXELS).relative_error < 0.2


@pytest.mark.parametrize("wrong", [-200.0, 100.0])
def test_a_wrong_gradient_is_found_among_them(wrong):
    assert check(PIXELS, wrong=wrong).relative_error > 0.5
