import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from calibration.report.gallery import LARGEST_SIDE, data_address, exhibit
from calibration.results.records import Answer
from runtime.errors import UsageError
from tests.calibration.report_samples import examples, png


def decoded(address):
    prefix, _, body = address.partition(",")
    assert prefix == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(body))) as image:
        return np.asarray(image)


def example(benign, attacked, **changes):
    return replace(examples(0.1)[0], benign_image=png(benign), attacked_image=png(attacked), **changes)


@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 3)], ids=["grey", "colour"])
def test_pictures_survive_and_the_difference_is_amplified_around_mid_grey(shape):
    rng = np.random.default_rng(0)
    benign = rng.integers(50, 200, shape, dtype=np.uint8)
    added = rng.integers(-20, 21, shape)
    attacked = (benign + added).astype(np.uint8)
    shown = exhibit(example(benign, attacked))
    gain = 127 // np.abs(added).max()
    np.testing.assert_array_equal(decoded(shown.benign), benign)
    np.testing.assert_array_equal(decoded(shown.attacked), attacked)
    np.testing.assert_array_equal(decoded(shown.difference), 128 + gain * added)
    assert (shown.gain, shown.height, shown.width, shown.tiny) == (gain, 8, 6, True)


def test_no_difference_is_plain_grey():
    image = np.arange(24, dtype=np.uint8).reshape(4, 6)
    assert (decoded(exhibit(example(image, image)).difference) == 128).all()


def test_the_largest_difference_stays_a_picture():
    shown = exhibit(example(np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8)))
    assert (decoded(shown.difference) == 255).all()
    assert shown.gain == 1


@pytest.mark.parametrize(
    ("label", "accepted", "outcome"),
    [
        (7, True, "correct"),
        (7, False, "rejected"),
        (3, True, "fooled"),
        (3, False, "rejected"),
        (-1, False, "rejected"),
    ],
)
def test_outcome(label, accepted, outcome):
    answer = Answer(label=label, accepted=accepted, confidence=0.5)
    assert exhibit(replace(examples(0.1)[0], label=7, attacked=answer)).outcome == outcome


def test_large_pictures_are_not_tiny():
    image = np.zeros((224, 224, 3), np.uint8)
    assert not exhibit(example(image, image)).tiny


def jpeg():
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, format="JPEG")
    return base64.b64encode(buffer.getvalue()).decode()


WIDE = base64.b64encode(base64.b64decode(data_address(np.zeros((1, LARGEST_SIDE + 1), np.uint8)).partition(",")[2]))
TRUNCATED = base64.b64encode(base64.b64decode(png(np.zeros((64, 64), np.uint8)))[:60]).decode()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("", "expected a PNG", id="empty"),
        pytest.param("%%%", "expected a PNG", id="not base64"),
        pytest.param("naïve", "expected a PNG", id="not ascii"),
        pytest.param(jpeg(), "expected a PNG", id="jpeg"),
        pytest.param(TRUNCATED, "expected a PNG", id="truncated"),
        pytest.param(WIDE.decode(), "expected up to 2048 pixels a side, got .2049, 1.", id="too large"),
        pytest.param(png(np.zeros((3, 3), np.uint8)), "expected pictures of one size", id="another size"),
    ],
)
def test_bad_pictures_are_refused_in_one_line(text, words):
    bad = replace(examples(0.1)[0], attacked_image=text)
    with pytest.raises(UsageError, match=words) as caught:
        exhibit(bad)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"example {bad.index}: ")
