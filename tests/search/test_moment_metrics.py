"""Metrics of moment retrieval, on cases that are counted by hand."""
import pytest
import torch
from sklearn.metrics import roc_auc_score

from minilora.search import moment_metrics
from minilora.search.events import Event

TRUE = [("a.mp4", 0, 4), ("a.mp4", 10, 14), ("b.mp4", 0, 4)]


def event(file, start, end, score):
    return Event(file, start, end, start, score)


def test_recall_at_one_needs_the_overlap_that_is_asked_for():
    """0 to 4 and 0 to 3 share 3 of 4 seconds, 1 to 5 shares 3 of 5."""
    three_quarters = ([event("a.mp4", 0, 3, 0.9), event("a.mp4", 30, 34, 0.1)], TRUE)
    three_fifths = ([event("a.mp4", 1, 5, 0.9)], TRUE)
    wrong_file_first = ([event("c.mp4", 0, 4, 0.9), event("a.mp4", 0, 4, 0.8)], TRUE)
    queries = [three_quarters, three_fifths, wrong_file_first, ([], TRUE)]
    assert moment_metrics.recall_at_one(queries, 0.5) == 0.5
    assert moment_metrics.recall_at_one(queries, 0.7) == 0.25


def test_the_overlap_of_the_best_event_is_zero_in_another_file_and_without_an_answer():
    queries = [([event("a.mp4", 30, 34, 0.1), event("a.mp4", 0, 3, 0.9)], TRUE),
               ([event("a.mp4", 1, 5, 0.9)], TRUE),
               ([event("c.mp4", 0, 4, 0.9), event("a.mp4", 0, 4, 0.8)], TRUE), ([], TRUE)]
    assert moment_metrics.mean_top_iou(queries) == pytest.approx((3 / 4 + 3 / 5 + 0 + 0) / 4)


def test_precision_and_recall_count_every_true_event_once():
    found = [event("a.mp4", 0, 4, 0.9), event("a.mp4", 0, 3, 0.8), event("b.mp4", 0, 4, 0.7),
             event("c.mp4", 0, 4, 0.6)]
    measured = lambda k: moment_metrics.precision_and_recall(found, TRUE, k)
    assert measured(1) == (1, pytest.approx(1 / 3))
    assert measured(2) == (1 / 2, pytest.approx(1 / 3)), "0 to 4 of a.mp4 is found a second time"
    assert measured(3) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert measured(10) == (2 / 4, pytest.approx(2 / 3)), "only four were found"
    assert moment_metrics.precision_and_recall(found, TRUE, 3, 1.0) == measured(3)
    assert moment_metrics.precision_and_recall([], TRUE, 3) == (0, 0)
    assert moment_metrics.precision_and_recall(found, [], 3) == (0, 0)


def test_an_event_takes_the_true_event_that_it_overlaps_most():
    """2 to 6 overlaps 1 to 5 (3 of 5 seconds) more than 0 to 4 (2 of 6)."""
    true = [("a.mp4", 0, 4), ("a.mp4", 1, 5)]
    found = [event("a.mp4", 2, 6, 0.9), event("a.mp4", 0, 4, 0.8)]
    assert moment_metrics.precision_and_recall(found, true, 2, 0.3) == (1, 1)


def test_f1_is_the_mean_over_queries_of_their_harmonic_means():
    """Precision 1 and recall 1/3: 1/2.  Nothing right: 0."""
    queries = [([event("a.mp4", 0, 4, 0.9)], TRUE), ([event("c.mp4", 0, 4, 0.9)], TRUE)]
    assert moment_metrics.f1_at_k(queries, 1) == pytest.approx((1 / 2 + 0) / 2)
    assert moment_metrics.f1_at_k(queries[:1], 5) == pytest.approx(1 / 2)


def test_the_auroc_of_frames_is_that_of_scikit_learn():
    values = torch.rand(40, generator=torch.Generator().manual_seed(0))
    times = torch.arange(40, dtype=torch.float64)
    true = [("a", 3, 9), ("a", 20, 26), ("b", 0, 40)]
    inside = [3 <= t < 9 or 20 <= t < 26 for t in range(40)]
    assert moment_metrics.frame_auroc({"a": (times, values)}, true) == pytest.approx(
        roc_auc_score(inside, values))
    both = {"a": (times, values), "b": (times[:5], values[:5])}
    assert moment_metrics.frame_auroc(both, true) == pytest.approx(roc_auc_score(
        inside + 5 * [True], torch.cat([values, values[:5]])))


def test_answers_where_nothing_is_there_are_counted_by_query_and_by_event():
    one = event("a.mp4", 0, 4, 0.9)
    assert moment_metrics.answered([[], [one], [one, one, one], []]) == (0.5, 1.0)
    assert moment_metrics.answered([[]]) == (0.0, 0.0)


def test_a_threshold_that_answers_a_share_of_absent_queries_loses_the_present_ones_below_it():
    """Of 20 absent queries one may be answered, the one with 19; the next, 18, is the threshold."""
    absent, present = torch.arange(20.0), torch.tensor([17.0, 18, 18.5, 30])
    assert moment_metrics.lost_at(present, absent, 0.05) == 0.5
    assert moment_metrics.lost_at(present, absent, 0.04) == 0.75, "none may be answered"
    assert moment_metrics.lost_at(present, absent, 0.5) == 0.0
