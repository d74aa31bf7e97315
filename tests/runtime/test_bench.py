from __future__ import annotations

from runtime.bench import BATCHES, compare, interleave


def test_interleave_pairs_the_calls() -> None:
    calls: list[str] = []
    first, second = interleave(lambda: calls.append("a"), lambda: calls.append("b"), seconds=0, least=4)
    assert len(first) == len(second) == 4
    assert calls[:2] == ["a", "b"]
    assert "".join(calls[2:]) == "baabbaab"
    assert min(first + second) >= 0


def test_compare_measures_every_batch_size(model: bytes) -> None:
    costs = compare(model, device="cpu", threads=1, seconds=0)
    assert [cost.batch for cost in costs] == list(BATCHES)
    assert all(cost.bare > 0 and cost.guard > 0 and cost.ratio > 0 for cost in costs)
