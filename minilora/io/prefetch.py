"""Prefetching: a thread decodes the next pictures while the network works on the current one.

Claim: decoding a picture and running the network on another can happen at the same time; one thread
that stays a few pictures ahead hides the shorter of the two times behind the longer one.  (Pillow
and torch both release Python's global interpreter lock while they work.)

Left out: processes, several threads (on a CPU the network already uses all cores).
"""
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item, Result = TypeVar("Item"), TypeVar("Result")


def prefetch(function: Callable[[Item], Result], items: Iterable[Item], depth: int = 4,
             size: Callable[[Result], float] = lambda result: 0.0, most: float = 1.0
             ) -> Iterator[Result]:
    """Yield function(item) for every item, in order; a thread computes up to `depth` items ahead.

    An error in function is raised here when its item's turn comes.  At most depth + 1 results exist
    at a time, so memory does not grow with the number of items.
    size(result), most: the next item is begun only while the sizes of the waiting results add up
    to less than `most`.
    """
    gate, waiting_size, closed = threading.Condition(), 0.0, False

    def compute(item):
        nonlocal waiting_size
        with gate:
            gate.wait_for(lambda: waiting_size < most or closed)
        result = function(item)
        with gate:
            waiting_size += size(result)
        return result

    def take(future):
        nonlocal waiting_size
        result = future.result()
        with gate:
            waiting_size -= size(result)
            gate.notify()
        return result

    with ThreadPoolExecutor(1) as reader:
        waiting = deque()
        try:
            for item in items:
                waiting.append(reader.submit(compute, item))
                if len(waiting) > depth:
                    yield take(waiting.popleft())
            while waiting:
                yield take(waiting.popleft())
        finally:
            for rest in waiting:                        # a caller that stops early waits for the
                rest.cancel()                           # item in progress only, not for all
            with gate:
                closed = True
                gate.notify()


def demo() -> None:
    """Read and score 20 items, first one after the other, then with prefetching."""
    import time

    def taking(seconds):
        return lambda item: time.sleep(seconds) or item

    read, score, items = taking(0.02), taking(0.02), range(20)
    begun = time.perf_counter()
    plain = [score(read(item)) for item in items]
    between = time.perf_counter()
    overlapped = [score(picture) for picture in prefetch(read, items)]
    done = time.perf_counter()
    print(f"same results in the same order: {plain == overlapped}")
    print(f"one after the other {between - begun:.2f} s, with prefetching {done - between:.2f} s")


if __name__ == "__main__":
    demo()
