"""The conformance models, an embedded server that serves them, and minimal clients.

The conformance and fuzz tests take ``--serving-target=HOST:PORT`` and then check that server
instead. Start it on the models that ``python tests/support/conformance_models.py DIRECTORY``
writes, for example:

    tensorflow_model_server --port=8500 --model_config_file=DIRECTORY/models.config
    --allow_version_labels_for_unavailable_models --grpc_max_threads=64
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conformance_models import MODEL, ROWS, all_kinds, write_conformance_models
from plain_client import Client


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--serving-target",
        metavar="HOST:PORT",
        help="check this server instead of the embedded one",
    )


@pytest.fixture(scope="session")
def rows() -> dict[str, Any]:
    return ROWS


@pytest.fixture(scope="session")
def kinds() -> list[Any]:
    """The dtypes of signature ``kinds``, with one input and one output named after each."""
    return all_kinds()


@pytest.fixture(scope="session")
def conformance_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_conformance_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def target(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server with the conformance models: the embedded one, or that of ``--serving-target``."""
    given = request.config.getoption("--serving-target", None)
    if given:
        yield given
        return
    from limaml_serving.server import EmbeddedServer, read_models_config

    config = request.getfixturevalue("conformance_config")
    with EmbeddedServer(list(read_models_config(config).values())) as server:
        yield server.target


@pytest.fixture(scope="session")
def is_other(request: pytest.FixtureRequest) -> bool:
    """Whether another server than the embedded one is checked."""
    return bool(request.config.getoption("--serving-target", None))


@pytest.fixture(scope="session")
def client(target: str) -> Iterator[Client]:
    each = Client(target)
    yield each
    each.channel.close()


@pytest.fixture
def connect() -> Iterator[Callable[..., Client]]:
    """``connect(target)``: a client of another server, closed after the test."""
    made: list[Client] = []

    def make(*arguments: Any, **choices: Any) -> Client:
        made.append(Client(*arguments, **choices))
        return made[-1]

    yield make
    for each in made:
        each.channel.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Any]]:
    """``serve(models, **settings)``: an embedded server for one test.

    It checks the disk only when told to (`manager.refresh`).
    """
    from limaml_serving.server import EmbeddedServer

    running: list[Any] = []

    def start(models: Any, **settings: Any) -> Any:
        running.append(EmbeddedServer(models, **{"poll_seconds": 3600.0, **settings}).start())
        return running[-1]

    yield start
    for server in running:
        server.stop(0)


@pytest.fixture
def add_version(conformance_config: Path, tmp_path: Path) -> Callable[..., Path]:
    """``add_version(3, like=1)``: copies a conformance version into ``tmp_path / "model"`` under
    another number.
    """

    def add(number: int, like: int = 1) -> Path:
        staged = tmp_path / f".staged-{number}"
        shutil.copytree(conformance_config.parent / MODEL / str(like), staged)
        (tmp_path / "model").mkdir(exist_ok=True)
        return staged.rename(tmp_path / "model" / str(number))

    return add


@pytest.fixture
def base(add_version: Callable[..., Path], tmp_path: Path) -> Path:
    """A base directory with version 1."""
    add_version(1)
    return tmp_path / "model"


@pytest.fixture
def connected(
    serve: Callable[..., Any], connect: Callable[..., Client], base: Path
) -> Callable[..., tuple[Any, Client]]:
    """``connected(**settings)``: ``base`` served as model ``m``; the server and a client."""

    def start(**settings: Any) -> tuple[Any, Client]:
        server = serve({"m": base}, **settings)
        return server, connect(server.target, name="m")

    return start


@pytest.fixture
def serve_base(
    serve: Callable[..., Any], connect: Callable[..., Client], tmp_path: Path
) -> Callable[..., tuple[Any, Client]]:
    """``serve_base(policy, labels)``: a server and a client of the folder of `add_version`.

    The model's name is ``m``; the folder may be empty.
    """
    from limaml_serving.server import ModelSettings, VersionPolicy

    def start(policy: Any = None, labels: Any = None, **settings: Any) -> tuple[Any, Client]:
        model = ModelSettings(
            name="m",
            base_path=tmp_path / "model",
            policy=policy or VersionPolicy(),
            labels=labels or {},
        )
        server = serve([model], **settings)
        return server, connect(server.target, name="m")

    return start


@pytest.fixture(scope="session")
def manifests() -> list[dict[str, Any]]:
    """All Kubernetes manifests."""
    import yaml

    folder = Path(__file__).resolve().parents[2] / "serving"
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    return [
        document
        for name in kustomization["resources"]
        for document in yaml.safe_load_all((folder / name).read_text())
    ]


@pytest.fixture(scope="session")
def refusal() -> Callable[..., tuple[str, str]]:
    """``refusal(call, ...)``: the name of the status code and the message of a failed call."""
    import grpc

    def of(call: Callable[..., Any], *arguments: Any, **choices: Any) -> tuple[str, str]:
        with pytest.raises(grpc.RpcError) as caught:
            call(*arguments, **choices)
        return caught.value.code().name, caught.value.details()

    return of
