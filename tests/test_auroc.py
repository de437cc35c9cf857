"""AUROC is a probability over pairs (Hanley & McNeil 1982), and here it is counted exactly."""
import re
from fractions import Fraction

import numpy as np
import pytest
import torch

from minilora.auroc import auroc

INF = float("inf")


def by_definition(scores, labels):
    """O(n m): every pair is compared, in exact fractions."""
    pos = [s for s, y in zip(scores, labels) if y]
    neg = [s for s, y in zip(scores, labels) if not y]
    wins = sum(Fraction(1) if p > n else Fraction(1, 2) if p == n else 0 for p in pos for n in neg)
    return float(Fraction(wins) / (len(pos) * len(neg)))


def draw(n, share, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.rand(n, generator=generator) < share
    labels[0], labels[1] = True, False
    return torch.randn(n, generator=generator).to(dtype) + labels.to(dtype), labels


ADVERSARIAL = {
    "all_ties": lambda: (torch.full((1000,), 0.3), draw(1000, 0.3, 0)[1]),
    "one_positive": lambda: (draw(1000, 0.5, 1)[0], torch.arange(1000) == 437),
    "one_negative": lambda: (draw(1000, 0.5, 1)[0], torch.arange(1000) != 437),
    "a_million": lambda: draw(1_000_000, 0.02, 2),
    "a_million_half_positive": lambda: draw(1_000_000, 0.5, 3),
    "a_million_in_ten_values": lambda: ((draw(1_000_000, 0.5, 4)[0] * 2).round(),
                                        draw(1_000_000, 0.5, 4)[1]),
    "outside_the_unit_interval": lambda: (draw(999, 0.5, 5)[0] * 40 - 1000, draw(999, 0.5, 5)[1]),
    "differences_beyond_float64": lambda: (draw(999, 0.5, 6)[0].sign() * 10.0 ** (
        300 * draw(999, 0.5, 6)[0].tanh()), draw(999, 0.5, 6)[1]),
    "differences_of_one_ulp": lambda: (1 + draw(999, 0.5, 7)[0].round() * 2.0 ** -52,
                                       draw(999, 0.5, 7)[1]),
    "subnormal_scores": lambda: (draw(999, 0.5, 7)[0].round() * 5e-324, draw(999, 0.5, 7)[1]),
    "float32_scores": lambda: draw(100_000, 0.4, 8, torch.float32),
    "float16_scores": lambda: draw(10_000, 0.4, 9, torch.float16),
    "integer_scores": lambda: (torch.arange(-500, 500) % 37, draw(1000, 0.4, 10)[1]),
}


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_auroc_equals_scikit_learn(name):
    metrics = pytest.importorskip("sklearn.metrics")
    scores, labels = ADVERSARIAL[name]()
    assert auroc(scores, labels) == pytest.approx(
        metrics.roc_auc_score(labels.numpy(), scores.numpy()), abs=1e-12, rel=0)


@pytest.mark.parametrize("seed", range(20))
def test_auroc_is_the_share_of_pairs_in_the_right_order_infinities_included(seed):
    # exact equality: both sides round the same exact fraction once
    generator = torch.Generator().manual_seed(seed)
    values = torch.tensor([-INF, -1e308, -2.0, -0.0, 0.0, 5e-324, 2.0, 1e308, INF],
                          dtype=torch.float64)
    scores = values[torch.randint(len(values), (41,), generator=generator)]
    labels = torch.rand(41, generator=generator) < (seed + 1) / 22
    labels[:2] = torch.tensor([True, False])
    assert auroc(scores, labels) == by_definition(scores.tolist(), labels.tolist())


def test_separated_scores_give_one_on_any_scale():
    assert auroc([20.0, 30.0, 50.0, 60.0], [0, 0, 1, 1]) == 1.0
    assert auroc([-60.0, -50.0, -30.0, -20.0], [1, 1, 0, 0]) == 0.0


def test_ties_count_one_half():
    assert auroc([1, 1], [0, 1]) == 0.5
    assert auroc([0, 1, 1], [0, 0, 1]) == 0.75


def test_labels_may_be_bool_int_or_float_and_either_array_kind():
    scores, labels = draw(500, 0.3, 11)
    expected = auroc(scores, labels)
    assert auroc(scores.numpy(), labels.numpy()) == expected
    assert auroc(scores.tolist(), labels.int().tolist()) == expected
    assert auroc(scores.view(50, 10), labels.view(50, 10).double()) == expected


def test_python_floats_are_not_rounded_to_float32():
    assert auroc([1.0, 1.0 + 1e-12, 1e300, 2e300], [0, 1, 0, 1]) == 0.75


def test_integers_beyond_float64_keep_their_order():
    big = 2 ** 60
    assert auroc(torch.tensor([big, big + 1]), torch.tensor([0, 1])) == 1.0


def test_the_count_does_not_lose_small_contributions():
    # 3e6 x 3 pairs: three of nine million pairs are ties, worth one half each
    scores, labels = torch.zeros(3_000_003), torch.zeros(3_000_003, dtype=torch.bool)
    scores[:3], labels[:3] = 1.0, True
    scores[3] = 1.0
    assert auroc(scores, labels) == float(1 - Fraction(3, 2) / 9_000_000)


def test_scores_that_require_grad_are_accepted():
    scores = torch.tensor([0.0, 1.0], requires_grad=True)
    assert auroc(scores, torch.tensor([False, True])) == 1.0


@pytest.mark.parametrize("scores, labels, words", [
    ([0.1, float("nan")], [0, 1], "1 NaN among 2"),
    ([0.1, 0.2], [0, 0], "2 good and 0 defective"),
    ([0.1, 0.2], [1, 1], "0 good and 2 defective"),
    ([], [], "0 good and 0 defective"),
    ([0.1, 0.2], [0, 2], "from 0 to 2"),
    ([0.1, 0.2], [-1, 1], "from -1 to 1"),
    ([0.1, 0.2, 0.3], [0, 1], r"\(3,\) and \(2,\)"),
])
def test_input_without_an_auroc_is_refused_with_the_reason(scores, labels, words):
    with pytest.raises(ValueError, match=words):
        auroc(np.array(scores, dtype=float), np.array(labels))


def test_auroc_does_not_change_its_inputs():
    scores, labels = draw(100, 0.5, 12)
    before = scores.clone()
    auroc(scores, labels)
    assert torch.equal(scores, before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_auroc_on_the_accelerator_is_the_same_number():
    scores, labels = draw(100_000, 0.3, 13)
    assert auroc(scores.cuda(), labels) == auroc(scores, labels)


def as_unsigned(scores):
    """The same order in uint64, around 2^63, where a signed number would turn negative."""
    return (np.round(scores * 100).astype(np.int64).view(np.uint64) ^ np.uint64(2**63))


STORED = {
    "reversed": lambda scores: np.ascontiguousarray(scores[::-1])[::-1],
    "big-endian": lambda scores: scores.astype(">f8"),
    "big-endian, two bytes": lambda scores: np.round(scores * 100).astype(">i2"),
    "every second of a longer array": lambda scores: np.repeat(scores, 2)[::2],
    "read-only": lambda scores: np.frombuffer(scores.tobytes()),
    "unsigned": as_unsigned,
    "unsigned, big-endian": lambda scores: as_unsigned(scores).astype(">u8"),
    "unsigned, a tensor": lambda scores: torch.from_numpy(as_unsigned(scores))}


@pytest.mark.parametrize("kind", STORED)
@pytest.mark.filterwarnings("error")
def test_the_value_does_not_depend_on_how_numpy_stores_the_numbers(kind):
    scores, labels = (x.numpy() for x in draw(500, 0.4, 11))
    scores = np.round(scores, 2)
    expected = by_definition(scores.tolist(), labels)
    stored = STORED[kind](scores)
    assert auroc(stored, labels) == expected
    assert auroc(stored, labels.astype(np.uint64)[::-1][::-1]) == expected


@pytest.mark.parametrize("scores", [
    np.array([1 + 2j, 3]), torch.tensor([1 + 2j, 3]), np.array([1, 2], dtype=np.longdouble),
    np.array(["1", "2"]), np.array([None, 1.0]), np.array(["2020-01-01"] * 2, "datetime64[D]")],
    ids=lambda scores: str(scores.dtype))
def test_what_is_no_real_number_of_64_bits_is_refused_by_name(scores):
    with pytest.raises(ValueError, match="at most 64 bits, found " + re.escape(str(scores.dtype))):
        auroc(scores, [0, 1])
