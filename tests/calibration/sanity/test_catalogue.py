import re
from dataclasses import replace
from pathlib import Path

import pytest

from calibration.results.records import LogitsCheck, Probe, Repetition, SelfCheck, Source
from calibration.sanity import CHECKS, check_sanity
from tests.calibration.report_samples import availability, cell, changes, realistic, results

ADAPTIVE = {"threat": "nearly-white-box", "reading": "pair", "adaptive": True}
PRE_LOCK = {"threat": "pre-lock", "reading": "pair", "adaptive": True}
TWIN = Source(file="twin.onnx", digest="70" * 32, sha256="70" * 32, tensor="logits", straight_through=False)
ASKING = {
    "threat": "decision-only",
    "reading": "deployed",
    "adaptive": True,
    "gradients_per_image": 0.0,
    "queries_per_image": 100.0,
    "source": Source(file="guard.onnx", digest="5e" * 32, sha256="3f" * 32, tensor="verdicts", straight_through=False),
}


def probe(purpose, one, of=None):
    return Probe(purpose=purpose, of=of or "nearly-white-box pair PGD at ε\xa0=\xa00.3", cell=one)


def found(name, some):
    (verdict,) = [one for one in check_sanity(some) if one.name == name]
    return verdict


def pgd(fooled, epsilon=0.3, **others):
    return cell("pgd", epsilon, fooled, 1000 - fooled, **{**ADAPTIVE, **others})


def fgs(fooled, epsilon=0.3, **others):
    return cell("fgs", epsilon, fooled, 1000 - fooled, **{**ADAPTIVE, **others})


def free(fooled, size):
    """An attack without a budget that changed pixels by `size` at most."""
    return cell("cw", None, fooled, 1000 - fooled, changes=changes(1000, size), **ADAPTIVE)


def without_verdicts(some):
    """As attacks are left that were joined over different images."""
    cells = (replace(one, verdicts=None, changes=None, detection=None) for one in some.cells)
    return replace(some, cells=tuple(cells), worst_cases=())


WRONG = SelfCheck(file="guard.onnx", of=("logits",), relative_error=0.97, images=8, seed=0)
UNKNOWN = replace(WRONG, relative_error=float("nan"))
SOFTMAX = LogitsCheck(file="guard.onnx", tensor="logits", operator="Softmax", probabilities=True)

