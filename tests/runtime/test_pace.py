from __future__ import annotations

import pytest

from runtime import pace as module
from runtime.pace import pace


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_lines_now_and_then_with_rate_and_time_left(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with pace() as report:
        report(1000, None)  # an earlier run did these
        clock[0] += 5
        report(1500, 10_000)
        clock[0] += 15
        report(3000, 10_000)
        clock[0] += 30
        report(6000, None)
    assert capsys.readouterr().err.splitlines() == [
        "scoring",
        "scoring: 3,000 of 10,000 images, 100/s, 1:10 left",
        "scoring: 6,000 images, 100/s",
    ]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.9, "0:59"), (61, "1:01"), (36_061, "10:01:01")])
def test_durations(seconds: float, text: str) -> None:
    assert module._duration(seconds) == text
