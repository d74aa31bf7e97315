import pytest
from scipy.stats import binomtest

from cmt_export.reproduction.cell import Cell, Count, nearest
from cmt_export.reproduction.lineup import LineUp
from cmt_export.reproduction.markdown import beside, failures, ours
from tests.cmt_export.reproduction import tiny

UNIT = LineUp(preset=tiny.PRESET, config=tiny.CONFIG, images=384).oracle


def _cell(part, published, better="higher", option="", whole=1000):
    found = None if part is None else Count(part=part, whole=whole)
    return Cell(name=("a", "b"), published=published, better=better, found=found, unit=UNIT, option=option)


@pytest.mark.parametrize(
    ("part", "published", "better", "verdict"),
    [
        (990, 0.962, "higher", "beats"),
        (962, 0.962, "higher", "matches"),
        (955, 0.962, "higher", "matches"),
        (900, 0.962, "higher", "does not reproduce"),
        (0, 0.0, "lower", "matches"),
        (2, 0.0, "lower", "does not reproduce"),
        (100, 0.343, "lower", "beats"),
        (950, 0.343, "lower", "does not reproduce"),
        (1000, 1.0, "higher", "matches"),
        (5, None, "higher", "not published"),
        (None, 0.5, "higher", "not run yet"),
    ],
)
def test_verdicts(part, published, better, verdict):
    cell = _cell(part, published, better)
    assert cell.verdict == verdict
    assert cell.reproduces == (verdict in ("beats", "matches"))


def test_percentages_have_the_papers_decimals():
    assert beside(_cell(12, 0.0009, "lower", whole=10_000)).startswith("0.09\u202f% → **0.12\u202f%**")
    assert beside(_cell(970, 0.962)).startswith("96.2\u202f% → **97.0\u202f%**")


def test_failures_name_the_nearest_reading_and_what_is_not_known_yet():
    cell = _cell(500, 0.9)
    assert failures([cell, _cell(950, 0.9, option="ε = 0.3")]).endswith(
        "reproduces with reading b, ε = 0.3: 95.0\u202f%\n"
    )
    assert "none that was run reproduces it, nearest is reading b, other: 70.0" in failures(
        [cell, _cell(700, 0.9, option="other")]
    )
    assert failures([cell, _cell(0, 0.9, option="worse")]).endswith(
        "no other reading or option that was run comes as near\n"
    )
    assert failures([cell]).endswith("no other reading was run\n")
    assert failures([_cell(None, 0.9)]) == "None so far.\n"
    assert failures([_cell(950, 0.9)]) == "None.\n"


def test_a_share_of_nothing_is_undefined_and_not_unrun():
    cell = Cell(name=("a",), published=None, better="higher", found=None, unit=UNIT, undefined=True)
    assert (cell.verdict, ours(cell)) == ("undefined", "undefined")
    assert ours(_cell(None, 0.5)) == "not run yet"


def test_intervals_are_exact():
    found = binomtest(37, 1000).proportion_ci(0.95, method="exact")
    assert _cell(37, None).found.interval == pytest.approx((0.037, found.low, found.high))


def test_the_nearest_alternative_reproduces_if_any_does():
    cell = _cell(500, 0.9)
    bad, good, unknown = _cell(700, 0.9, option="bad"), _cell(950, 0.9, option="good"), _cell(None, 0.9)
    assert nearest(cell, [bad, good, unknown]) is good
    assert nearest(cell, [bad, unknown]) is bad
    assert nearest(cell, [unknown]) is None
    assert nearest(_cell(500, None), [bad]) is None
    low = _cell(500, 0.1, "lower")
    assert nearest(low, [_cell(300, 0.1, "lower"), _cell(400, 0.1, "lower")]).found.part == 300
