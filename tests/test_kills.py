"""A process that is killed leaves the earlier result or the new one; the same command goes on."""
import kills
import pytest


@pytest.fixture(scope="module")
def fit(tmp_path_factory):
    scenario = kills.Fit(tmp_path_factory.mktemp("kills"))
    whole = scenario.whole()
    scenario.earlier()
    return scenario, whole, scenario.result()


# 12 resume points are written, then results, which take their places at the end
@pytest.mark.parametrize("moment", [{"kind": "replace", "last": 1}, {"kind": "fsync", "last": 7},
                                    {"kind": "open", "last": 16}, {"kind": "replace", "last": 19},
                                    {"kind": "rmtree", "last": 1}], ids=str)
def test_a_fit_that_is_killed_loses_nothing_and_goes_on(fit, moment):
    scenario, whole, earlier = fit
    scenario.earlier()
    assert kills.survives(scenario, whole, earlier, **moment), "the moment never came"


@pytest.mark.parametrize("moment", [{"kind": "replace", "last": 5}, {"kind": "rmtree", "last": 1}],
                         ids=str)
def test_a_prediction_that_is_killed_leaves_both_tables_of_one_time(tmp_path, moment):
    scenario = kills.Predict(tmp_path)
    whole = scenario.whole()
    scenario.earlier()
    assert kills.survives(scenario, whole, scenario.result(), **moment)


@pytest.mark.parametrize("make, moment", [
    (kills.Pretrain, {"kind": "replace", "last": 3}),          # a resume point
    (kills.Pretrain, {"kind": "replace", "last": 9}),          # the results
    (kills.Index, {"kind": "replace", "last": 3}),             # in the middle of a video
    (kills.Download, {"kind": "fsync", "last": 1})], ids=str)
def test_another_command_that_is_killed_leaves_what_was_there(tmp_path, make, moment):
    scenario = make(tmp_path)
    whole = scenario.whole()
    scenario.earlier()
    assert kills.survives(scenario, whole, scenario.result(), **moment), "the moment never came"
