"""Calls gathered into batches: nothing lost or swapped, bounded, errors to those concerned."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from dataloaders.gather import Gatherer


def negative(items: list[int]) -> list[int]:
    return [-item for item in items]


def test_a_lone_caller_is_served_at_once():
    gatherer = Gatherer(negative, limit=4)
    assert [gatherer(number) for number in range(3)] == [0, -1, -2]
    gatherer.close()


def test_calls_that_wait_become_one_batch_in_order_and_within_the_limit():
    batches: list[list[int]] = []
    first_is_working, go_on = threading.Event(), threading.Event()

    def work(items: list[int]) -> list[int]:
        batches.append(items)
        if len(batches) == 1:
            first_is_working.set()
            assert go_on.wait(30)
        return [item * item for item in items]

    gatherer = Gatherer(work, limit=3)
    with ThreadPoolExecutor(8) as threads:
        answers = [threads.submit(gatherer, 0)]
        assert first_is_working.wait(30)
        for number in range(1, 8):
            answers.append(threads.submit(gatherer, number))
            while len(gatherer._waiting) < number:  # the call is in before the next one is made
                pass
        go_on.set()
        assert [answer.result() for answer in answers] == [n * n for n in range(8)]
    assert batches == [[0], [1, 2, 3], [4, 5, 6], [7]]
    gatherer.close()


def test_many_threads_get_their_own_answers():
    gatherer = Gatherer(negative, limit=5)
    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(gatherer, range(2000))) == [-n for n in range(2000)]
    gatherer.close()


def test_an_error_is_raised_to_its_callers_and_work_goes_on():
    def work(items: list[int]) -> list[int]:
        if 13 in items:
            raise MemoryError("13")
        return items

    gatherer = Gatherer(work, limit=1)
    with pytest.raises(MemoryError, match="13"):
        gatherer(13)
    assert gatherer(12) == 12
    gatherer.close()
    with pytest.raises(RuntimeError, match="shutdown"):
        gatherer(12)
