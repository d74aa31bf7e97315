"""What became of the inputs, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias


class Outcome(NamedTuple):
    """What became of an input; rows are counted by it.

    Attributes:
        truth: The class its folder names; empty where it names none.
        class_name: The class it got; empty where there is none.
        reason: As in the row: empty when accepted.
        failed: Whether it could not be used at all.
    """

    truth: str
    class_name: str
    reason: str
    failed: bool


Tally: TypeAlias = "Counter[Outcome]"


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How many rows of each kind were written.

    Attributes:
        images: All rows.
        accepted: Rows with a verdict to act on.
        rejected: Rows the guard rejected, by reason.
        failed: Rows of files that could not be used, by reason.
        tally: All rows by outcome.
    """

    images: int
    accepted: int
    rejected: dict[str, int]
    failed: dict[str, int]
    tally: Tally = field(default_factory=Counter, compare=False, repr=False)


def summarize(tally: Tally) -> Summary:
    """Return the counts of all rows."""
    rejected: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for outcome, count in tally.items():
        if outcome.reason:
            (failed if outcome.failed else rejected)[outcome.reason] += count
    images = tally.total()
    accepted = images - rejected.total() - failed.total()
    return Summary(images=images, accepted=accepted, rejected=dict(rejected), failed=dict(failed), tally=tally)


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How verdicts agree with the folders the images lie in.

    Attributes:
        images: Images in folders that are named like a class; failed ones too.
        correct: Of them, those whose label is the name of their folder, accepted or not.
        accepted: Of them, those that were accepted.
        accepted_correct: Of those, the ones whose label is the name of their folder.
    """

    images: int
    correct: int
    accepted: int
    accepted_correct: int

    def to_document(self) -> dict[str, Any]:
        """Return the counts with the shares they give; None where there is nothing to divide by."""
        return {
            "images": self.images,
            "accuracy": _share(self.correct, self.images),
            "coverage": _share(self.accepted, self.images),
            "accuracy_of_accepted": _share(self.accepted_correct, self.accepted),
        }


def agreement(tally: Tally) -> Agreement | None:
    """Compare verdicts with folders; None where no folder is named like a class."""
    named = {outcome: count for outcome, count in tally.items() if outcome.truth}
    if not named:
        return None
    return Agreement(
        images=sum(named.values()),
        correct=sum(count for outcome, count in named.items() if outcome.truth == outcome.class_name),
        accepted=sum(count for outcome, count in named.items() if not outcome.reason),
        accepted_correct=sum(
            count for outcome, count in named.items() if not outcome.reason and outcome.truth == outcome.class_name
        ),
    )


def by_class(tally: Tally) -> dict[str, dict[str, int]]:
    """Return how many rows each class got, by verdict: ``accepted`` or the reason; classes in order of their names."""
    counts: dict[str, Counter[str]] = {}
    for outcome, count in tally.items():
        if outcome.class_name:
            counts.setdefault(outcome.class_name, Counter())[outcome.reason or "accepted"] += count
    return {name: dict(sorted(counts[name].items())) for name in sorted(counts)}


def tally_to_json(tally: Tally) -> list[list[Any]]:
    """Return a tally as JSON holds it, in one order."""
    return [[*outcome, count] for outcome, count in sorted(tally.items())]


def tally_from_json(rows: list[list[Any]]) -> Tally:
    """Return what `tally_to_json` was given."""
    return Counter({Outcome(*row[:-1]): row[-1] for row in rows})


def show_agreement(found: Agreement) -> Iterator[tuple[str, str]]:
    """Yield names and values for people: every share beside the counts it is of."""
    yield "in folders named like a class", str(found.images)
    yield "accuracy", _of(found.correct, found.images)
    yield "coverage (accepted)", _of(found.accepted, found.images)
    yield "accuracy of the accepted", _of(found.accepted_correct, found.accepted)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _of(part: int, whole: int) -> str:
    return f"{part / whole:.2%}, {part} of {whole}" if whole else "undefined, none was accepted"
