import numpy as np
import pytest

from calibration.report.confusion_table import LEVELS, confusion_table
from tests.calibration.report.test_gallery import decoded
from tests.calibration.report_samples import CLASSMAP, results, with_model


def model(confusion, k=3, **changes):
    classes = tuple(f"class {label}" for label in range(k))
    classmap = tuple((label + 1) % k for label in range(k))
    training = {"data": "0" * 64, "classmap": {"counts": True, "images": 60, "confusion": confusion, **changes}}
    return with_model(results(), classes=classes, classmap=classmap, training=training).model


def test_shades_follow_the_share_off_the_diagonal():
    table = confusion_table(model([[0.9, 0.1, 0.0], [0.4, 0.4, 0.2], [0.05, 0.15, 0.8]]))
    assert [[one.level for one in row] for row in table.rows] == [[0, round(0.25 * LEVELS), 0], [6, 0, 3], [1, 2, 0]]
    assert [[one.partner for one in row].index(True) for row in table.rows] == [1, 2, 0]
    assert [[one.own for one in row].index(True) for row in table.rows] == [0, 1, 2]
    assert table.rows[1][0].share == 0.4
    assert (table.counted, table.images, table.picture) == (True, 60, None)


def test_nothing_off_the_diagonal_has_no_shade():
    table = confusion_table(model(np.eye(3).tolist()))
    assert {one.level for row in table.rows for one in row} == {0}


def test_many_classes_become_a_picture():
    matrix = np.full((40, 40), 0.01)
    matrix[3, 5] = 0.5
    table = confusion_table(model(matrix.tolist(), k=40))
    picture = decoded(table.picture)
    assert table.rows == ()
    assert picture.shape == (40, 40)
    assert np.unravel_index(picture.argmin(), picture.shape) == (3, 5)


@pytest.mark.parametrize(
    "confusion",
    [None, "x", [[1, 2], [3]], [[0.5, 0.5]], [[{}] * 3] * 3, [[float("nan")] * 3] * 3, [[0.5] * 4] * 4],
    ids=["none", "text", "ragged", "one row", "objects", "nan", "another size"],
)
def test_a_free_form_record_that_is_no_matrix_shows_nothing(confusion):
    assert confusion_table(model(confusion)) is None


@pytest.mark.parametrize("training", [{"data": "0" * 64}, {"data": "0" * 64, "classmap": 3}], ids=["absent", "number"])
def test_no_record_shows_nothing(training):
    assert confusion_table(with_model(results(), classmap=CLASSMAP, training=training).model) is None


def test_no_classmap_shows_nothing():
    assert confusion_table(with_model(results(), classmap=None).model) is None


@pytest.mark.parametrize("images", ["many", None, True], ids=["text", "null", "switch"])
def test_an_unknown_number_of_images_is_not_invented(images):
    assert confusion_table(model(np.eye(3).tolist(), images=images)).images is None
