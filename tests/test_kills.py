"""A killed process leaves the earlier result or the new one; the same command continues."""
import kills
import pytest

pytestmark = pytest.mark.slow
FROM_THE_END = {"open": 2, "fsync": 3, "replace": 3, "unlink": 2, "rmdir": 1, "mkdir": 1}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """{name: (scenario, result without a kill, earlier result)}, made when first asked for."""
    made = {}

    def get(name):
        if name not in made:
            scenario = kills.SCENARIOS[name](tmp_path_factory.mktemp(name))
            uninterrupted = scenario.uninterrupted()
            scenario.earlier()
            made[name] = scenario, uninterrupted, scenario.result()
        return made[name]
    return get


@pytest.mark.parametrize("name, kind", [(name, kind) for name in ("Fit", "Predict")
                                        for kind in FROM_THE_END])
def test_a_command_killed_near_its_end_loses_nothing_and_mixes_nothing(scenes, name, kind):
    """Near the end results are moved into place."""
    scenario, uninterrupted, earlier = scenes(name)
    last = max(1, kills.calls_of(scenario, kind) - FROM_THE_END[kind])
    scenario.earlier()
    assert kills.survives(scenario, uninterrupted, earlier, kind=kind, last=last)


@pytest.mark.parametrize("name, moment", [
    ("Fit", {"kind": "replace", "last": 7}),            # a resume point
    ("FitAll", {"kind": "replace", "last": 9}),         # the first class of two of this process
    ("FitAll", {"kind": "fsync", "last": 30}),          # the second one, or the summary
    ("FitAll", {"kind": "rmdir", "last": 2}),           # of a class that is finished then
    ("Pretrain", {"kind": "replace", "last": 3}),       # a resume point
    ("Pretrain", {"kind": "replace", "last": 9}),       # the results
    ("Index", {"kind": "replace", "last": 3}),          # in the middle of a video
    ("Scenes", {"kind": "mkdir", "last": 4}),
    ("Scenes", {"kind": "rmdir", "last": 1}),           # the class has its name already
    ("Download", {"kind": "fsync", "last": 1})], ids=str)
def test_other_killed_commands_leave_the_earlier_result(scenes, name, moment):
    scenario, uninterrupted, earlier = scenes(name)
    scenario.earlier()
    assert kills.survives(scenario, uninterrupted, earlier, **moment)
