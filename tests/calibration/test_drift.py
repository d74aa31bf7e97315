import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from calibration.drift import ALARM, DriftState, log_evidence
from runtime.errors import UsageError


@pytest.mark.parametrize(("accepted", "rejected"), [(0, 0), (10, 0), (0, 4), (95, 5), (900, 30)], ids=str)
@pytest.mark.parametrize("acceptance", [0.5, 0.9, 0.99])
def test_evidence_is_the_integral(accepted, rejected, acceptance):
    def ratio(p):
        return (p / acceptance) ** accepted * ((1 - p) / (1 - acceptance)) ** rejected

    expected, _ = quad(ratio, 0, acceptance, limit=500, points=[accepted / max(accepted + rejected, 1)])
    assert log_evidence(accepted, rejected, acceptance=acceptance) == pytest.approx(
        math.log(expected / acceptance), abs=1e-6
    )


@given(accepted=st.integers(0, 500), rejected=st.integers(0, 500), acceptance=st.floats(0.5, 0.999))
def test_a_promise_that_just_holds_earns_nothing_on_average(accepted, rejected, acceptance):
    now = log_evidence(accepted, rejected, acceptance=acceptance)
    if not math.isfinite(now) or now < -300:
        return
    kept = log_evidence(accepted + 1, rejected, acceptance=acceptance)
    lost = log_evidence(accepted, rejected + 1, acceptance=acceptance)
    mean = acceptance * math.exp(kept - now) + (1 - acceptance) * math.exp(lost - now)
    assert mean == pytest.approx(1, rel=1e-6)
    assert kept <= now + 1e-9
    assert lost >= now - 1e-9


def test_daily_looks_raise_no_alarm_while_the_promise_holds():
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(200):
        accepted = np.cumsum(rng.random(2000) < 0.9)
        states = (
            DriftState(digest="d", acceptance=0.9, right=n, accepted=int(accepted[n - 1])) for n in range(50, 2001, 50)
        )
        alarms += any(state.drifted for state in states)
    assert alarms <= 2  # of 200 lives; at most 1 in 1,000 is expected


def test_a_drift_is_found():
    rng = np.random.default_rng(0)
    state = DriftState(digest="d", acceptance=0.99)
    days = 0
    while not state.drifted:
        state = state.seen(right=100, accepted=int((rng.random(100) < 0.94).sum()), data=f"day {days}")
        days += 1
    assert 1 <= days <= 10
    assert state.log_evidence >= math.log(ALARM)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"acceptance": 1.0}, r"expected an acceptance in \(0, 1\), got 1.0"),
        ({"acceptance": 0.9, "right": 3, "accepted": 4}, "expected accepted images among the right ones, got 4 of 3"),
    ],
    ids=["acceptance", "counts"],
)
def test_bad_states(options, message):
    with pytest.raises(UsageError, match=message):
        DriftState(digest="d", **options)
