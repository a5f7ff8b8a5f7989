"""Stores under test: LMDB in a temporary folder, and a private Redis server on a free loopback port."""

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tfrec_limaml.store import EmbeddingStore, open_store


class RedisServer:
    """A redis-server process of our own, which tests may stop and start."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen([*command, "--dir", str(self.folder)], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise RuntimeError("redis-server did not start within 10 s")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    @property
    def address(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed (apt-get install redis-server)")
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["lmdb", "redis"])
def store_address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "lmdb":
        return f"lmdb:{tmp_path}/store"
    server = request.getfixturevalue("redis_server")
    return f"{server.address}?prefix={tmp_path.name}&lease=1"


@pytest.fixture
def open_another(store_address: str) -> Iterator[Callable[..., EmbeddingStore]]:
    """Opens one more client of the store under test, with further options."""
    opened = []

    def opener(**options: str) -> EmbeddingStore:
        joiner = "&" if "?" in store_address else "?"
        store = open_store(store_address + "".join(f"{joiner if i == 0 else '&'}{k}={v}" for i, (k, v) in enumerate(options.items())))
        opened.append(store)
        return store

    yield opener
    for store in opened:
        store.close()


@pytest.fixture
def store(open_another: Callable[..., EmbeddingStore]) -> EmbeddingStore:
    return open_another()
