"""A store that fails again and again is tried once a second, and requests do not wait for it."""

from __future__ import annotations

import pytest

from limaml_serving.client import store_pause
from tfrec_limaml.errors import StoreError


@pytest.fixture
def clock(monkeypatch):
    seconds = [100.0]
    monkeypatch.setattr(store_pause.time, "monotonic", lambda: seconds[0])
    return seconds


def test_after_five_failures_in_a_row_one_look_up_per_second_tries_the_store(clock):
    pause = store_pause.StorePause()
    for _ in range(4):
        pause.failed()
    assert pause.asks()
    pause.answered()
    for _ in range(4):
        pause.failed()
    assert pause.asks()  # the answer between them counts
    pause.failed()
    assert [pause.asks(), pause.asks()] == [False, False]
    clock[0] += 0.99
    assert not pause.asks()
    clock[0] += 0.02
    assert [pause.asks(), pause.asks()] == [True, False]  # the others wait for what this one finds
    pause.failed()
    clock[0] += 0.99
    assert not pause.asks()
    clock[0] += 0.02
    assert pause.asks()
    pause.answered()
    assert [pause.asks(), pause.asks()] == [True, True]


def test_a_request_does_not_wait_for_a_store_that_has_failed_five_times(
    make_ranker, store, member, candidates, clock
):
    ranker = make_ranker()
    store.failure = StoreError("it hangs")
    for _ in range(8):
        assert not ranker.rank(member, candidates).used_embedding.any()
    assert len(store.asked) == 5
    counters = ranker.counters.snapshot()
    assert (counters["store_errors"], counters["missing"]) == (8, 8 * len(candidates))
    clock[0] += 1.5
    store.failure = None
    assert ranker.rank(member, candidates).used_embedding.all()
    assert ranker.rank(member, candidates).used_embedding.all()
    assert (len(store.asked), ranker.counters.store_errors) == (7, 8)
