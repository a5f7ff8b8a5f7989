"""What the embedded server offers beside scores: health, metrics, reflection, changes of its
configuration, and answers to calls that it cannot serve.
"""

from __future__ import annotations

import socket
import urllib.request

import pytest

from limaml_serving.server import ConfigError, EmbeddedServer
from limaml_serving.server.runner import SavedModelRunner


def test_by_default_only_this_machine_is_listened_to(connected):
    server, _ = connected(metrics_port=0)
    assert server.target.startswith("127.0.0.1:")
    assert server.metrics_target.startswith("127.0.0.1:")
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.2", server.port)) != 0


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_addresses_of_version_6_stand_in_brackets(connected):
    server, client = connected(host="::1", metrics_port=0, metrics_host="::1")
    assert server.target == f"[::1]:{server.port}"
    assert server.metrics_target.startswith("[::1]:")
    assert client.logits()
    with urllib.request.urlopen(f"http://{server.metrics_target}/metrics") as answer:
        assert answer.status == 200


def test_two_servers_cannot_share_a_port(connected, base):
    server, _ = connected()
    with pytest.raises(ConfigError, match="cannot listen"):
        EmbeddedServer({"m": base}, port=server.port).start()


def test_a_start_that_fails_frees_its_port(connected, connect, base):
    other, _ = connected(metrics_port=0)
    taken = int(other.metrics_target.rpartition(":")[2])
    failed = EmbeddedServer({"m": base}, metrics_port=taken)
    with pytest.raises(ConfigError, match=f"cannot serve metrics on 127.0.0.1:{taken}"):
        failed.start()
    assert failed.port
    with EmbeddedServer({"m": base}, port=failed.port) as server:
        assert connect(server.target, name="m").logits() == [111.0, 1.0]


def test_a_server_starts_once(base, connected):
    server, client = connected()
    with pytest.raises(ConfigError, match=r"started or stopped before.*create another"):
        server.start()
    assert client.logits() == [111.0, 1.0]
    server.stop()
    never_started = EmbeddedServer({"m": base})
    never_started.stop()
    for each in (server, never_started):
        with pytest.raises(ConfigError, match=r"started or stopped before.*create another"):
            each.start()


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


def test_two_servers_of_a_process_have_metrics_of_their_own(serve, connect, base):
    servers = [serve({"m": base}, metrics_port=0) for _ in range(2)]
    for calls, server in enumerate(servers, start=1):
        client = connect(server.target, name="m")
        [client.logits() for _ in range(calls)]
    for calls, server in enumerate(servers, start=1):
        with urllib.request.urlopen(f"http://{server.metrics_target}/metrics") as answer:
            text = answer.read().decode()
        assert (
            f'limaml_serve_requests_total{{code="OK",method="Predict",model="m"}} {calls}.0' in text
        )


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
    statuses = [next(watch).status]
    add_version(1)
    server.manager.refresh()
    statuses.append(next(watch).status)
    serving, not_serving = (
        health_pb2.HealthCheckResponse.ServingStatus.Value(name)
        for name in ("SERVING", "NOT_SERVING")
    )
    assert statuses == [not_serving, serving]


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
