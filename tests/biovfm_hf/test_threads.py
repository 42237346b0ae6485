"""Maps in threads: order, what happens after an error or when nobody wants more, and torch's threads."""

import threading
import time

import pytest
import torch

from biovfm_hf.threads import LANES, in_lanes, in_order


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_order_then_the_error_of_the_values(threads):
    def values():
        yield from range(5)
        raise ValueError("no more")

    found = []
    with pytest.raises(ValueError, match="no more"):
        for value in in_order(lambda value: (time.sleep(0.002 * (5 - value)), value)[1], values(), threads):
            found.append(value)
    assert found == list(range(5))


def test_what_has_not_begun_is_dropped_when_nobody_wants_it_any_more():
    begun, allowed = [], threading.Semaphore(2)

    def work(item):
        begun.append(item)
        allowed.acquire(timeout=60)
        return item

    found = in_order(work, range(20), 2)
    assert next(found) == 0
    while len(begun) < 4:  # two are finished, and two have begun
        time.sleep(0.001)
    threading.Timer(0.1, lambda: allowed.release(2)).start()
    found.close()
    assert sorted(begun) == [0, 1, 2, 3]


@pytest.mark.parametrize(("cores", "lanes", "each"), [(1, 1, 1), (2, 2, 1), (LANES + 2, LANES // 2 + 1, 2)])
def test_lanes_share_the_threads_of_torch(cores, lanes, each):
    before = torch.get_num_threads()
    together = threading.Barrier(lanes, timeout=60)
    torch.set_num_threads(cores)
    try:
        counts = list(in_lanes(lambda _: (together.wait(), torch.get_num_threads())[1], range(2 * lanes)))
        assert counts == [each] * 2 * lanes and torch.get_num_threads() == cores
    finally:
        torch.set_num_threads(before)
