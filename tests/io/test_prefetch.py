"""Prefetching changes when a picture is decoded, and nothing else."""
import threading
import time

import pytest

from minilora.io.prefetch import prefetch


def test_results_come_in_order_and_all_of_them():
    assert list(prefetch(lambda k: k * k, range(20), depth=3)) == [k * k for k in range(20)]
    assert list(prefetch(lambda k: k, [])) == []


def test_the_next_items_are_computed_while_the_caller_is_busy():
    begun = [threading.Event() for _ in range(3)]
    results = prefetch(lambda k: begun[k].set() or k, range(3), depth=1)
    assert next(results) == 0
    assert begun[1].wait(5), "item 1 is computed before it is requested"
    assert list(results) == [1, 2]


def test_at_most_depth_results_wait():
    """A folder may hold more pictures than fit into memory."""
    computed = []
    results = prefetch(lambda k: computed.append(k), range(100), depth=4)
    next(results)
    time.sleep(0.1)
    assert 1 <= len(computed) <= 5


def test_an_error_is_raised_at_its_items_turn():
    results = prefetch(lambda k: 1 // (2 - k), range(4))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_a_caller_that_stops_early_does_not_wait_for_the_rest():
    computed = []
    results = prefetch(lambda k: time.sleep(0.01) or computed.append(k), range(1000), depth=100)
    next(results)
    results.close()
    assert len(computed) < 50


def test_large_results_wait_in_smaller_number():
    """Twenty photographs of 50 megapixels do not fit into memory, twenty of 1 megapixel do."""
    computed = []
    results = prefetch(lambda k: computed.append(k) or 30, range(20), depth=10,
                       size=lambda result: result, most=50)
    assert next(results) == 30
    time.sleep(0.1)
    assert len(computed) == 3, "one was taken; two of 30 wait, and together they are over 50"
    assert list(results) == [30] * 19


def test_a_caller_that_stops_early_is_not_kept_waiting_by_large_results():
    results = prefetch(lambda k: 1, range(20), size=lambda result: result, most=1)
    next(results)
    closing = threading.Thread(target=results.close)
    closing.start()
    closing.join(5)
    assert not closing.is_alive()
