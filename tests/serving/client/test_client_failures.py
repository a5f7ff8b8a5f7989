"""The blocking client where the store or the server fails, is slow or is not there."""

from __future__ import annotations

import threading
from concurrent import futures

import grpc
import numpy as np
import pytest
from waiting import wait_for

from limaml_serving import RequestError, ServingError
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.store import open_store


def test_a_failing_store_is_counted_and_the_model_scores_unadapted(
    make_ranker, store, store_failure, member, candidates
):
    store.failure = store_failure
    ranker = make_ranker()
    assert not ranker.rank(member, candidates).used_embedding.any()
    assert ranker.counters.store_errors == 1


def test_a_slow_server_ends_in_deadline_exceeded_without_a_second_attempt(
    make_ranker, server, member, candidates
):
    import threading

    release = threading.Event()
    server.script = lambda call, request, context: release.wait(20) and None
    ranker = make_ranker(version=1)
    try:
        with pytest.raises(ServingError) as caught:
            ranker.rank(member, candidates, timeout=1.0)
    finally:
        release.set()
    assert caught.value.code == "DEADLINE_EXCEEDED"
    assert len(server.requests) == 1
    assert ranker.counters.deadline_exceeded == 1


@pytest.mark.parametrize("answer", [(2, 1), (1, 2), (2, 2)])
def test_an_answer_of_another_length_counts_as_a_failure(
    make_ranker, store, member, candidates, answer
):
    vectors, flags = answer
    store.get_many = lambda keys, version: (np.ones((vectors, 3), np.float32), [True] * flags)
    ranker = make_ranker()
    assert not ranker.rank(member, candidates).used_embedding.any()
    assert ranker.counters.store_errors == 1


def test_a_store_that_hangs_is_given_up_in_time_to_ask_the_server(
    make_ranker, server, store, member, candidates
):
    hung = threading.Event()
    get_many = store.get_many
    store.get_many = lambda keys, version: hung.wait(60) and get_many(keys, version)
    ranker = make_ranker(version=1)
    try:
        ranked = ranker.rank(member, candidates, timeout=2.0)
    finally:
        hung.set()
    assert not ranked.used_embedding.any()
    assert (ranker.counters.store_errors, ranker.counters.deadline_exceeded) == (1, 0)


@pytest.mark.parametrize(
    "failure",
    [OverflowError("cannot convert float infinity"), UnicodeDecodeError("utf-8", b"", 0, 1, "x")],
    ids=["overflow", "unicode"],
)
def test_a_fault_that_a_store_did_not_foresee_costs_the_embeddings_and_no_more(
    make_ranker, store, member, candidates, failure
):
    store.failure = failure
    ranker = make_ranker()
    assert not ranker.rank(member, candidates).used_embedding.any()
    assert ranker.counters.store_errors == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_stored_vector_that_is_not_finite_never_reaches_a_score(
    make_ranker, store, member, candidates, bad
):
    store.versions[1]["7"][1] = bad
    ranker = make_ranker()
    ranked = ranker.rank(member, candidates)
    assert np.isfinite(ranked.probability).all()
    assert not ranked.used_embedding.any()
    assert (ranker.counters.damaged, ranker.counters.missing) == (1, 4)


@pytest.mark.parametrize("bad_id", ["", "x" * 600, "\ud800"], ids=["empty", "long", "surrogate"])
def test_one_id_that_no_store_can_hold_costs_the_others_nothing(
    make_ranker, member, candidates, tmp_path, bad_id
):
    store = open_store(f"lmdb:{tmp_path}")
    with store.new_generation(1, 3) as writer:
        writer.put(["7"], np.array([[1, 0, 0]], np.float32))
        writer.publish()
    ranker = make_ranker(store=store)
    first, second, third = ranker.rank_many(
        [(member, candidates), ({**member, "user_id": bad_id}, candidates), (member, candidates)]
    )
    assert first.used_embedding.all()
    assert third.used_embedding.all()
    assert not second.used_embedding.any()
    assert (ranker.counters.anonymous, ranker.counters.store_errors) == (4, 0)


def test_candidates_without_a_column_that_the_model_knows_are_refused(make_ranker, member, server):
    everything = {**member, "price": 1.0, "tab": 2}
    with pytest.raises(RequestError, match=r"no column that the model knows: .*'colour'"):
        make_ranker().rank(everything, {"colour": ["red", "blue"]})
    assert server.requests == []


