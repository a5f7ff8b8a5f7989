"""Clients that hold calls open without finishing their requests hold nobody else up.

The half-sent requests are HTTP/2 frames written to a socket: headers that announce a message, and
a few bytes of it.
"""

from __future__ import annotations

import signal
import socket
import struct
import subprocess
import sys
import threading

import pytest
from ports import free_port, listens
from waiting import wait_for

PREDICT = "/tensorflow.serving.PredictionService/Predict"
HEALTH = "/grpc.health.v1.Health/Check"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"

DATA, HEADERS, SETTINGS, PING = 0, 1, 4, 6
END_HEADERS = 4


def frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))[1:]
        + bytes([kind, flags])
        + struct.pack(">I", stream)
        + content
    )


def literal(name: bytes, value: bytes) -> bytes:
    """A header field of HPACK, not indexed, not compressed."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def half_sent(target: str, path: str, calls: int) -> socket.socket:
    """One connection with `calls` streams, each with headers and a part of its message."""
    host, _, port = target.rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    fields = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": path.encode(),
        b":authority": target.encode(),
        b"content-type": b"application/grpc",
        b"te": b"trailers",
    }
    headers = b"".join(literal(name, value) for name, value in fields.items())
    out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b"")
    for number in range(calls):
        stream = 2 * number + 1
        out += frame(HEADERS, END_HEADERS, stream, headers)
        out += frame(DATA, 0, stream, b"\x00" + struct.pack(">I", 1000) + b"ten bytes.")
    connection.sendall(out + frame(PING, 0, 0, b"all read"))
    received = b""
    while b"all read" not in received:  # the server answers a ping after all that came before
        received += connection.recv(4096)
    return connection


@pytest.mark.parametrize(
    "path", [PREDICT, HEALTH, REFLECTION], ids=["predict", "health", "streams"]
)
def test_half_sent_calls_hold_up_neither_predictions_nor_health_nor_status(connected, path):
    server, client = connected(workers=2)
    held = half_sent(server.target, path, 50)
    try:
        for _ in range(5):
            assert client.logits() == [111.0, 1.0]
            assert client.is_serving()
            assert client.status() == {1: (30, "")}
    finally:
        held.close()


def test_open_reflection_and_health_streams_hold_nobody_up(connected):
    from grpc_health.v1 import health_pb2
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    _, client = connected(workers=1)
    stub = reflection_pb2_grpc.ServerReflectionStub(client.channel)
    release = threading.Event()

    def endless():
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        release.wait(600)

    streams = [stub.ServerReflectionInfo(endless(), timeout=60) for _ in range(8)]
    watches = [client.health.Watch(health_pb2.HealthCheckRequest(), timeout=60) for _ in range(8)]
    for stream in (*streams, *watches):
        next(stream)
    assert client.logits() == [111.0, 1.0]
    assert client.is_serving()
    assert client.status() == {1: (30, "")}
    release.set()
    for stream in (*streams, *watches):
        stream.cancel()


def test_a_request_that_is_not_completed_in_time_is_ended(connected, monkeypatch):
    monkeypatch.setattr("limaml_serving.server.front.READ_SECONDS", 0.2)
    server, _ = connected()
    held = half_sent(server.target, PREDICT, 1)
    held.settimeout(30)
    received = b""
    while b"grpc-status" not in received and b"not complete" not in received:
        more = held.recv(4096)
        assert more, "the connection was closed without a status"
        received += more
    held.close()


def test_a_stop_does_not_wait_for_calls_that_are_only_held(base, connect):
    port = free_port()
    main = "import sys; from tfrec_limaml.cli import main; sys.exit(main())"
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", main, "serve", str(base), "--name", "m"),
            *("--port", str(port), "--grace-seconds", "500"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    held = []
    try:
        wait_for(lambda: listens(port), seconds=120)
        assert connect(f"127.0.0.1:{port}", name="m").logits() == [111.0, 1.0]
        held = [half_sent(f"127.0.0.1:{port}", path, 8) for path in (PREDICT, HEALTH, REFLECTION)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 0  # far below the 500 seconds of grace
    finally:
        process.kill()
        for connection in held:
            connection.close()
