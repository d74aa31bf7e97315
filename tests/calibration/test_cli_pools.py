import json
import re

import pytest

from calibration.results import load_results
from runtime.errors import GateFailed, UsageError
from tests.calibration.cli_runs import fill, run_attack
from tests.calibration.guards import guard_file


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A filled folder as the working directory."""
    monkeypatch.chdir(tmp_path)
    fill(tmp_path)
    return tmp_path


def test_a_pool_is_attacked_shown_and_resumed(work):
    (work / "other.onnx").write_bytes(guard_file(doubt=2.0))
    pool = ("--pool", "other.onnx", "--pool", "twin.onnx", "-a", "fgs", "--threat", "nearly-white-box", "-o", "p.json")
    shown = run_attack(*pool, "--epsilon", "0.1")
    found = load_results("p.json")
    assert [one.model.file for one in found.members] == ["guard.onnx", "other.onnx", "twin.onnx"]
    lines = shown.stdout.splitlines()
    assert lines[0].endswith("50 images")
    assert re.match(r"ε.=.0\.1: fooled .*, every member .*, the worst member ", lines[1])
    assert lines[-1] == "next: cmt compare p.json -o p"
    run_attack(*pool, "--epsilon", "0.1", "--resume")
    assert [one.cells for one in load_results("p.json").members] == [one.cells for one in found.members]
    machine = json.loads(run_attack(*pool, "--epsilon", "0.1", "--json").stdout)
    assert len(machine) == 3
    with pytest.raises(GateFailed, match="fooled"):
        run_attack(*pool, "--epsilon", "0.3", "--fail-if", "fooled>=0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--pool", "guard.onnx"), "--pool: expected guards that differ"),
        (("--pool", "twin.onnx", "--save-images", "d"), "--save-images: expected a single guard, got a pool"),
        (("--pool", "twin.onnx", "--sanity"), "--pool: expected guard files without --sanity"),
        (("--pool", "results.json", "-o", "results.json"), "expected a file of its own, got one that is read"),
        (("--pool", "twin.onnx", "--resume", "-o", "single.json"), "expected results of a pool at single.json"),
        (
            ("--pool", "twin.onnx", "-a", "deepfool"),
            "a threat that it serves, got nearly-white-box, grey-box against a pool",
        ),
    ],
    ids=["itself", "images", "sanity", "output", "resume", "attack"],
)
def test_pools_that_cannot_be_attacked(work, arguments, message):
    run_attack("-a", "fgs", "--epsilon", "0.1", "-o", "single.json")
    with pytest.raises(UsageError, match=message):
        run_attack("-a", "fgs", *arguments)
