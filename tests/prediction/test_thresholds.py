"""Another threshold than the fitted one: where it comes from and what it would do."""
import pytest

from minilora.detector import Detector
from minilora.prediction.inputs import open_with_threshold
from minilora.prediction.thresholds import override_threshold, threshold_at, threshold_choices


@pytest.fixture(scope="module")
def fitted(gear_run):
    return Detector.open(gear_run[0])


@pytest.fixture
def detector(fitted):
    """The detector of the run with its own threshold, whatever a test sets."""
    own = fitted.threshold
    yield fitted
    fitted.threshold = own


def test_the_scores_that_made_the_threshold_are_in_the_run_folder(detector):
    assert len(detector.shot_scores) == 4 and len(detector.rotated_scores) == 3 * 4
    rate = detector.config.false_positive_rate
    assert threshold_at(detector, rate) == pytest.approx(detector.threshold, rel=1e-6)


def test_a_lower_rate_means_a_higher_threshold(detector):
    values = [threshold_at(detector, rate) for rate in (0.2, 0.1, 0.05, 0.01, 0.001)]
    assert values == sorted(values) and len(set(values)) == 5


def test_the_table_counts_good_and_scored_pictures_above_each_threshold(detector):
    scores = [*detector.shot_scores, detector.threshold + 1e-3, 1e3]
    choices = threshold_choices(detector, scores)
    assert [c.threshold for c in choices] == sorted((c.threshold for c in choices), reverse=True)
    assert [c.words for c in choices] == ["1 %", "5 %, fitted", "10 %", "20 %"]
    assert [c.used for c in choices] == [False, True, False, False]
    for choice in choices:
        assert choice.good_ng == sum(s > choice.threshold for s in detector.shot_scores)
        assert choice.scored_ng == sum(s > choice.threshold for s in scores)
    assert choices[1].scored_ng == choices[1].good_ng + 2


def test_a_given_threshold_and_a_given_rate_have_a_row_of_their_own(detector):
    override_threshold(detector, 0.125, None)
    assert [(c.words, c.threshold) for c in threshold_choices(detector, []) if c.used] == \
        [("given", 0.125)]
    override_threshold(detector, None, 0.003)
    (used,) = [c for c in threshold_choices(detector, [], 0.003) if c.used]
    assert used.words == "0.3 %, given" and used.threshold == threshold_at(detector, 0.003)
    override_threshold(detector, None, 0.01)
    (used,) = [c for c in threshold_choices(detector, [], 0.01) if c.used]
    assert used.words == "1 %, given"


def test_the_fitted_threshold_is_recognised_whatever_the_order_of_its_sum(detector):
    detector.threshold *= 1 + 1e-12
    assert [c.words for c in threshold_choices(detector, []) if c.used] == ["5 %, fitted"]


def test_threshold_and_rate_exclude_each_other(gear_run):
    with pytest.raises(ValueError, match="exclude each other.*give one of them"):
        open_with_threshold(gear_run[0], threshold=1.0, rate=0.01)


def test_a_run_without_shots_takes_a_threshold_but_no_rate(gear_run, tiny_weights, tmp_path):
    from minilora import fit
    from minilora.runs import run_class
    out = tmp_path / "zero"
    run_class.run_class(fit.parse(["--class", "gear", "--shots", "0", "--data",
                                   str(gear_run[1].parent), "--model", str(tiny_weights), "--out",
                                   str(out)]), lambda line: None)
    assert open_with_threshold(out, threshold=0.5).threshold == 0.5
    with pytest.raises(ValueError, match="no scores of good pictures.*give --threshold"):
        open_with_threshold(out, rate=0.01)
    choices = threshold_choices(open_with_threshold(out, threshold=0.5), [0.4, 0.6])
    assert [(c.words, c.scored_ng) for c in choices] == [("given", 1)]