CASES = [
    (
        "many steps beat one step",
        results(fgs(30), pgd(20)),
        "failed",
        "FGS at ε = 0.3: 3.0 % .* against .* PGD at ε = 0.3: 2",
    ),
    ("many steps beat one step", results(fgs(20), pgd(20)), "passed", "FGS at ε = 0.3"),
    ("many steps beat one step", results(fgs(99, epsilon=0.1), pgd(20)), "not run", "needs fgs beside igs"),
    ("many steps beat one step", results(pgd(20), probes=(probe("one step", fgs(60)),)), "failed", "FGS"),
    ("knowing the file beats transfer", results(pgd(20), cell("igs", 0.3, 60, 940, source=TWIN)), "failed", "IGS"),
    ("knowing the file beats transfer", results(pgd(60), cell("igs", 0.3, 20, 980, source=TWIN)), "passed", "IGS"),
    (
        "knowing the file beats transfer",
        results(pgd(20, 0.1), cell("igs", 0.3, 60, 940, source=TWIN)),
        "not run",
        "--twin",
    ),
    ("knowing the rule beats ignoring it", results(pgd(20), cell("igs", 0.3, 60, 940)), "failed", "IGS"),
    ("knowing the rule beats ignoring it", results(pgd(60), cell("igs", 0.3, 20, 980)), "passed", "IGS"),
    ("knowing the rule beats ignoring it", results(pgd(20, 0.1), cell("igs", 0.3, 60, 940)), "not run", "grey-box"),
    ("knowing the rule beats ignoring it", results(pgd(20), cell("igs", 0.3, 60, 940, source=TWIN)), "not run", "the"),
    (
        "a larger budget succeeds more",
        results(pgd(50, 0.1), pgd(20, 0.3)),
        "failed",
        "0.1: 5.0 % .* against .*0.3: 2.0 %",
    ),
    ("a larger budget succeeds more", results(pgd(20, 0.1), pgd(50, 0.3)), "passed", "PGD"),
    ("a larger budget succeeds more", results(pgd(20)), "not run", "two values of --epsilon"),
    ("an unbounded attack succeeds", results(pgd(9), probes=(probe("unbounded", pgd(970, 1.0)),)), "failed", "97.0 %"),
    ("an unbounded attack succeeds", results(pgd(9), probes=(probe("unbounded", pgd(990, 1.0)),)), "passed", "99.0 %"),
    ("an unbounded attack succeeds", results(cell("cw", None, 1000, 0, **ADAPTIVE)), "passed", "C&W L2"),
    ("an unbounded attack succeeds", results(pgd(9), cell("cw", None, 1000, 0)), "not run", "--sanity"),
    (
        "an unbounded attack succeeds",
        results(pgd(9), cell("cw", None, 40, 960, **ADAPTIVE), probes=(probe("unbounded", pgd(1000, 1.0)),)),
        "failed",
        "C&W L2",
    ),
    (
        "more work changes nothing",
        results(pgd(20), probes=(probe("doubled", pgd(40)),)),
        "failed",
        "doubled: 4.0 % .* against",
    ),
    ("more work changes nothing", results(pgd(20), probes=(probe("doubled", pgd(22)),)), "passed", "doubled: 2.2 %"),
    ("more work changes nothing", results(pgd(20)), "not run", "needs --sanity"),
    ("every image has a gradient", results(pgd(9, zero_gradients=51)), "failed", "none for 51 of 1000"),
    ("every image has a gradient", results(pgd(9, zero_gradients=50)), "passed", "none for 50 of 1000"),
    ("every image has a gradient", results(pgd(9)), "passed", "every image had one"),
    ("every image has a gradient", results(cell("square", 0.3, 9, **ASKING)), "not run", "follows gradients"),
    ("gradients agree with differences", results(pgd(9), self_check=(WRONG,)), "failed", "off by 97.0 %"),
    ("gradients agree with differences", results(pgd(9)), "passed", "off by 0.3 %"),
    ("gradients agree with differences", results(pgd(9), self_check=(UNKNOWN,)), "failed", "off by nan"),
    ("gradients agree with differences", results(self_check=()), "not run", "follows gradients"),
    ("gradients beat decisions", results(pgd(20), cell("square", 0.3, 60, 940, **ASKING)), "failed", "Square"),
    ("gradients beat decisions", results(pgd(60), cell("square", 0.3, 20, 980, **ASKING)), "passed", "Square"),
    ("gradients beat decisions", results(pgd(60)), "not run", "decision-only"),
    (
        "gradients beat decisions",
        results(pgd(20), probes=(probe("decisions", cell("square", 0.3, 60, 940, **ASKING)),)),
        "failed",
        "Square",
    ),
    (
        "attacks held to ε beat free ones",
        results(pgd(20), free(60, 0.3)),
        "failed",
        "C&W L2 at κ = 40 within ε = 0.3: 6.0 % .* against .*PGD at ε = 0.3: 2.0 %",
    ),
    ("attacks held to ε beat free ones", results(pgd(60), free(20, 0.3)), "passed", "C&W L2 at κ = 40 within"),
    (
        "attacks held to ε beat free ones",
        results(pgd(20), free(60, 9.0)),
        "passed",
        "C&W L2 at κ = 40 within ε = 0.3: 0.[0-9]",
    ),
    ("attacks held to ε beat free ones", results(pgd(20), cell("cw", None, 60, 940)), "not run", "cw beside"),
    ("attacks held to ε beat free ones", results(pgd(20)), "not run", "cw beside"),
    ("attacks held to ε beat free ones", results(fgs(20), free(60, 0.3)), "not run", "cw beside"),
    ("attacks held to ε beat free ones", without_verdicts(results(pgd(20), free(60, 0.3))), "not run", "cw beside"),
    ("the lock hides nothing", results(pgd(20), pgd(60, **PRE_LOCK)), "failed", "pre-lock pair PGD"),
    ("the lock hides nothing", results(pgd(60), pgd(20, **PRE_LOCK)), "passed", "pre-lock pair PGD"),
    ("the lock hides nothing", results(pgd(60)), "not run", "pre-lock"),
    (
        "the same attack breaks an undefended network",
        results(pgd(9), probes=(probe("twin", pgd(850)),)),
        "failed",
        "85 %",
    ),
    (
        "the same attack breaks an undefended network",
        results(pgd(9), probes=(probe("twin", pgd(900)),)),
        "passed",
        "90 %",
    ),
    ("the same attack breaks an undefended network", results(pgd(9)), "not run", "--sanity with --twin"),
    ("random noise fools nobody", results(pgd(9), cell("noise", 0.3, 40, **ASKING)), "failed", "random noise at ε"),
    (
        "random noise fools nobody",
        results(pgd(9), probes=(probe("noise", cell("noise", 0.3, 9, **ASKING)),)),
        "passed",
        "0.9",
    ),
    ("random noise fools nobody", results(pgd(9)), "not run", "noise against decision-only"),
    (
        "the same again gives the same",
        results(repetition=Repetition(attack="PGD", images=8, different=1)),
        "failed",
        "1 of 8",
    ),
    ("the same again gives the same", results(pgd(9)), "passed", "IGS twice: 0 of 8 images differ"),
    ("the same again gives the same", results(pgd(9), repetition=None), "not run", "--sanity"),
    (
        "logits are no probabilities",
        results(logits_checks=(SOFTMAX,)),
        "failed",
        "logits of guard.onnx comes from Softmax",
    ),
    ("logits are no probabilities", results(), "passed", "logits of guard.onnx comes from Mul, robust_logits"),
    ("logits are no probabilities", results(logits_checks=()), "not run", "follows gradients"),
    (
        "the claim is plausible at half the budget",
        results(pgd(20), probes=(probe("half", pgd(0, 0.15)),)),
        "failed",
        "at ε = 0.3: 9[78].. % .* claimed, at half of it: 0 %",
    ),
    (
        "the claim is plausible at half the budget",
        results(pgd(990), cell("pgd", 0.15, 900, 0, **ADAPTIVE)),
        "passed",
        "claimed, at half of it",
    ),
    ("the claim is plausible at half the budget", results(pgd(20)), "not run", "half of the largest"),
    (
        "harmless changes are accepted",
        results(availability=availability(1000, JPEG=0.94)),
        "failed",
        "JPEG, quality 95: 94.0 %",
    ),
    (
        "harmless changes are accepted",
        results(availability=availability(1000, JPEG=0.95)),
        "passed",
        "unchanged 99.7 %",
    ),
    ("harmless changes are accepted", results(availability=()), "not run", "this version of cmt"),
]


