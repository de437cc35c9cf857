"""A killed process leaves the earlier result or the new one; the same command continues."""
import kills
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def fit(tmp_path_factory):
    scenario = kills.Fit(tmp_path_factory.mktemp("kills"))
    uninterrupted = scenario.uninterrupted()
    scenario.earlier()
    return scenario, uninterrupted, scenario.result()


# A fit writes 12 resume points, then the results, which are moved into place at the end.
@pytest.mark.parametrize("moment", [{"kind": "replace", "last": 1}, {"kind": "fsync", "last": 7},
                                    {"kind": "open", "last": 16}, {"kind": "replace", "last": 19},
                                    {"kind": "rmtree", "last": 1}], ids=str)
def test_a_killed_fit_loses_nothing_and_continues(fit, moment):
    scenario, uninterrupted, earlier = fit
    scenario.earlier()
    assert kills.survives(scenario, uninterrupted, earlier, **moment)


@pytest.mark.parametrize("moment", [{"kind": "replace", "last": 5}, {"kind": "rmtree", "last": 1}],
                         ids=str)
def test_a_killed_prediction_leaves_both_tables_from_the_same_run(tmp_path, moment):
    scenario = kills.Predict(tmp_path)
    uninterrupted = scenario.uninterrupted()
    scenario.earlier()
    assert kills.survives(scenario, uninterrupted, scenario.result(), **moment)


@pytest.mark.parametrize("make, moment", [
    (kills.Pretrain, {"kind": "replace", "last": 3}),          # a resume point
    (kills.Pretrain, {"kind": "replace", "last": 9}),          # the results
    (kills.Index, {"kind": "replace", "last": 3}),             # in the middle of a video
    (kills.Download, {"kind": "fsync", "last": 1})], ids=str)
def test_other_killed_commands_leave_the_earlier_result(tmp_path, make, moment):
    scenario = make(tmp_path)
    uninterrupted = scenario.uninterrupted()
    scenario.earlier()
    assert kills.survives(scenario, uninterrupted, scenario.result(), **moment)
