"""The embedded server under load and at its limits: overload, deadlines, drain, metrics."""

from __future__ import annotations

import socket
import threading
import urllib.request

import grpc
import numpy as np
import pytest
import tensorflow as tf
from serving_helpers import sample, wait_until

from limaml_serving.server import ConfigError, EmbeddedServer
from limaml_serving.server.errors import RequestError as ServerRequestError
from limaml_serving.server.runner import SavedModelRunner

#: Half a minute of work and more: far beyond every deadline here, yet a broken server ends some
#: day.
ENDLESS = {"count": np.array([10**6])}


def test_a_full_queue_refuses_at_once_while_health_and_status_still_answer(connected, refusal):
    server, client = connected(workers=1, max_queue=2)
    slow = [
        client.prediction.Predict.future(client.request(ENDLESS, signature="spin"), timeout=1)
        for _ in range(3)
    ]
    wait_until(lambda: sample(server, "pending") == 3)
    code, message = refusal(client.logits)
    assert code == "RESOURCE_EXHAUSTED"
    assert "queue" in message
    assert client.is_serving()
    assert client.status() == {1: (30, "")}
    assert sample(server, "refused_total") == 1
    assert {call.code().name for call in slow} == {"DEADLINE_EXCEEDED"}
    wait_until(lambda: sample(server, "pending") == 0)
    assert client.logits() == [111.0, 1.0]


def test_a_request_whose_client_gave_up_while_it_waited_is_not_run(connected, monkeypatch):
    server, client = connected(workers=1, max_queue=10)
    runs = []
    run = SavedModelRunner.run
    monkeypatch.setattr(
        SavedModelRunner, "run", lambda self, *given: runs.append(given) or run(self, *given)
    )
    first = client.prediction.Predict.future(client.request(ENDLESS, signature="spin"), timeout=1)
    wait_until(lambda: sample(server, "pending") == 1)
    others = [
        client.prediction.Predict.future(client.request(ENDLESS, signature="spin"), timeout=0.2)
        for _ in range(5)
    ]
    for call in (*others, first):
        assert call.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: sample(server, "pending") == 0)
    assert len(runs) == 1
    assert client.logits() == [111.0, 1.0]


def test_requests_cancelled_while_they_waited_are_not_run_and_leave_the_queue_to_others(
    connected, monkeypatch
):
    server, client = connected(workers=1, max_queue=3)
    runs = []
    run = SavedModelRunner.run
    monkeypatch.setattr(
        SavedModelRunner, "run", lambda self, *given: runs.append(given) or run(self, *given)
    )
    first = client.prediction.Predict.future(client.request(ENDLESS, signature="spin"), timeout=1)
    wait_until(lambda: sample(server, "pending") == 1)
    others = [
        client.prediction.Predict.future(client.request(ENDLESS, signature="spin"), timeout=600)
        for _ in range(3)
    ]
    wait_until(lambda: sample(server, "pending") == 4)
    for call in others:
        call.cancel()
    assert first.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: sample(server, "pending") == 0)
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
    monkeypatch.setattr("limaml_serving.server.runner._SELECTIONS_LIMIT", 1)
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


def test_a_run_stops_at_its_deadline_by_itself(base):
    runner = SavedModelRunner(base / "1")
    spin = runner.signature("spin")
    for timeout_ms in (150, 0):  # a deadline that has just passed is one, too
        with pytest.raises(ServerRequestError) as error:
            runner.run(spin, ENDLESS, ("sum",), timeout_ms=timeout_ms)
        assert error.value.code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert runner.run(spin, {"count": np.array([5])}, ("sum",), timeout_ms=20_000)[0] == 5
    runner.close()


def test_by_default_only_this_machine_is_listened_to(connected):
    server, _ = connected(metrics_port=0)
    assert server.target.startswith("127.0.0.1:")
    assert server.metrics_target.startswith("127.0.0.1:")
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.2", server.port)) != 0


def test_two_servers_cannot_share_a_port(connected, base):
    server, _ = connected()
    with pytest.raises(ConfigError, match="cannot listen"):
        EmbeddedServer({"m": base}, port=server.port).start()


def test_health_is_not_serving_until_every_model_has_a_version(
    serve, connect, base, tmp_path, add_version
):
    server = serve({"m": base, "later": tmp_path / "later"})
    client = connect(server.target, name="m")
    assert not client.is_serving()
    assert client.logits() == [111.0, 1.0]
    (tmp_path / "later").mkdir()
    add_version(2).rename(tmp_path / "later" / "2")
    server.manager.refresh()
    assert client.is_serving()
    assert client.is_serving("tensorflow.serving.PredictionService")


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
    wait_until(lambda: sample(server, "pending") == 2)
    stopping = threading.Thread(target=server.stop, args=(60.0,))
    stopping.start()
    for call in running:
        assert call.result().outputs["sum"].int64_val[0] == 50_000
    stopping.join()
    assert refusal(client.predict, rows)[0] == "UNAVAILABLE"
    assert server.manager.statuses("m") == {1: (50, "")}


def test_metrics_count_requests_by_code_without_taking_names_from_clients(connected, refusal, rows):
    server, client = connected(metrics_port=0)
    client.logits()
    client.logits()
    refusal(client.predict, {})
    for number in range(3):
        refusal(client.predict, rows, name=f"made-up-{number}")
    with urllib.request.urlopen(f"http://{server.metrics_target}/metrics") as answer:
        text = answer.read().decode()
    assert 'limaml_serve_requests_total{code="OK",method="Predict",model="m"} 2.0' in text
    assert (
        'limaml_serve_requests_total{code="INVALID_ARGUMENT",method="Predict",model="m"} 1.0'
        in text
    )
    assert (
        'limaml_serve_requests_total{code="NOT_FOUND",method="Predict",model="(other)"} 3.0' in text
    )
    assert 'limaml_serve_available{model="m",version="1"} 1.0' in text
    assert "made-up" not in text


