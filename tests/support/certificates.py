"""Certificates for tests of TLS, made with openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path

_NEW = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")


def make_certificates(folder: Path, *names: str, host: str) -> Path:
    """An authority, and a certificate for each name that it signed.

    Args:
        folder: Folder for ``ca.key`` and ``ca.pem``, and ``.key`` and ``.pem`` of each name.
        names: Names of the files and subjects.
        host: What the certificates are for, such as ``DNS:localhost``.

    Returns:
        The folder.
    """

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    openssl(*_NEW, "-x509", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem")
    (folder / "host").write_text(f"subjectAltName={host}\n")
    authority = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2")
    for name in names:
        request, signed = f"{name}.csr", f"{name}.pem"
        openssl(*_NEW, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", request)
        openssl("x509", "-req", "-in", request, *authority, "-extfile", "host", "-out", signed)
    return folder


_AUTHORITY = """\
[ca]
default_ca = any
[any]
database = index
new_certs_dir = .
default_md = sha256
rand_serial = yes
policy = names
[names]
commonName = supplied
"""


def make_dated_certificate(folder: Path, name: str, first: str, last: str) -> Path:
    """A self-signed certificate that is valid between two times, ``YYYYMMDDHHMMSSZ``.

    Returns the path of the certificate, ``name.pem``; the key is in ``name.key``.
    """

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    (folder / "index").touch()
    (folder / "authority").write_text(_AUTHORITY)
    key, request, made = f"{name}.key", f"{name}.csr", f"{name}.pem"
    openssl(*_NEW, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
    dates = ("-startdate", first, "-enddate", last, "-notext", "-batch")
    signer = ("ca", "-config", "authority", "-selfsign", "-keyfile", key)
    openssl(*signer, *dates, "-in", request, "-out", made)
    return folder / made
