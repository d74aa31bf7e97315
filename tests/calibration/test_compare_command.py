import json
import xml.etree.ElementTree as ET

import pytest

from calibration.compare_command import compare
from tests.calibration.cli_runs import run
from tests.calibration.defence_samples import attack, defence

FILES = ("defences.md", "defences.json", "defences.svg", "defences.html")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    defence("cmt", attack(range(6)), attack(range(8), epsilon=0.4)).save("cmt.json")
    defence("hardened", attack({0}), attack({0, 1}, epsilon=0.4)).save("hardened.json")
    return tmp_path


def test_writes_every_form(folder):
    result = run(compare, "cmt.json", "hardened.json", "-o", "out/defences", "--awaited", "trades")
    assert result.exit_code == 0, result.output
    assert {path.name for path in (folder / "out/defences").iterdir()} == set(FILES)
    found = json.loads((folder / "out/defences/defences.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in found["defences"]] == ["hardened", "cmt"]
    assert found["defences"][0]["at"][0]["fooled"][0] == 0.1
    assert found["command"] == "cmt compare cmt.json hardened.json -o out/defences --awaited trades"
    table = (folder / "out/defences/defences.md").read_text(encoding="utf-8")
    assert table.index("| hardened<br>") < table.index("| cmt<br>") < table.index("| trades | not run yet")
    assert "First of 2 defences is hardened" in result.output
    ET.fromstring((folder / "out/defences/defences.svg").read_text(encoding="utf-8"))


def test_the_same_again_is_the_same(folder):
    run(compare, "cmt.json", "hardened.json", "-o", "one")
    before = [(folder / "one" / name).read_bytes() for name in FILES]
    run(compare, "cmt.json", "hardened.json", "-o", "one")
    assert [(folder / "one" / name).read_bytes() for name in FILES] == before


def test_order_and_machines(folder):
    result = run(compare, "cmt.json", "hardened.json", "-o", "out", "--order", "given", "--json")
    assert [one["name"] for one in json.loads(result.output)["defences"]] == ["cmt", "hardened"]


def test_nothing_is_drawn_where_nothing_was_tried(folder):
    defence("none").save("none.json")
    result = run(compare, "none.json", "-o", "out")
    assert {path.name for path in (folder / "out").iterdir()} == set(FILES) - {"defences.svg"}
    assert "Nothing was tried" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing.json",), "expected a results file, got: No such file"),
        (("out/defences.json", "-o", "out"), "expected a file of its own, got one that is read"),
        (("cmt.json", "-o", "cmt.json"), "expected a folder, got a file; name another"),
    ],
    ids=["missing", "its own input", "no folder"],
)
def test_refuses_in_one_line(folder, arguments, message):
    (folder / "out").mkdir()
    defence("cmt").save("out/defences.json")
    with pytest.raises(Exception, match=message) as caught:
        run(compare, *arguments)
    assert "\n" not in str(caught.value)
