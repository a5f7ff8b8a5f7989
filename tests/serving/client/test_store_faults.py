"""What the log says of a store that fails, and that it answers again."""

import logging

import pytest

from limaml_serving.client import store_faults
from tfrec_limaml.errors import StoreError


def failure(cause=None):
    error = StoreError(f"because of {type(cause).__name__}")
    error.__cause__ = cause
    return error


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, store_faults.__name__)
    return lambda: [record.getMessage() for record in caplog.records]


def test_another_cause_of_failure_is_logged_at_once(
    make_ranker, store, member, candidates, log, monkeypatch
):
    clock = [0.0]
    monkeypatch.setattr(store_faults.time, "monotonic", lambda: clock[0])
    faults = store_faults.StoreFaults(make_ranker().counters, False)
    for error in (failure(ConnectionError()), failure(PermissionError()), TimeoutError("slow")):
        for _ in range(3):
            faults.failed(str(error), error)
    said = [line.rpartition(": ")[2] for line in log()]
    assert said == ["because of ConnectionError", "because of PermissionError", "slow"]
    clock[0] = 61.0
    faults.failed("because of ConnectionError", failure(ConnectionError()))
    assert log()[-1].endswith("because of ConnectionError (2 more since the last such line)")
    clock[0] = 122.0
    faults.failed("because of ConnectionError", failure(ConnectionError()))
    assert log()[-1].endswith("because of ConnectionError")


def test_the_log_says_once_that_the_store_answers_again(
    make_ranker, store, member, candidates, log
):
    ranker = make_ranker()
    ranker.rank(member, candidates)
    assert not [line for line in log() if "store" in line]
    store.failure = failure(ConnectionError())
    for _ in range(3):
        ranker.rank(member, candidates)
    store.failure = None
    for _ in range(2):
        ranker.rank(member, candidates)
    said = [line for line in log() if "store" in line]
    assert [line.partition(":")[0] for line in said] == [
        "ranking without meta embeddings, the store failed",
        "the store answers again, after 3 failed look-ups",
    ]


def test_a_store_that_fails_now_and_then_does_not_fill_the_log(make_ranker, log):
    faults = store_faults.StoreFaults(make_ranker().counters, False)
    for _ in range(5):
        faults.failed("because", failure())
        faults.answered()
    assert len(log()) == 2
