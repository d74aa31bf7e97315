import pytest

from cmt_export.reproduction import published

SETS, THREATS = ("mnist", "cifar10"), ("black-box", "grey-box")


def _percent(table, *key):
    return [None if value is None else round(100 * value, 4) for value in table[key]]


@pytest.mark.parametrize(
    ("key", "values"),
    [
        (("mnist", "black-box", "original"), [34.3, 35.4, 34.1, 12.6]),
        (("mnist", "black-box", "defended"), [96.2, 95.8, 96.3, 12.6]),
        (("cifar10", "black-box", "original"), [61.6, 50.2, 63.8, 8.9]),
        (("cifar10", "black-box", "defended"), [68.6, 62.5, 71.3, 10.0]),
        (("mnist", "grey-box", "original"), [1.7, 0.0, 0.0, 0.0]),
        (("mnist", "grey-box", "defended"), [99.0, 98.9, 98.5, 0.1]),
        (("cifar10", "grey-box", "original"), [11.5, 0.0, 0.3, 0.0]),
        (("cifar10", "grey-box", "defended"), [73.0, 84.6, 84.8, 0.0]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_table_3_is_the_papers(key, values):
    assert _percent(published.TABLE3, *key) == values


@pytest.mark.parametrize(
    ("key", "values"),
    [
        (("mnist", "black-box", "defended"), [99.1, 95.2, 97.7, None]),
        (("cifar10", "black-box", "defended"), [75.2, 71.6, 73.7, None]),
        (("mnist", "grey-box", "defended"), [98.7, 94.4, 95.2, None]),
        (("cifar10", "grey-box", "defended"), [75.2, 72.6, 73.8, None]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_table_4_is_the_papers(key, values):
    assert _percent(published.TABLE4, *key) == values


def test_table_5_and_section_4_5_are_the_papers():
    assert _percent(published.TABLE5, "mnist", "non-targeted", "original") == [100] * 9
    assert _percent(published.TABLE5, "mnist", "non-targeted", "defended") == [8] + [0] * 8
    assert _percent(published.TABLE5, "mnist", "targeted", "original") == [100] * 5 + [98, 96, 92, 90]
    assert _percent(published.TABLE5, "mnist", "targeted", "defended") == [0] * 9
    assert published.WRONGLY_REJECTED == {"mnist": 0.0009, "cifar10": 0.0392}
    lost = {key: round(100 * value, 4) for key, value in published.ACCURACY_LOST.items()}
    assert [lost[name, threat] for name in SETS for threat in THREATS] == [0.2, 0.0, 2.8, 2.1]


def test_what_the_paper_does_not_state_is_none():
    assert published.published(published.TABLE5, ("cifar10", "targeted", "defended"), 0) is None
    assert published.published(published.TABLE3, ("digits", "black-box", "original"), 0) is None
