import click
import pytest

from calibration import options


def run(callback, value):
    return callback(click.Context(click.Command("c")), click.Option(["--it"]), value)


@pytest.mark.parametrize(("text", "expected"), [("32x24", (32, 24)), ("1x4096", (1, 4096)), (None, None)], ids=str)
def test_sizes(text, expected):
    assert run(options.size, text) == expected


@pytest.mark.parametrize("text", ["32", "32x", "x32", "0x3", "-1x3", "3x4097", "3x4x5", "a", "", "3 4", "9" * 5000])
def test_no_sizes(text):
    with pytest.raises(click.BadParameter, match="expected a size such as 32x32, got"):
        run(options.size, text)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [(("fgs",), ("fgs",)), (("fgs,igs",), ("fgs", "igs")), (("igs", "fgs, igs"), ("igs", "fgs"))],
    ids=["one", "commas", "repeated"],
)
def test_names(texts, expected):
    assert run(options.names("fgs", "igs"), texts) == expected


@pytest.mark.parametrize("texts", [("fgs,pgd",), ("",), ("fgs,",)], ids=["unknown", "empty", "trailing comma"])
def test_no_names(texts):
    with pytest.raises(click.BadParameter, match="expected names out of fgs, igs, got"):
        run(options.names("fgs", "igs"), texts)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0.1", (0.1,)), ("0.1,8/255", (0.1, 8 / 255)), ("0,20, 0.0", (0.0, 20.0, 0.0)), ("1e-2", (0.01,)), (None, ())],
    ids=["decimal", "fraction", "as typed", "exponent", "none"],
)
def test_numbers(text, expected):
    assert run(options.numbers, text) == expected


@pytest.mark.parametrize("text", ["", "a", "8/0", "8/", "-0.1", "nan", "inf", "0.1,,0.2", "1e999", "1/2/3"])
def test_no_numbers(text):
    with pytest.raises(click.BadParameter, match=r"expected numbers of at least 0 such as 0.1 or 8/255, got"):
        run(options.numbers, text)


@pytest.mark.parametrize(
    ("text", "expected"), [("0.1", 0.1), ("8/255", 8 / 255), ("-1e-2", -0.01), (" 1 / 4 ", 0.25), (None, None)], ids=str
)
def test_one_number(text, expected):
    assert run(options.number, text) == expected


@pytest.mark.parametrize("text", ["", "a", "8/0", "8/", "/255", "1/2/3", "1e999/0"])
def test_no_one_number(text):
    with pytest.raises(click.BadParameter, match=r"expected a number such as 0.1 or 8/255, got"):
        run(options.number, text)
