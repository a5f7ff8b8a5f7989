"""The embedded server under load and at its limits: overload, deadlines, sizes, and stops."""

from __future__ import annotations

import asyncio
import math
import threading

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2
from serving_helpers import sample
from waiting import wait_for

from limaml_serving.server import health, runner
from limaml_serving.server.admission import Call, Pool
from limaml_serving.server.errors import StatusError as ServerRequestError
from limaml_serving.server.runner import SavedModelRunner

#: Half a minute of work and more: far beyond every deadline here, yet a broken server ends some
#: day.
ENDLESS = {"count": np.array([10**6])}


@pytest.fixture
def runs(monkeypatch):
    """The arguments of each run of a model."""
    made = []
    run = SavedModelRunner.run
    monkeypatch.setattr(
        SavedModelRunner, "run", lambda self, *given: made.append(given) or run(self, *given)
    )
    return made


def test_a_full_queue_refuses_at_once_while_health_and_status_still_answer(connected, refusal):
    server, client = connected(workers=1, max_queue=2)
    slow = [
        client.prediction.Predict.future(client.request(ENDLESS, signature="spin"), timeout=3)
        for _ in range(3)
    ]
    wait_for(lambda: sample(server, "pending") == 3)
    code, message = refusal(client.logits)
    assert code == "RESOURCE_EXHAUSTED"
    assert "queue" in message
    assert client.is_serving()
    assert client.status() == {1: (30, "")}
    assert sample(server, "refused_total") == 1
    assert {call.code().name for call in slow} == {"DEADLINE_EXCEEDED"}
    wait_for(lambda: sample(server, "pending") == 0)
    assert client.logits() == [111.0, 1.0]


def test_a_request_whose_client_gave_up_while_it_waited_is_not_run(connected, runs):
    server, client = connected(workers=1, max_queue=10)
    first = client.prediction.Predict.future(client.request(ENDLESS, signature="spin"), timeout=3)
    wait_for(lambda: sample(server, "pending") == 1)
    others = [
        client.prediction.Predict.future(client.request(ENDLESS, signature="spin"), timeout=0.2)
        for _ in range(5)
    ]
    for call in (*others, first):
        assert call.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    wait_for(lambda: sample(server, "pending") == 0)
    assert len(runs) == 1
    assert client.logits() == [111.0, 1.0]


def test_requests_cancelled_while_they_waited_are_not_run_and_leave_the_queue_to_others(
    connected, runs
):
    server, client = connected(workers=1, max_queue=3)
    first = client.prediction.Predict.future(client.request(ENDLESS, signature="spin"), timeout=3)
    wait_for(lambda: sample(server, "pending") == 1)
    others = [
        client.prediction.Predict.future(client.request(ENDLESS, signature="spin"), timeout=600)
        for _ in range(3)
    ]
    wait_for(lambda: sample(server, "pending") == 4)
    for call in others:
        call.cancel()
    assert first.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    wait_for(lambda: sample(server, "pending") == 0)
    assert len(runs) == 1
    assert client.logits() == [111.0, 1.0]


def test_a_request_larger_than_the_limit_is_refused_and_one_below_is_answered(connected, refusal):
    _, client = connected(max_message_bytes=1024 * 1024, max_rows=10**6)
    half = {"anything": np.ones(2**17, np.float32)}
    assert tf.make_ndarray(client.predict(half, signature="total").outputs["total"]) == 2**17 + 1
    assert (
        refusal(client.predict, {"anything": np.ones(2**19, np.float32)}, signature="total")[0]
        == "RESOURCE_EXHAUSTED"
    )


def test_more_rows_than_allowed_are_refused(connected, refusal):
    _, client = connected(max_rows=10)
    assert client.predict({"anything": np.ones(10, np.float32)}, signature="total")
    code, message = refusal(
        client.predict, {"anything": np.ones(11, np.float32)}, signature="total"
    )
    assert code == "INVALID_ARGUMENT"
    assert "11 rows, more than the 10" in message


def test_any_selection_of_outputs_is_answered_though_the_session_prepares_for_a_few_only(
    connected, rows, monkeypatch
):
    monkeypatch.setattr(runner, "_SELECTIONS_LIMIT", 1)
    run_session, fetched = runner.run_session, []

    def observed(session, feeds, fetches, timeout_ms):
        fetched.append(len(fetches))
        return run_session(session, feeds, fetches, timeout_ms)

    monkeypatch.setattr(runner, "run_session", observed)
    _, client = connected()
    everything = {
        name: tf.make_ndarray(value).tolist()
        for name, value in client.predict(rows).outputs.items()
    }
    for names in (("logit",), ("probability", "country"), ("country",), ("logit",)):
        outputs = client.predict(rows, outputs=names).outputs
        assert {name: tf.make_ndarray(value).tolist() for name, value in outputs.items()} == {
            name: everything[name] for name in names
        }
    assert set(fetched) == {len(everything)}  # the one selection that is prepared