@pytest.mark.parametrize(("name", "some", "verdict", "figures"), CASES, ids=[f"{case[0]}-{case[2]}" for case in CASES])
def test_each_check(name, some, verdict, figures):
    one = found(name, some)
    assert one.verdict == verdict
    assert re.search(figures, plain(one.figures))


def plain(text):
    return "".join(" " if sign.isspace() else sign for sign in text)


def test_every_check_can_pass_fail_and_be_missing():
    for check in CHECKS:
        verdicts = {case[2] for case in CASES if case[0] == check.name}
        assert verdicts == {"passed", "failed", "not run"}, check.name


def test_results_of_schema_1_fail_nothing_they_cannot_know():
    old = realistic()
    old = replace(
        old,
        cells=tuple(replace(one, verdicts=None, changes=None, detection=None) for one in old.cells),
        benign=replace(old.benign, verdicts=None),
        data=replace(old.data, labels=None),
        **{"availability": (), "worst_cases": (), "logits_checks": (), "repetition": None},
    )
    verdicts = {one.name: one.verdict for one in check_sanity(old)}
    assert verdicts["the claim is plausible at half the budget"] == "not run"
    assert verdicts["a larger budget succeeds more"] == "passed"
    assert verdicts["harmless changes are accepted"] == "not run"


def test_the_table_of_the_documentation_is_that_of_the_code():
    text = (Path(__file__).parents[3] / "docs/evaluation.md").read_text(encoding="utf-8")
    rows = [f"| {one.name} | {one.raised_if} | {one.explanation} | {one.needs} |" for one in CHECKS]
    table = "\n".join(["| check | raised if | explanation | needs |", "|---|---|---|---|", *rows])
    assert table in text
