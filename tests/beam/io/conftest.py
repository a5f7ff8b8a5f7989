"""A real S3 server, and rows to put there."""

from __future__ import annotations

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

START = 1_650_000_000_000
DAY = 86_400_000


@pytest.fixture(scope="module")
def s3():
    """Address of an S3 server with one bucket, and its client."""
    pytest.importorskip("boto3", reason="needs boto3: pip install 'tfrec-limaml[dev]'")
    server_module = pytest.importorskip("moto.server", reason="needs moto: the extra dev")
    import boto3

    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        region_name="us-east-1",
    )
    client.create_bucket(Bucket="bucket")
    yield f"http://{host}:{port}", client
    server.stop()


@pytest.fixture
def flags(s3):
    options = {
        "endpoint_url": s3[0],
        "access_key_id": "key",
        "secret_access_key": "secret",
        "region_name": "us-east-1",
    }
    return [f"--beam=--s3_{name}={value}" for name, value in options.items()]


@pytest.fixture
def upload(s3):
    def put(folder, name):
        for path in folder.rglob("*"):
            if path.is_file():
                key = f"{name}/{path.relative_to(folder)}"
                s3[1].upload_file(str(path), "bucket", key)
        return f"s3://bucket/{name}"

    return put


@pytest.fixture
def raw(tmp_path, schema):
    folder = tmp_path / "raw"
    folder.mkdir()
    schema.save(folder / "schema.yaml")
    users = [f"u{n % 20}" for n in range(200)]
    table = {
        "user_id": users,
        "x": np.arange(200, dtype=np.float32) % 7,
        "note": ["n"] * 200,
        "click": [n % 2 for n in range(200)],
        "time": [START + n * DAY // 20 for n in range(200)],
    }
    pq.write_table(pa.table(table), folder / "interactions.parquet")
    return folder