@pytest.mark.parametrize("code", ["UNAVAILABLE", "RESOURCE_EXHAUSTED"])
def test_safe_codes_are_tried_again_until_the_server_answers(
    make_ranker, server, member, candidates, code
):
    import grpc

    server.script = lambda call, request, context: (
        context.abort(grpc.StatusCode[code], "later") if call < 3 else None
    )
    assert make_ranker(retries=2).rank(member, candidates).model_version == 1
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    "code", ["INVALID_ARGUMENT", "INTERNAL", "ABORTED", "FAILED_PRECONDITION", "UNKNOWN"]
)
def test_other_codes_are_never_tried_again(make_ranker, server, member, candidates, code):
    import grpc

    server.script = lambda call, request, context: context.abort(grpc.StatusCode[code], "no")
    ranker = make_ranker(retries=4)
    with pytest.raises(ServingError) as caught:
        ranker.rank(member, candidates)
    assert caught.value.code == code
    assert len(server.requests) == 1
    assert ranker.counters.failed == 1


def test_a_server_that_is_not_there_is_unavailable(make_ranker, member, candidates):
    ranker = make_ranker(target="127.0.0.1:1", timeout=5.0)
    with pytest.raises(ServingError) as caught:
        ranker.rank(member, candidates)
    assert caught.value.code == "UNAVAILABLE"
    assert ranker.counters.unavailable == 1


def test_a_server_that_starts_late_is_waited_for(make_ranker):
    late = grpc.server(futures.ThreadPoolExecutor(1))
    ranker = make_ranker(target=f"127.0.0.1:{late.add_insecure_port('127.0.0.1:0')}")
    try:
        with pytest.raises(
            ServingError, match=r"no server answers at 127.0.0.1:\d+ after 0.2 seconds"
        ) as error:
            ranker.wait_for_server(0.2)
        assert error.value.code == "UNAVAILABLE"
        threading.Timer(0.3, late.start).start()
        ranker.wait_for_server(30)
    finally:
        late.stop(None)


def test_a_client_that_gave_up_waiting_asks_the_channel_no_longer(make_ranker):
    """A thread that did so would fail when the channel is closed."""
    ranker, before = make_ranker(target="127.0.0.1:1"), set(threading.enumerate())
    with pytest.raises(ServingError, match="no server answers") as kept:
        ranker.wait_for_server(0.1)
    wait_for(lambda: set(threading.enumerate()) <= before, seconds=15)
    assert kept.value.__cause__  # with all that the call knew: nothing was freed for want of users


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), None, "1"])
def test_a_wait_without_an_end_is_refused(make_ranker, seconds):
    ranker = make_ranker(target="127.0.0.1:1")
    with pytest.raises(RequestError, match=f"timeout must be a number .*received {seconds!r}"):
        ranker.wait_for_server(seconds)


@pytest.mark.parametrize("used", [False, True])
def test_a_closed_client_says_so(make_ranker, server, store, member, candidates, used):
    ranker = make_ranker()
    if used:
        ranker.rank(member, candidates)
    ranker.close()
    for call in (lambda: ranker.rank(member, candidates), lambda: ranker.wait_for_server(1)):
        with pytest.raises(
            ServingError, match=f"the client of {server.target} is closed"
        ) as caught:
            call()
        assert caught.value.code == "CANCELLED"
    assert ranker.counters.snapshot()["failed"] == 1


def test_a_look_up_that_waits_at_the_close_is_no_failed_store(
    make_ranker, store, member, candidates
):
    ranker, queue, look_up = make_ranker(), threading.Semaphore(0), store.get_many
    ranker.rank(member, candidates)
    store.get_many = lambda *step: queue.acquire(timeout=60) and look_up(*step)
    with futures.ThreadPoolExecutor(17) as threads:
        calls = [threads.submit(ranker.rank, member, candidates) for _ in range(17)]
        wait_for(lambda: ranker._store_reader._waiting.qsize() == 1)
        ranker.close()
        wait_for(lambda: any(call.done() for call in calls))
        queue.release(16)
    errors = [call.exception() for call in calls]
    assert {(type(error), error.code) for error in errors} == {(ServingError, "CANCELLED")}


@pytest.mark.parametrize("seconds", [0, -1.5])
def test_a_call_without_time_says_how_much_it_was_given(make_ranker, member, candidates, seconds):
    ranker = make_ranker()
    with pytest.raises(ServingError, match=f"the call's timeout is {seconds:g} seconds") as caught:
        ranker.rank(member, candidates, timeout=seconds)
    assert caught.value.code == "DEADLINE_EXCEEDED"
    assert ranker.counters.snapshot()["deadline_exceeded"] == 1


@pytest.mark.parametrize("store", [None, "lmdb:runs/store"])
def test_a_client_without_a_store_is_refused(make_ranker, store):
    with pytest.raises(
        LimamlError, match=r"store must have a method get_many, received (None|'lmdb:)"
    ):
        make_ranker(store=store)
