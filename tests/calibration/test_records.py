from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest

from calibration.records import from_json
from runtime.errors import UsageError


class Point(NamedTuple):
    x: float
    y: float


@dataclass(frozen=True)
class Leaf:
    name: str
    flag: bool


@dataclass(frozen=True)
class Tree:
    size: int
    weight: float
    point: Point
    leaves: tuple[Leaf, ...]
    numbers: tuple[int, ...] | None
    best: Leaf | None
    free: Mapping[str, Any]


GOOD = {
    "size": 3,
    "weight": 1,
    "point": [0.5, 2],
    "leaves": [{"name": "a", "flag": True}],
    "numbers": None,
    "best": {"name": "b", "flag": False},
    "free": {"anything": [1, None]},
}


def test_reads_nested_records():
    leaves = (Leaf("a", True),)
    expected = Tree(3, 1.0, Point(0.5, 2.0), leaves, None, Leaf("b", False), {"anything": [1, None]})
    assert from_json(Tree, GOOD, "tree") == expected
    assert from_json(Tree, GOOD | {"numbers": [1, 2], "best": None}, "tree").numbers == (1, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 1.5}, "tree.size: expected a whole number, got 1.5"),
        ({"size": True}, "tree.size: expected a whole number, got True"),
        ({"weight": "1"}, "tree.weight: expected a number, got '1'"),
        ({"weight": float("inf")}, "tree.weight: expected a number, got inf"),
        ({"weight": 10**400}, "tree.weight: expected a number, got 1000"),
        ({"point": [1, -(10**400)]}, "tree.point.y: expected a number, got -1000"),
        ({"point": [1]}, r"tree.point: expected 2 values, got \[1\]"),
        ({"point": [1, None]}, "tree.point.y: expected a number, got None"),
        ({"point": {}}, "tree.point: expected a list"),
        ({"leaves": {}}, "tree.leaves: expected a list"),
        ({"leaves": [{"name": 1, "flag": True}]}, r"tree.leaves\[0\].name: expected text, got 1"),
        ({"leaves": [{"name": "a", "flag": 1}]}, r"tree.leaves\[0\].flag: expected true or false, got 1"),
        ({"best": {"name": "b"}}, r"tree.best: expected the keys flag, name, got .*missing \['flag'\]"),
        ({"free": []}, "tree.free: expected an object"),
        ({"extra": 1}, r"unknown \['extra'\]"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_refuses_everything_else_by_its_place(change, message):
    with pytest.raises(UsageError, match=message):
        from_json(Tree, GOOD | change, "tree")


@pytest.mark.parametrize("value", [None, [], "x", 3], ids=str)
def test_refuses_what_is_no_object(value):
    with pytest.raises(UsageError, match="tree: expected an object"):
        from_json(Tree, value, "tree")


def test_long_values_are_cut_and_control_characters_escaped():
    with pytest.raises(UsageError, match=r"got '\\x1b") as caught:
        from_json(Tree, GOOD | {"size": "\x1b" * 9999}, "tree")
    assert len(str(caught.value)) < 250


def test_text_that_cannot_be_written_is_refused():
    with pytest.raises(UsageError, match="expected text without lone surrogates"):
        from_json(Leaf, {"name": "\ud800", "flag": True}, "leaf")
