import re

import pytest

from calibration.metrics import share
from cmt_export.reproduction.headline import phrase

FEW, SOME, MANY = share(0, 1000), share(4, 100), share(60, 1000)


@pytest.mark.parametrize(
    ("fooled", "rejected", "words"),
    [
        pytest.param({}, FEW, r"is not known yet\*\*", id="nothing run"),
        pytest.param({0.1: FEW, 0.3: MANY}, FEW, r"\*\*The defence falls\*\*.* at ε = 0.3.$", id="falls"),
        pytest.param({0.3: SOME}, FEW, r"undecided\*\*: .*4.0", id="interval reaches above"),
        pytest.param(
            {0.3: FEW}, share(501, 1000), r"undecided\*\*: .* but 50.* are rejected unattacked", id="rejects most"
        ),
        pytest.param({0.3: FEW}, None, r"undecided\*\*: .* not known how many", id="cost unknown"),
        pytest.param({0.3: FEW}, MANY, r"holds against what was tried\*\*, and only that", id="holds"),
    ],
)
def test_the_first_line_says_no_more_than_the_figures(fooled, rejected, words):
    assert re.search(words, phrase(fooled, rejected))
