"""Reading ahead: the next pictures are decoded while the tower works on these.

Claim: decoding a photograph and running it through a network need not wait for each other; one
thread that is a few pictures ahead hides the shorter of the two behind the longer.  (Pillow and
torch both release Python's lock while they work.)

Leaves out: processes, several readers (a CPU has nothing left for them).
"""
from collections import deque
from concurrent.futures import ThreadPoolExecutor


def prefetch(work, items, depth=4):
    """Yields work(item) for every item, in order, computed in a thread up to `depth` items ahead.

    What work raises is raised here, at the item's turn.  However many items there are, at most
    depth + 1 results wait: memory does not grow with a folder.
    """
    with ThreadPoolExecutor(1) as reader:
        waiting = deque()
        try:
            for item in items:
                waiting.append(reader.submit(work, item))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for rest in waiting:                        # whoever stops early waits for one, not all
                rest.cancel()


def demo():
    import time

    def taking(seconds):
        return lambda item: time.sleep(seconds) or item

    read, judge, items = taking(0.02), taking(0.02), range(20)
    begun = time.perf_counter()
    plain = [judge(read(item)) for item in items]
    between = time.perf_counter()
    overlapped = [judge(picture) for picture in prefetch(read, items)]
    done = time.perf_counter()
    print(f"the same in the same order: {plain == overlapped}")
    print(f"one after the other {between - begun:.2f} s, overlapped {done - between:.2f} s")


if __name__ == "__main__":
    demo()
