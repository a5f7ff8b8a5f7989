"""TLS and mutual TLS of the embedded server, with certificates made by openssl."""

from __future__ import annotations

import grpc
import pytest
from certificates import make_certificates

from limaml_serving.server import ConfigError, EmbeddedServer, ServerTls


@pytest.fixture(scope="session")
def pki(tmp_path_factory):
    """An authority, a server certificate for localhost and a client certificate, made with
    openssl.
    """
    return make_certificates(
        tmp_path_factory.mktemp("pki"), "server", "client", host="DNS:localhost"
    )


def test_tls_encrypts_and_a_plain_client_is_turned_away(serve, connect, base, pki, refusal, rows):
    server = serve(
        {"m": base},
        tls=ServerTls(private_key=pki / "server.key", certificate_chain=pki / "server.pem"),
    )
    trusted = grpc.ssl_channel_credentials((pki / "ca.pem").read_bytes())
    client = connect(f"localhost:{server.port}", name="m", credentials=trusted)
    assert client.logits() == [111.0, 1.0]
    plain = connect(server.target, name="m")
    assert refusal(plain.predict, rows)[0] == "UNAVAILABLE"


def test_mutual_tls_demands_a_client_certificate(serve, connect, base, pki, refusal, rows):
    server = serve(
        {"m": base},
        tls=ServerTls(
            private_key=pki / "server.key",
            certificate_chain=pki / "server.pem",
            client_ca=pki / "ca.pem",
        ),
    )
    authority = (pki / "ca.pem").read_bytes()
    known = grpc.ssl_channel_credentials(
        authority, (pki / "client.key").read_bytes(), (pki / "client.pem").read_bytes()
    )
    assert connect(f"localhost:{server.port}", name="m", credentials=known).logits() == [111.0, 1.0]
    unknown = connect(
        f"localhost:{server.port}", name="m", credentials=grpc.ssl_channel_credentials(authority)
    )
    assert refusal(unknown.predict, rows)[0] == "UNAVAILABLE"


def test_a_missing_tls_file_is_a_readable_error(base, tmp_path):
    with pytest.raises(ConfigError, match="cannot read a TLS file"):
        EmbeddedServer(
            {"m": base},
            tls=ServerTls(private_key=tmp_path / "none", certificate_chain=tmp_path / "none"),
        ).start()


def test_clients_with_a_certificate_may_reload_where_others_could_not(
    serve, connect, base, pki, refusal
):
    files = {"private_key": pki / "server.key", "certificate_chain": pki / "server.pem"}
    authority = (pki / "ca.pem").read_bytes()
    client_pair = (pki / "client.key").read_bytes(), (pki / "client.pem").read_bytes()
    text = f"""model_config_list {{ config {{ name: "m" base_path: "{base}"
        model_platform: "tensorflow" }} }}"""
    for client_ca, code in ((None, "PERMISSION_DENIED"), (pki / "ca.pem", None)):
        server = serve({"m": base}, host="0.0.0.0", tls=ServerTls(**files, client_ca=client_ca))
        credentials = grpc.ssl_channel_credentials(authority, *client_pair)
        client = connect(f"localhost:{server.port}", name="m", credentials=credentials)
        if code is None:
            client.reload(text)
        else:
            assert refusal(client.reload, text)[0] == code
