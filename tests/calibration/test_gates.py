import math
from dataclasses import replace

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from calibration.availability import CHANGES, Availability
from calibration.gates import FIGURES, Gate, check_gates, parse_gate
from calibration.metrics import share
from calibration.results.records import Probe
from runtime.errors import GateFailed, UsageError
from tests.calibration.small_results import cell, columns, results

OPERATORS = (">", ">=", "<", "<=")
IDLE = ((">", 1), ("<", 0))
LIMITS = st.floats(0, 1)


@given(figure=st.sampled_from(sorted(set(FIGURES) - {"availability"})), sign=st.sampled_from(OPERATORS), limit=LIMITS)
@pytest.mark.parametrize("only", ["", "pgd", "grey-box", "z-star"])
def test_a_condition_is_read_as_it_is_written(figure, sign, limit, only):
    assume((sign, limit) not in IDLE)
    gate = Gate(figure=figure, operator=sign, limit=limit, only=only)
    assert parse_gate(str(gate)) == gate
    spaced = f" {figure} {sign}  {limit} " + (f"@ {only.upper()} " if only else "")
    assert parse_gate(spaced) == gate


@pytest.mark.parametrize("change", [name for name in CHANGES if name != "none"])
def test_availability_is_asked_for_by_change(change):
    assert parse_gate(f"availability<0.9@{change}").only == change.lower()


@given(text=st.text(max_size=30) | st.from_regex(r"[a-z]{0,9}[<>=]{0,3}[0-9./e+-]{0,6}@?[a-z -]{0,9}", fullmatch=True))
@example(text="fooled>")
@example(text="fooled>nan")
@example(text="fooled>inf")
@example(text="fooled>-0.1")
@example(text="fooled>1e999")
@example(text="fooled>1/0")
@example(text="fooled==0.1")
@example(text="fooled>0.1@")
@example(text="fooled>0.1@ \n")
@example(text="fooled>0.1@availability")
@example(text="x" * 100_000)
@example(text="fooled>0.1@" + "x" * 100_000)
def test_any_other_text_is_refused_in_one_line(text):
    try:
        gate = parse_gate(text)
    except UsageError as error:
        message = str(error)
        assert message.startswith("--fail-if: expected ")
        assert len(message.splitlines()) == 1
        assert len(message) < 1000
    else:
        assert 0 <= gate.limit < math.inf
        assert parse_gate(str(gate)) == gate


FOUND = results(
    cell(fooled=2, attack="pgd", adaptive=True, threat="nearly-white-box", reading="pair"),
    cell(fooled=1),
    cell(verdicts=columns(rejected=range(10)), attack="fgs"),
    availability=tuple(
        Availability(change=name, invisible=True, accepted=share(kept, 10), right_label=share(10, 10))
        for name, kept in (("none", 0), ("one pixel up", 8), ("one pixel down", 4))
    ),
)


@pytest.mark.parametrize(
    ("condition", "named"),
    [
        ("fooled>0.1", "nearly-white-box pair PGD at .* has fooled 0.2000; so do 1 more$"),
        ("fooled>=0.1", "PGD at .* has fooled 0.2000; so do 2 more"),
        ("fooled>0.05@igs", "grey-box z-star IGS at .* has fooled 0.1000$"),
        ("fooled>0.1@pair", "nearly-white-box pair PGD"),
        ("rejected>0.9", "FGS at .* has rejected 1.0000"),
        ("rejected<1/2", "has rejected 0.0000; so do 1 more"),
        ("accuracy<0.85", "FGS at .* has accuracy 0.0000; so do 1 more"),
        ("error>0.5", "FGS at .* has error undefined$"),
        ("rerr>0.15", "PGD at .* has rerr 0.2000$"),
        ("auroc<0.9", "FGS at .* has auroc undefined; so do 2 more"),
        ("availability<0.5", "benign images after “one pixel down” has availability 0.4000$"),
        ("availability<0.9@one pixel up", "“one pixel up” has availability 0.8000$"),
        ("fooled>0.9@cw", "no row was measured that it is about"),
        ("availability<0.1@JPEG, quality 95", "no row was measured that it is about"),
    ],
)
def test_the_worst_row_that_fails_is_named(condition, named):
    with pytest.raises(GateFailed, match=named.replace("at .*", "at ε\\s=\\s0.1")):
        check_gates([parse_gate(condition)], FOUND)


