"""TLS and mutual TLS of the embedded server, with certificates made by openssl."""

from __future__ import annotations

import datetime as dt
import logging

import grpc
import pytest
from certificates import make_certificates, make_dated_certificate

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


@pytest.fixture(scope="session")
def dated(tmp_path_factory):
    """A certificate for the years 2030 to 2060: its dates have two formats."""
    folder = tmp_path_factory.mktemp("dated")
    return make_dated_certificate(folder, "dated", "20300102030405Z", "20600102030405Z")


@pytest.mark.parametrize(
    ("now", "problem"),
    [
        ("2030-01-02T03:04:04", "is not valid before 2030-01-02 03:04 UTC: replace it"),
        ("2030-01-02T03:04:05", None),
        ("2059-12-19T03:04:05", None),
        ("2059-12-19T03:04:06", "expires on 2060-01-02 03:04 UTC: renew it"),
        ("2060-01-02T03:04:05", "expires on 2060-01-02 03:04 UTC: renew it"),
        ("2060-01-02T03:04:06", "expired on 2060-01-02 03:04 UTC: renew it"),
    ],
)
def test_the_dates_of_certificates_are_checked_to_the_second(dated, now, problem):
    files = ServerTls(private_key=dated.with_suffix(".key"), certificate_chain=dated)
    warnings = files.warnings(dt.datetime.fromisoformat(f"{now}+00:00"))
    assert len(warnings) == (0 if problem is None else 1)
    assert all(line.startswith(f"the certificate in {dated} {problem}") for line in warnings)


def test_every_certificate_of_the_chain_and_of_the_clients_authority_is_checked(
    pki, dated, tmp_path
):
    key, chain, later = pki / "server.key", tmp_path / "chain.pem", "2061-01-01T00:00:00+00:00"
    chain.write_text((pki / "server.pem").read_text() + "\n" + dated.read_text())
    files = ServerTls(private_key=key, certificate_chain=chain, client_ca=pki / "ca.pem")
    warnings = files.warnings(dt.datetime.fromisoformat(later))
    assert [line.split(" expired")[0] for line in warnings] == [
        *[f"the certificate in {chain}"] * 2,
        f"the certificate in {pki / 'ca.pem'}",
    ]


def test_a_server_with_an_expired_certificate_starts_with_a_warning(serve, base, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    old = make_dated_certificate(tmp_path, "old", "20000102030405Z", "20010102030405Z")
    serve({"m": base}, tls=ServerTls(private_key=tmp_path / "old.key", certificate_chain=old))
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    expired = f"the certificate in {old} expired on 2001-01-02 03:04 UTC"
    assert warning.getMessage().startswith(expired)


def test_a_certificate_whose_dates_cannot_be_read_is_not_warned_about(tmp_path):
    damaged = tmp_path / "damaged.pem"
    damaged.write_text("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
    files = ServerTls(private_key=damaged, certificate_chain=damaged)
    assert files.warnings(dt.datetime(2040, 1, 1, tzinfo=dt.UTC)) == []
