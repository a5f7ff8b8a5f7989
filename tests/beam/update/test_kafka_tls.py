"""``limaml stream --from-kafka`` without TLS at a port that expects TLS."""

import contextlib
import socket
import ssl
import threading

import pytest
from certificates import make_certificates
from ports import free_port

from limaml_beam.update.kafka_settings import KafkaStream
from limaml_beam.update.kafka_topic import Topic
from tfrec_limaml.errors import LimamlError

pytest.importorskip("confluent_kafka", reason="needs pip install '.[stream]'")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr("limaml_beam.update.kafka_topic._ANSWER_SECONDS", 1.0)


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("pki"), "server", host="IP:127.0.0.1")


@pytest.fixture
def listen():
    """``listen(answer)``: the address of a listener that passes each connection to a function."""
    with contextlib.ExitStack() as stack:

        def start(answer):
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

            def accept():
                with contextlib.suppress(OSError):  # the listener is closed
                    while True:
                        connection = listener.accept()[0]
                        with connection, contextlib.suppress(OSError):
                            connection.settimeout(10)
                            answer(connection)

            threading.Thread(target=accept, daemon=True).start()
            stack.callback(listener.shutdown, socket.SHUT_RDWR)
            return f"127.0.0.1:{listener.getsockname()[1]}"

        yield start


def over_tls(pki, version, client_ca=None):
    """Answers with TLS of one version; closes what is not TLS, after an alert."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = version
    context.load_cert_chain(pki / "server.pem", pki / "server.key")
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    return lambda connection: context.wrap_socket(connection, server_side=True).close()


def refusal(servers, **client):
    with pytest.raises(LimamlError) as caught:
        Topic(KafkaStream(servers=servers, topic="t", update=None, client=client), lambda _: None)
    return str(caught.value)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("client_ca", [None, "ca.pem"])
def test_a_port_that_expects_tls_is_named_with_the_setting_that_turns_it_on(
    pki, listen, version, client_ca
):
    address = listen(over_tls(pki, version, client_ca and pki / client_ca))
    message = refusal(f"127.0.0.1:{free_port()},{address}")
    assert message.startswith(f"the Kafka broker {address} expects TLS: add security.protocol=ssl")
    assert "--kafka-config" in message


@pytest.mark.parametrize("answer", [lambda connection: None, lambda c: c.send(b"HTTP/1.1 400\r\n")])
def test_a_port_that_does_not_expect_tls_is_not_blamed_on_it(listen, answer):
    address = listen(answer)
    assert refusal(address).startswith(f"no Kafka broker answers at {address}")


def test_a_client_that_uses_tls_is_not_told_to_use_it(pki, listen):
    address = listen(over_tls(pki, ssl.TLSVersion.TLSv1_3))
    account = {"sasl.mechanism": "PLAIN", "sasl.username": "u", "sasl.password": "p"}
    for protocol in ("ssl", "SASL_SSL"):
        message = refusal(address, **{"security.protocol": protocol, **account})
        assert message.startswith(f"no Kafka broker answers at {address}")
