import json
from dataclasses import replace

import pytest

from calibration.results import PoolResults, Results, load_results
from runtime.errors import UsageError
from tests.calibration.defence_samples import attack, defence


def pool(*cells):
    return PoolResults(members=(defence("a", *cells), defence("b", *cells)))


def test_both_kinds_survive_their_file(tmp_path):
    for found in (pool(attack({1})), defence("a", attack({1}))):
        found.save(tmp_path / "results.json")
        assert load_results(tmp_path / "results.json") == found


def test_is_complete_when_every_member_is():
    found = pool()
    assert found.complete
    assert not replace(found, members=(found.members[0], replace(found.members[1], complete=False))).complete


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ((defence("a"),), "expected two or more members, got 1"),
        ((defence("a"), defence("b", attack({1}))), "expected the same attacks on the same images"),
    ],
    ids=["one", "attacks"],
)
def test_refuses_members_that_do_not_belong_together(members, message):
    with pytest.raises(UsageError, match=message):
        PoolResults(members=members)


def test_refuses_other_versions_and_files(tmp_path):
    with pytest.raises(UsageError, match="expected schema 1, got 2"):
        replace(pool(), schema=2)
    file = tmp_path / "pool.json"
    pool().save(file)
    with pytest.raises(UsageError, match=r"pool\.json: .*got those of a pool; see `cmt compare`"):
        Results.load(file)
    file.write_text(json.dumps({"schema": 1, "members": 3}), encoding="utf-8")
    with pytest.raises(UsageError, match=r"pool\.json: results of a pool\.members: expected a list"):
        load_results(file)
    with pytest.raises(UsageError, match="expected a results file, got: No such file"):
        load_results(tmp_path / "none.json")
