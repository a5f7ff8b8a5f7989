"""Stores under test: LMDB in a temporary folder, and prefixes of a Redis server and a cluster."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from waiting import wait_for

from tfrec_limaml.store import EmbeddingStore, open_store


@pytest.fixture(params=["lmdb", "redis", "redis+cluster"])
def store_address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "lmdb":
        return f"lmdb:{tmp_path}/store"
    if request.param == "redis+cluster":
        nodes = request.getfixturevalue("redis_cluster")
        return f"redis+cluster://{nodes}?prefix={tmp_path.name}&lease=60"
    server = request.getfixturevalue("redis_server")
    return f"{server.address}?prefix={tmp_path.name}&lease=60"


@pytest.fixture
def open_another(store_address: str) -> Iterator[Callable[..., EmbeddingStore]]:
    """Opens one more client of the store under test, with further options."""
    opened = []

    def another(**options: str) -> EmbeddingStore:
        joiner = "&" if "?" in store_address else "?"
        store = open_store(
            store_address
            + "".join(
                f"{joiner if i == 0 else '&'}{k}={v}" for i, (k, v) in enumerate(options.items())
            )
        )
        opened.append(store)
        return store

    yield another
    for store in opened:
        store.close()


@pytest.fixture
def store(open_another: Callable[..., EmbeddingStore]) -> EmbeddingStore:
    return open_another()


@pytest.fixture
def start_redis(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """``start_redis(ready, "--port", "0", ...)``: another server, killed after the test."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed (apt-get install redis-server)")
    running: list[subprocess.Popen[bytes]] = []

    def start(ready: Callable[[], bool], *options: str) -> subprocess.Popen[bytes]:
        command = ["redis-server", *options, "--save", "", "--dir", str(tmp_path)]
        running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        wait_for(ready)
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.wait()