def test_fooled_counts_what_the_verdict_counts():
    """Each attack fools another image; doubled, one of them fools three."""
    apart = results(
        cell(verdicts=columns({1})),
        cell(verdicts=columns({2}), attack="pgd"),
        probes=(Probe(purpose="doubled", of="PGD", cell=cell(fooled=3, attack="pgd")),),
    )
    with pytest.raises(GateFailed, match=r"PGD at .* of a sanity check has fooled 0.3000; so do 1 more$"):
        check_gates([parse_gate("fooled>0.15")], apart)
    with pytest.raises(GateFailed, match=r"all attacks together within ε = 0.1 .linf. has fooled 0.2000$"):
        check_gates([parse_gate("fooled>0.15")], replace(apart, probes=()))
    check_gates([parse_gate("fooled>0.15@pgd"), parse_gate("fooled<0.1")], apart)


@pytest.mark.parametrize(
    "condition",
    ["fooled>0.2", "fooled>0.1@grey-box", "rejected>0@pgd", "error>0.2@igs", "accuracy<0.8@pair", "availability<0.4"],
)
def test_what_holds_nowhere_passes(condition):
    check_gates([parse_gate(condition)], FOUND)


@given(sign=st.sampled_from(OPERATORS), limit=st.floats(0, 1), fooled=st.integers(0, 10))
def test_comparison_is_that_of_python(sign, limit, fooled):
    assume((sign, limit) not in IDLE)
    gate = Gate(figure="fooled", operator=sign, limit=limit)
    failed = {
        ">": fooled / 10 > limit,
        ">=": fooled / 10 >= limit,
        "<": fooled / 10 < limit,
        "<=": fooled / 10 <= limit,
    }
    try:
        check_gates([gate], results(cell(fooled=fooled)))
    except GateFailed:
        assert failed[sign]
    else:
        assert not failed[sign]


@pytest.mark.parametrize("figure", sorted(FIGURES))
@pytest.mark.parametrize("sign", OPERATORS)
def test_what_was_never_measured_does_not_pass(figure, sign):
    with pytest.raises(GateFailed, match="no row was measured"):
        check_gates([Gate(figure=figure, operator=sign, limit=0.5)], results())


@pytest.mark.parametrize("figure", ["rerr", "auroc"])
def test_results_of_schema_1_have_no_such_figures(figure):
    old = results(replace(cell(), verdicts=None, changes=None, detection=None))
    with pytest.raises(GateFailed, match=f"has {figure} undefined"):
        check_gates([Gate(figure=figure, operator=">", limit=0.0)], old)


@pytest.mark.parametrize("condition", ["fooled>1", "fooled>5", "rerr>=1.5", "auroc<2", "accuracy<0", "error<=1e3"])
def test_a_limit_that_no_share_is_beyond_is_a_slip(condition):
    with pytest.raises(UsageError, match="expected a limit that a share between 0 and 1 can be beyond"):
        parse_gate(condition)


def test_the_member_of_a_pool_is_named():
    with pytest.raises(GateFailed, match=r"fooled>0\.0@pair: b\.onnx, nearly-white-box"):
        check_gates([parse_gate("fooled>0@pair")], FOUND, member="b.onnx")


@pytest.mark.parametrize(
    "fields",
    [{"figure": "fool"}, {"operator": "="}, {"limit": -1.0}, {"limit": math.nan}, {"only": "nobody"}],
    ids=["figure", "operator", "negative", "nan", "filter"],
)
def test_a_gate_checks_its_fields(fields):
    with pytest.raises(UsageError, match="--fail-if: expected"):
        Gate(**{"figure": "fooled", "operator": ">", "limit": 0.1, **fields})