def test_a_run_stops_at_its_deadline_by_itself(base):
    model = SavedModelRunner(base / "1")
    spin = model.signature("spin")
    for timeout_ms in (150, 0):  # a deadline that has just passed is one, too
        with pytest.raises(ServerRequestError) as error:
            model.run(spin, ENDLESS, ("sum",), timeout_ms=timeout_ms)
        assert error.value.code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert model.run(spin, {"count": np.array([5])}, ("sum",), timeout_ms=20_000)[0] == 5
    model.close()


def test_stopping_lets_running_requests_end_and_takes_no_new_ones(connected, refusal, rows):
    server, client = connected(workers=1)
    # Two requests that take a while: the second one still waits in the queue when the server is
    # told to stop.
    running = [
        client.prediction.Predict.future(
            client.request({"count": np.array([50_000])}, signature="spin"), timeout=60
        )
        for _ in "ab"
    ]
    wait_for(lambda: sample(server, "pending") == 2)
    stopping = threading.Thread(target=server.stop, args=(60.0,))
    stopping.start()
    for call in running:
        assert call.result().outputs["sum"].int64_val[0] == 50_000
    stopping.join()
    assert refusal(client.predict, rows)[0] == "UNAVAILABLE"
    assert server.manager.statuses("m") == {1: (50, "")}


def test_a_watch_of_the_health_is_told_of_a_stop_while_requests_still_run(connected, monkeypatch):
    monkeypatch.setattr(health, "_WATCH_SECONDS", 0.05)
    server, client = connected(workers=1)
    watch = client.health.Watch(health_pb2.HealthCheckRequest(), timeout=60)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    call = client.prediction.Predict.future(client.request(ENDLESS, signature="spin"), timeout=500)
    wait_for(lambda: sample(server, "pending") == 1)
    stopping = threading.Thread(target=server.stop, args=(60.0,))
    stopping.start()
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert stopping.is_alive()
    call.cancel()
    watch.cancel()
    stopping.join()


def test_a_call_that_is_cancelled_while_it_waits_keeps_its_place_and_not_its_content():
    released = threading.Event()

    async def cancel_a_waiting_call():
        pool = Pool(1, "one", limit=2)
        pool.start()
        calls = [Call(content=b"x" * 1000, deadline=math.inf) for _ in range(2)]
        running, waiting = (
            asyncio.create_task(pool.run(lambda call: released.wait() and call.content, call))
            for call in calls
        )
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert (len(calls[1].content), pool.is_full) == (0, True)
        released.set()
        assert len(await running) == 1000
        pool.close(60)

    asyncio.run(cancel_a_waiting_call())


def test_a_stop_waits_for_a_client_that_has_not_read_a_large_answer(connected, kinds):
    server, client = connected(max_response_bytes=2**30, max_message_bytes=2**30, max_rows=2**30)
    strings = tf.make_tensor_proto([b"x" * 1000] * 30_000)
    zeros = {kind.name: tf.make_tensor_proto(tf.zeros([1], kind).numpy()) for kind in kinds}
    answers = client.channel.unary_stream("/tensorflow.serving.PredictionService/Predict")(
        client.request({**zeros, "string": strings}, signature="kinds").SerializeToString()
    )
    answered = {"model": "m", "method": "Predict", "code": "OK"}
    wait_for(lambda: sample(server, "requests_total", **answered) or not answers.is_active(), 60)
    stopping = threading.Thread(target=server.stop, args=(60.0,))
    stopping.start()
    stopping.join(0.5)
    assert stopping.is_alive()
    assert answers.is_active(), (answers.code(), answers.details())
    answers.cancel()
    stopping.join(30)
    assert not stopping.is_alive()


def test_a_run_that_outlasts_the_time_given_at_a_stop_is_cut_off(connected):
    before = set(threading.enumerate())
    server, client = connected(workers=1)
    call = client.prediction.Predict.future(client.request(ENDLESS, signature="spin"), timeout=500)
    wait_for(lambda: sample(server, "pending") == 1)
    server.stop(0.2)
    assert call.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
    assert server.manager.statuses("m") == {1: (50, "")}
    after = set(threading.enumerate()) - before
    assert not [thread for thread in after if thread.name.startswith("limaml-serve")]


def test_strict_shapes_refuse_what_the_signature_does_not_allow(connected, refusal, rows):
    _, client = connected(strict_shapes=True)
    narrow = {**rows, "meta_embedding": np.zeros((2, 3), np.float32)}
    code, message = refusal(client.predict, narrow)
    assert code == "INVALID_ARGUMENT"
    assert "expected shape [-1, 4]" in message


def test_the_message_of_a_refusal_is_short_whatever_it_quotes(connected, refusal, rows):
    _, client = connected()
    code, message = refusal(client.predict, rows, label="x" * 5000)
    assert (code, len(message), message[-5:]) == ("INVALID_ARGUMENT", 1024, "xx...")
