"""TLS and mutual TLS against a real gRPC server with freshly made certificates."""

from __future__ import annotations

import shutil
from concurrent import futures

import grpc
import pytest
from certificates import make_certificates

from limaml_serving import ServingError, Tls
from tfrec_limaml.errors import LimamlError

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="makes its certificates with openssl"
)


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    """A folder with an authority and the certificates it signed for a server and a client."""
    return make_certificates(
        tmp_path_factory.mktemp("pem"), "server", "client", host="DNS:ranker.example"
    )


@pytest.fixture
def secure_target(server, pem):
    """Address of the scripted server behind mutual TLS."""
    credentials = grpc.ssl_server_credentials(
        [((pem / "server.key").read_bytes(), (pem / "server.pem").read_bytes())],
        (pem / "ca.pem").read_bytes(),
        require_client_auth=True,
    )
    front = grpc.server(futures.ThreadPoolExecutor(2))
    front.add_generic_rpc_handlers((server.handlers(),))
    port = front.add_secure_port("127.0.0.1:0", credentials)
    front.start()
    yield f"127.0.0.1:{port}"
    front.stop(0).wait()


def test_mutual_tls_ranks(make_ranker, secure_target, pem, member, candidates):
    tls = Tls(
        root_certificates=pem / "ca.pem",
        private_key=pem / "client.key",
        certificate_chain=pem / "client.pem",
        server_name="ranker.example",
    )
    assert make_ranker(target=secure_target, tls=tls).rank(member, candidates).model_version == 1


@pytest.mark.parametrize("lack", ["client certificate", "server name", "TLS"])
def test_without_one_part_of_it_the_server_is_unavailable(
    make_ranker, secure_target, pem, member, candidates, lack
):
    tls = Tls(
        root_certificates=pem / "ca.pem",
        private_key=None if lack == "client certificate" else pem / "client.key",
        certificate_chain=None if lack == "client certificate" else pem / "client.pem",
        server_name="other.example" if lack == "server name" else "ranker.example",
    )
    ranker = make_ranker(target=secure_target, tls=None if lack == "TLS" else tls, retries=0)
    with pytest.raises(ServingError) as caught:
        ranker.rank(member, candidates)
    assert caught.value.code == "UNAVAILABLE"


def test_half_a_key_pair_and_an_unreadable_file_are_refused_by_name(tmp_path):
    with pytest.raises(LimamlError, match="private_key and certificate_chain together"):
        Tls(private_key=tmp_path / "client.key")
    with pytest.raises(LimamlError, match=r"cannot read the TLS file .*absent\.pem"):
        Tls(root_certificates=tmp_path / "absent.pem").credentials()
