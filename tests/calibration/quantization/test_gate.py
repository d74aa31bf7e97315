from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from calibration.metrics import Interval, share
from calibration.quantization.gate import GateConfig, GateReport, Shift, compare
from calibration.stamping import stamp
from runtime.artifact import read_artifact
from runtime.errors import GateFailed, UsageError
from tests.calibration.conv_guards import dataset, guard_file

CONFIG = GateConfig(n=100, attacked=40)


def report_on(before, after, tmp_path, config=CONFIG):
    (tmp_path / "guard.onnx").write_bytes(before)
    return compare(tmp_path / "guard.onnx", after, dataset(noise=0.35), config, threads=1)


def with_cut_logits(model):
    """The same guard, its logits cut off where benign images have theirs: gradients vanish, verdicts hardly change."""
    proto = onnx.load_model_from_string(model)
    place, maker = next((i, node) for i, node in enumerate(proto.graph.node) if "logits" in node.output)
    maker.output[0] = "uncut"
    proto.graph.node.insert(place + 1, helper.make_node("Clip", ["uncut", "least", "most"], ["logits"]))
    for name, bound in (("least", -1.0), ("most", 5.0)):
        proto.graph.initializer.append(numpy_helper.from_array(np.float32(bound), name))
    document = read_artifact(model).spec.to_document()
    document["golden"]["confidence"] = float(np.exp(5) / (np.exp(5) + 3 * np.exp(-1)))
    del document["digest"]
    return stamp(proto, document)


@pytest.mark.parametrize("kind", ["single", "locked"])
def test_a_file_is_like_itself(kind, tmp_path):
    report = report_on(guard_file(kind), guard_file(kind), tmp_path)
    assert report.agreement == share(100, 100)
    assert (report.images, report.attacked) == (100, 40)
    assert report.accepted[0] == report.accepted[1]
    assert report.right[0] == report.right[1] > 0.9
    seen = {(shift.attack, shift.epsilon, shift.crafted_on) for shift in report.shifts}
    assert seen == {(name, epsilon, "itself") for name in ("fgs", "pgd") for epsilon in (0.1, 0.3)} | {
        ("pgd", epsilon, "fp32") for epsilon in (0.1, 0.3)
    }
    for shift in report.shifts:
        assert shift.after == shift.before
        assert not shift.hidden
    assert max(shift.before.value for shift in report.shifts) > 0.2
    report.require()


def test_hidden_gradients_are_found_out(tmp_path):
    """By its own gradients it looks robust; what the float file leads to fools it all the same."""
    report = report_on(guard_file("single"), with_cut_logits(guard_file("single")), tmp_path)
    assert report.agreement.value >= 0.99
    at = {shift.crafted_on: shift for shift in report.shifts if (shift.attack, shift.epsilon) == ("pgd", 0.3)}
    assert at["itself"].after.value < at["itself"].before.low
    assert at["itself"].hidden
    assert not at["itself"].holds
    assert at["fp32"].after.value >= at["fp32"].before.low
    assert at["fp32"].holds
    with pytest.raises(GateFailed, match=r"expected pgd at 0.[13] to fool .* got 0.\d+ \(crafted on itself\)"):
        replace(report, agreement=share(100, 100)).require()


def test_without_attacks(tmp_path):
    report = report_on(guard_file(), guard_file("single"), tmp_path, GateConfig(n=100, attacked=0))
    assert (report.shifts, report.attacked) == ((), 0)


REPORT = GateReport(
    agreement=share(996, 1000), images=1000, accepted=(0.9, 0.9), right=(1.0, 1.0), shifts=(), attacked=200
)
BEFORE = Interval(0.5, 0.4, 0.6)


@pytest.mark.parametrize(
    ("value", "crafted_on", "hidden", "holds"),
    [
        (0.4, "itself", False, True),
        (0.6, "itself", False, True),
        (0.39, "itself", True, False),
        (0.45, "itself", True, False),
        (0.61, "itself", False, False),
        (0.39, "fp32", False, True),
        (0.61, "fp32", False, False),
    ],
)
def test_what_counts_as_moved(value, crafted_on, hidden, holds):
    after = Interval(value, value, value)
    shift = Shift(attack="pgd", epsilon=0.1, crafted_on=crafted_on, before=BEFORE, after=after, hidden=hidden)
    assert shift.holds is holds
    report = replace(REPORT, shifts=(shift,))
    if holds:
        report.require()
    else:
        with pytest.raises(GateFailed, match=r"pgd at 0.1 to fool 0.400 to 0.600 of 200 images .*; nothing is written"):
            report.require()


@pytest.mark.parametrize(("same", "holds"), [(995, True), (994, False)])
def test_how_many_verdicts_have_to_agree(same, holds):
    report = replace(REPORT, agreement=share(same, 1000))
    if holds:
        report.require()
    else:
        with pytest.raises(GateFailed, match=r"the float file on 99.5% of 1000 benign images, got 99.40%; nothing is"):
            report.require()


BAD = {
    "n": ({"n": 0}, "-n: expected 1 or more, got 0"),
    "attacked": ({"attacked": -1}, "--attacked: expected 0 or more, got -1"),
    "seed": ({"seed": -1}, "--seed: expected 0 or more, got -1"),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
def test_refuses_bad_options(options, message):
    with pytest.raises(UsageError, match=message):
        GateConfig(**options)
