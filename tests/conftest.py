"""What every test folder shares: quiet TensorFlow, steady hypothesis, the real log, and the command
line in process.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import graphs
import hypothesis
import pytest
from forks import Forks
from ports import free_port, free_ports, listens
from waiting import wait_for

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
gc.disable()  # while the tests' imports are made
hypothesis.settings.register_profile("limaml", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("limaml")

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
        os.environ.setdefault(name, "1")

ROOT = Path(__file__).parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: at the end of a parallel run no worker waits for one."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """What the imports made stays: the collector need not look through it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)  # graphs are many objects, and nearly all of them live on
    gc.enable()
    if "tensorflow" in sys.modules:
        graphs.optimise(False)  # unless a test asks for it: see `optimised_graphs`


@pytest.fixture(scope="module", autouse=True)
def _kept_kernels() -> Iterator[None]:
    with graphs.kept_kernels() if "tensorflow" in sys.modules else contextlib.nullcontext():
        yield


@pytest.fixture(scope="session")
def checkout() -> Path:
    """Root folder of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def real_data_directory() -> Path:
    """Folder that holds ``KuaiRand-Pure/``; skips the test where there is none."""
    directory = Path(os.environ.get("LIMAML_DATA_DIR") or ROOT.parent / "shared" / "data")
    if not (directory / "KuaiRand-Pure").is_dir():
        pytest.skip(
            f"no KuaiRand-Pure/ in {directory}: unpack the official archive (see `limaml datasets "
            "--help`) "
            "and set LIMAML_DATA_DIR to the folder that holds it"
        )
    return directory


@pytest.fixture
def run_limaml(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """``run_limaml("train", tasks, "--output", run)``: runs ``limaml ... --json`` in this process
    and returns its result.
    """
    from tfrec_limaml.cli import main

    def run(*arguments: object) -> Any:
        capsys.readouterr()
        code = main([*map(str, arguments), "--json"])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return json.loads(captured.out) if captured.out.strip() else None

    return run


@pytest.fixture
def no_graphs() -> Iterator[None]:
    """The test runs without graphs; see `graphs.without_graphs`."""
    with graphs.without_graphs():
        yield


@pytest.fixture(scope="module")
def optimised_graphs() -> Iterator[None]:
    """The module's tests run graphs as users do; the numbers of others do not depend on it."""
    graphs.optimise(True)
    yield
    graphs.optimise(False)


@pytest.fixture(scope="session")
def forks() -> Iterator[Callable[..., Forks]]:
    """``forks(PYTHONHASHSEED="1")``: interpreter with this hash seed, whose forks run scripts."""
    made: dict[str, Forks] = {}

    def find(PYTHONHASHSEED: str = "0") -> Forks:
        if PYTHONHASHSEED not in made:
            made[PYTHONHASHSEED] = Forks(PYTHONHASHSEED=PYTHONHASHSEED)
        return made[PYTHONHASHSEED]

    yield find
    for each in made.values():
        each.close()


class RedisServer:
    """A redis-server process of our own, which tests may stop and start."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            "redis-server",
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ]
        self.process = subprocess.Popen(
            [*command, "--dir", str(self.folder)], stdout=subprocess.DEVNULL
        )
        wait_for(lambda: listens(self.port))

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


@pytest.fixture(scope="session")
def redis_cluster(redis_cluster_nodes: dict[str, int]) -> str:
    """``HOST:PORT,HOST:PORT,HOST:PORT`` of a cluster of three masters."""
    return ",".join(redis_cluster_nodes)


@pytest.fixture(scope="session")
def redis_cluster_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """``HOST:PORT`` of each master of that cluster, and the number of its process."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed (apt-get install redis-server)")
    import redis

    ports = free_ports(6)
    folder = tmp_path_factory.mktemp("cluster")
    nodes = [
        subprocess.Popen(
            [
                *("redis-server", "--port", str(port), "--cluster-port", str(bus), "--save", ""),
                *("--cluster-enabled", "yes", "--cluster-config-file", f"{port}.conf"),
                *("--dir", str(folder), "--maxmemory", "64mb", "--bind", "127.0.0.1"),
            ],
            stdout=subprocess.DEVNULL,
        )
        for port, bus in zip(ports[:3], ports[3:], strict=True)
    ]
    clients = [redis.Redis("127.0.0.1", port, socket_timeout=5) for port in ports[:3]]
    try:
        wait_for(lambda: all(_answers(client) for client in clients))
        for n, client in enumerate(clients):
            client.execute_command(
                "CLUSTER", "ADDSLOTSRANGE", n * 16384 // 3, (n + 1) * 16384 // 3 - 1
            )
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", ports[0], ports[3])
        wait_for(lambda: all(client.cluster("info")["cluster_state"] == "ok" for client in clients))
        wait_for(lambda: all(len(client.cluster("nodes")) == 3 for client in clients))
        yield {f"127.0.0.1:{port}": node.pid for port, node in zip(ports[:3], nodes, strict=True)}
    finally:
        for node in nodes:
            node.kill()
            node.wait()


def _answers(client: Any) -> bool:
    import redis

    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
