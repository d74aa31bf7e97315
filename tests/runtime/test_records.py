from __future__ import annotations

import pickle

import pytest

from runtime.records import Record


class Point(Record):
    x: int
    y: int = 2


class Even(Record):
    value: int

    def __post_init__(self) -> None:
        if self.value % 2:
            raise ValueError(f"expected an even value, got {self.value}")


class Place(Point):
    """Adds a field and changes a default."""

    y: int = 7
    z: int


class Marker(Point):
    """Adds a method alone."""

    def moved(self) -> Marker:
        return self._replace(x=self.x + 1)


def test_fields_are_inherited() -> None:
    assert repr(Place(x=1, z=3)) == "Place(x=1, y=7, z=3)"
    assert Marker(x=1).moved() == Marker(x=2, y=2)
    with pytest.raises(TypeError, match="Marker: expected the fields x, y, got none"):
        Marker()  # type: ignore[call-arg]


def test_fields_and_defaults() -> None:
    point = Point(x=1)
    assert (point.x, point.y) == (1, 2)
    assert repr(point) == "Point(x=1, y=2)"
    assert point._asdict() == {"x": 1, "y": 2}


def test_equal_records_have_equal_hashes_whatever_the_order() -> None:
    assert Point(x=1, y=3) == Point(y=3, x=1)
    assert hash(Point(x=1, y=3)) == hash(Point(y=3, x=1))
    assert Point(x=1) != Point(x=2)
    assert Even(value=2) != Point(x=2)


@pytest.mark.parametrize("values", [{}, {"y": 1}, {"x": 1, "z": 2}], ids=["none", "missing", "unknown"])
def test_wrong_fields_are_named(values: dict[str, int]) -> None:
    with pytest.raises(TypeError, match="Point: expected the fields x, y, got "):
        Point(**values)


def test_records_are_frozen() -> None:
    point = Point(x=1)
    with pytest.raises(AttributeError, match="cannot assign to field 'x' of Point"):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError, match="cannot delete field 'x' of Point"):
        del point.x


def test_a_changed_copy_is_checked_anew() -> None:
    assert Even(value=2)._replace(value=4) == Even(value=4)
    with pytest.raises(ValueError, match="expected an even value, got 3"):
        Even(value=2)._replace(value=3)


def test_pickle() -> None:
    assert pickle.loads(pickle.dumps(Point(x=5))) == Point(x=5)
