"""Average precision and best F1 against scikit-learn."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve

from minilora.metrics.average_precision import average_precision, f1_max

CASES = st.lists(st.tuples(st.sampled_from([0.0, 1.0, 2.0, 3.5, -7.0, 1e9]), st.booleans()),
                 min_size=1, max_size=60).filter(lambda rows: any(label for _, label in rows))


def best_f1(labels, scores):
    precision, recall, _ = precision_recall_curve(labels, scores, drop_intermediate=False)
    total = precision + recall
    return np.max(2 * precision * recall / np.where(total == 0, 1, total))


@given(CASES)
@settings(max_examples=200, deadline=None)
def test_both_equal_scikit_learn_with_ties(rows):
    scores, labels = (np.array(column) for column in zip(*rows))
    if labels.all():
        assert average_precision(scores, labels) == f1_max(scores, labels) == 1
        return
    expected = average_precision_score(labels, scores)
    assert average_precision(scores, labels) == pytest.approx(expected, abs=1e-12)
    assert f1_max(scores, labels) == pytest.approx(best_f1(labels, scores), abs=1e-12)


def test_both_equal_scikit_learn_for_a_hundred_thousand_scores():
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(100_000, generator=generator) < 0.02
    scores = torch.randn(100_000, generator=generator) + labels
    expected = average_precision_score(labels.numpy(), scores.numpy())
    assert average_precision(scores, labels) == pytest.approx(expected, abs=1e-12)
    expected = best_f1(labels.numpy(), scores.numpy())
    assert f1_max(scores, labels) == pytest.approx(expected, abs=1e-9)


def test_perfectly_separated_scores_give_1_on_any_scale():
    assert average_precision([20, 30, 50, 60], [0, 0, 1, 1]) == 1
    assert f1_max([-float("inf"), 0, 1, float("inf")], [0, 0, 1, 1]) == 1


def test_without_a_defective_sample_both_are_undefined():
    for metric in (average_precision, f1_max):
        with pytest.raises(ValueError, match="report it as missing"):
            metric([1.0, 2.0], [0, 0])
