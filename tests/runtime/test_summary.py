from __future__ import annotations

import json
from collections import Counter

from runtime.summary import (
    Agreement,
    Outcome,
    Tally,
    agreement,
    by_class,
    show_agreement,
    summarize,
    tally_from_json,
    tally_to_json,
)

TALLY: Tally = Counter(
    {
        Outcome("cat", "cat", "", False): 5,
        Outcome("cat", "dog", "", False): 1,
        Outcome("cat", "dog", "pair-mismatch", False): 2,
        Outcome("cat", "", "unreadable", True): 1,
        Outcome("", "dog", "", False): 3,
        Outcome("", "", "non-finite", False): 1,
    }
)


def test_counts() -> None:
    found = summarize(TALLY)
    assert (found.images, found.accepted) == (13, 9)
    assert found.rejected == {"pair-mismatch": 2, "non-finite": 1}
    assert found.failed == {"unreadable": 1}


def test_agreement_counts_failed_files_too() -> None:
    found = agreement(TALLY)
    assert found == Agreement(images=9, correct=5, accepted=6, accepted_correct=5)
    assert found.to_document() == {
        "images": 9,
        "accuracy": 5 / 9,
        "coverage": 6 / 9,
        "accuracy_of_accepted": 5 / 6,
    }
    assert dict(show_agreement(found))["coverage (accepted)"] == "66.67%, 6 of 9"


def test_a_guard_that_rejects_everything_has_no_accuracy() -> None:
    found = agreement(Counter({Outcome("cat", "cat", "low-confidence", False): 4}))
    assert found is not None
    assert found.to_document()["accuracy_of_accepted"] is None
    assert "undefined" in dict(show_agreement(found))["accuracy of the accepted"]


def test_folders_that_are_no_classes_agree_with_nothing() -> None:
    assert agreement(Counter({Outcome("", "cat", "", False): 4})) is None


def test_counts_of_classes() -> None:
    assert by_class(TALLY) == {"cat": {"accepted": 5}, "dog": {"accepted": 4, "pair-mismatch": 2}}


def test_a_tally_survives_json() -> None:
    assert tally_from_json(json.loads(json.dumps(tally_to_json(TALLY)))) == TALLY