def test_reflection_describes_every_service(connected):
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
        ProtoReflectionDescriptorDatabase,
    )

    _, client = connected()
    database = ProtoReflectionDescriptorDatabase(client.channel)
    services = set(database.get_services())
    assert {
        "tensorflow.serving.PredictionService",
        "tensorflow.serving.ModelService",
        "grpc.health.v1.Health",
    } <= services
    (service,) = database.FindFileContainingSymbol("tensorflow.serving.PredictionService").service
    assert {method.name for method in service.method} == {
        "Predict",
        "GetModelMetadata",
        "Classify",
        "Regress",
        "MultiInference",
    }


def test_a_large_answer_that_a_slow_client_still_reads_is_not_cut_off_by_a_stop(connected, kinds):
    server, client = connected(max_response_bytes=2**30, max_message_bytes=2**30, max_rows=2**30)
    strings = tf.make_tensor_proto([b"x" * 1000] * 30_000)
    zeros = {kind.name: tf.make_tensor_proto(tf.zeros([1], kind).numpy()) for kind in kinds}
    answers = client.channel.unary_stream("/tensorflow.serving.PredictionService/Predict")(
        client.request({**zeros, "string": strings}, signature="kinds").SerializeToString()
    )
    answered = {"model": "m", "method": "Predict", "code": "OK"}
    wait_until(lambda: sample(server, "requests_total", **answered) or not answers.is_active(), 60)
    if not answers.is_active():
        raise AssertionError(answers.code(), answers.details())
    stopping = threading.Thread(target=server.stop, args=(60.0,))
    stopping.start()
    (content,) = answers
    stopping.join()
    assert len(content) > 30_000_000


def test_a_run_that_outlasts_the_time_given_at_a_stop_is_cut_off(connected):
    before = set(threading.enumerate())
    server, client = connected(workers=1)
    call = client.prediction.Predict.future(client.request(ENDLESS, signature="spin"), timeout=500)
    wait_until(lambda: sample(server, "pending") == 1)
    server.stop(0.2)
    assert call.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
    assert server.manager.statuses("m") == {1: (50, "")}
    after = set(threading.enumerate()) - before
    assert not [thread for thread in after if thread.name.startswith("limaml-serve")]


RELOAD = (
    'model_config_list {{ config {{ name: "m" base_path: "{}" model_platform: "tensorflow" }} }}'
)


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"host": "0.0.0.0"}, "PERMISSION_DENIED"),
        ({"allow_reload": False}, "PERMISSION_DENIED"),
        ({"host": "0.0.0.0", "allow_reload": True}, None),
        ({}, None),
    ],
    ids=["everybody", "off", "everybody, on", "this machine"],
)
def test_the_configuration_is_changed_by_clients_only_where_that_is_allowed(
    serve, connect, base, refusal, settings, code
):
    server = serve({"m": base}, **settings)
    client = connect(f"127.0.0.1:{server.port}", name="m")
    text = RELOAD.format(base)
    if code is None:
        client.reload(text)
    else:
        assert refusal(client.reload, text)[0] == code
    assert client.logits() == [111.0, 1.0]


@pytest.mark.parametrize(
    "service", ["", "PredictionService", "ModelService", "limaml.VersionWatcher"]
)
def test_health_knows_the_short_names_too(connected, service):
    assert connected()[1].is_serving(service)


def test_an_unknown_health_service_is_not_found_and_a_watch_of_it_says_so(connected, refusal):
    from grpc_health.v1 import health_pb2

    _, client = connected()
    assert refusal(client.is_serving, "nobody")[0] == "NOT_FOUND"
    watch = client.health.Watch(health_pb2.HealthCheckRequest(service="nobody"), timeout=20)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def test_a_health_watch_is_told_of_changes(serve, connect, tmp_path, add_version):
    from grpc_health.v1 import health_pb2

    server = serve({"m": tmp_path / "model"})
    watch = connect(server.target).health.Watch(health_pb2.HealthCheckRequest(), timeout=60)
    told = [next(watch).status]
    add_version(1)
    server.manager.refresh()
    told.append(next(watch).status)
    serving, not_serving = (
        health_pb2.HealthCheckResponse.ServingStatus.Value(name)
        for name in ("SERVING", "NOT_SERVING")
    )
    assert told == [not_serving, serving]


@pytest.mark.parametrize("method", ["Classify", "Regress", "MultiInference"])
def test_methods_that_are_not_there_leave_no_trace_in_the_log(connected, refusal, caplog, method):
    _, client = connected()
    call = client.channel.unary_unary(f"/tensorflow.serving.PredictionService/{method}")
    assert refusal(call, b"", timeout=20)[0] == "UNIMPLEMENTED"
    assert not caplog.records


def test_an_unexpected_error_is_answered_as_internal_and_logged_once(
    connected, refusal, rows, caplog, monkeypatch
):
    _, client = connected()
    monkeypatch.setattr(SavedModelRunner, "signature", lambda self, name: 1 / 0)
    for _ in range(5):
        assert refusal(client.predict, rows) == ("INTERNAL", "ZeroDivisionError: division by zero")
    assert len(caplog.records) == 1


def test_strict_shapes_refuse_what_the_signature_does_not_allow(connected, refusal, rows):
    _, client = connected(strict_shapes=True)
    narrow = {**rows, "meta_embedding": np.zeros((2, 3), np.float32)}
    code, message = refusal(client.predict, narrow)
    assert code == "INVALID_ARGUMENT"
    assert "expected shape [-1, 4]" in message
