"""The asyncio client: the same protocol, so the same answers, and what only an event loop can
do.
"""

from __future__ import annotations

import asyncio
import threading

import grpc
import numpy as np
import pytest

from limaml_serving import AsyncRanker, RequestError, ServingError
from tfrec_limaml.errors import LimamlError


@pytest.fixture
def with_ranker(server, store, make_manifest):
    """Runs ``work(ranker)`` in a fresh event loop."""

    def run(work, **changes):
        async def main():
            async with AsyncRanker(
                server.target, store, **{"manifest": make_manifest(), "timeout": 20.0, **changes}
            ) as ranker:
                return await work(ranker)

        return asyncio.run(main())

    return run


def test_it_ranks_and_counts_as_the_blocking_client_does(
    with_ranker, make_ranker, member, candidates
):
    blocking = make_ranker()
    requests = [(member, candidates), ({**member, "user_id": 99}, candidates)]
    expected = [blocking.rank(*requests[0]), *blocking.rank_many(requests)]

    async def work(ranker):
        return [
            await ranker.rank(*requests[0]),
            *await ranker.rank_many(requests),
        ], ranker.counters.snapshot()

    answers, counts = with_ranker(work)
    for answer, other in zip(answers, expected, strict=True):
        np.testing.assert_array_equal(answer.order, other.order)
        np.testing.assert_array_equal(answer.logit, other.logit)
        np.testing.assert_array_equal(answer.used_embedding, other.used_embedding)
    assert counts == blocking.counters.snapshot()


def test_it_waits_for_a_server_and_gives_up_in_time(with_ranker, store, make_manifest):
    async def work(ranker):
        await ranker.wait_for_server(30)
        async with AsyncRanker("127.0.0.1:1", store, manifest=make_manifest()) as nobody:
            with pytest.raises(
                ServingError, match=r"no server answers at 127.0.0.1:1 after 0.2 seconds"
            ):
                await nobody.wait_for_server(0.2)
            with pytest.raises(RequestError, match=r"timeout must be a number .*received nan"):
                await nobody.wait_for_server(float("nan"))

    with_ranker(work)


def test_requests_overlap(with_ranker, server, member, candidates):
    together = threading.Barrier(5)
    server.script = lambda call, request, context: together.wait(15) and None

    async def work(ranker):
        return await asyncio.gather(*(ranker.rank(member, candidates) for _ in range(5)))

    assert len(with_ranker(work, version=1)) == 5


def test_a_hanging_store_is_given_up_in_time_to_score_without_it(
    with_ranker, store, member, candidates
):
    store.delay = 2.5

    async def work(ranker):
        return await ranker.rank(member, candidates, timeout=4.0), ranker.counters.store_errors

    ranked, errors = with_ranker(work, version=1)
    assert not ranked.used_embedding.any()
    assert errors == 1


def test_a_failing_store_is_counted(with_ranker, store, store_failure, member, candidates):
    store.failure = store_failure

    async def work(ranker):
        return await ranker.rank(member, candidates), ranker.counters.store_errors

    ranked, errors = with_ranker(work)
    assert (ranked.used_embedding.any(), errors) == (False, 1)


def test_errors_have_the_same_types_and_codes(with_ranker, server, member, candidates):
    server.script = lambda call, request, context: context.abort(
        grpc.StatusCode.INVALID_ARGUMENT, "no"
    )

    async def work(ranker):
        with pytest.raises(ServingError) as caught:
            await ranker.rank(member, candidates)
        with pytest.raises(RequestError):
            await ranker.rank(member, {"tab": [1]})
        return caught.value.code

    assert with_ranker(work) == "INVALID_ARGUMENT"


def test_a_cancelled_request_leaves_the_client_usable(with_ranker, server, member, candidates):
    started, release = threading.Event(), threading.Event()

    def hang_once(call, request, context):
        if call == 1:
            started.set()
            release.wait(15)

    server.script = hang_once

    async def work(ranker):
        first = asyncio.create_task(ranker.rank(member, candidates))
        await asyncio.to_thread(started.wait, 15)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        release.set()
        return await ranker.rank(member, candidates)

    assert with_ranker(work, version=1).model_version == 1


def test_a_client_that_is_created_outside_of_an_event_loop_is_refused(store, make_manifest):
    with pytest.raises(LimamlError, match="create it in a coroutine"):
        AsyncRanker("127.0.0.1:1", store, manifest=make_manifest())


def test_calls_that_run_at_the_close_and_later_ones_say_that_the_client_is_closed(
    with_ranker, server, member, candidates
):
    entered, leave = threading.Event(), threading.Event()

    def hold(*_):
        entered.set()
        leave.wait(60)

    async def work(ranker):
        await ranker.rank(member, candidates)
        server.script = hold
        running = asyncio.create_task(ranker.rank(member, candidates))
        await asyncio.to_thread(entered.wait, 60)
        await ranker.close()
        leave.set()
        calls = (running, ranker.rank(member, candidates), ranker.wait_for_server(1))
        return await asyncio.gather(*calls, return_exceptions=True)

    for error in with_ranker(work):
        assert isinstance(error, ServingError)
        assert error.code == "CANCELLED"
