"""A small model in TensorFlow Serving's layout, the embedded server over it, and a client that
speaks the plain protocol.

The conformance and fuzz tests take ``--serving-target=HOST:PORT`` and then check that server
instead. Start it on the models that ``python tests/serving/conftest.py DIRECTORY`` writes, for
example:

    tensorflow_model_server --port=8500 --model_config_file=DIRECTORY/models.config
    --allow_version_labels_for_unavailable_models --grpc_max_threads=64
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

MODEL = "conformance"
MODELS_CONFIG = """\
model_config_list {{
  config {{
    name: "conformance"
    base_path: "{base}"
    model_platform: "tensorflow"
    model_version_policy {{ all {{}} }}
    version_labels {{ key: "stable" value: 1 }}
    version_labels {{ key: "canary" value: 2 }}
  }}
}}
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--serving-target",
        metavar="HOST:PORT",
        help="check this server instead of the embedded one",
    )


def save_model(directory: Path, bias: float) -> Path:
    """``logit = sum(meta_embedding) + bias`` where there is an embedding, else ``bias``, and some
    other signatures.
    """
    import tensorflow as tf

    rows = tf.TensorSpec([None], tf.float32)

    class Model(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = tf.Variable(bias)
            self.country = tf.lookup.StaticHashTable(
                tf.lookup.KeyValueTensorInitializer(["CH", "NZ"], [100.0, 200.0]), 0.0
            )

        @tf.function(
            input_signature=[
                tf.TensorSpec([None], tf.string, "country"),
                tf.TensorSpec([None, 4], tf.float32, "meta_embedding"),
                tf.TensorSpec([None], tf.bool, "has_meta_embedding"),
            ],
            autograph=False,
        )
        def score(self, country, meta_embedding, has_meta_embedding):
            personal = tf.where(has_meta_embedding, tf.reduce_sum(meta_embedding, axis=1), 0.0)
            logit = personal + self.bias + self.country.lookup(country)
            return {"logit": logit, "probability": tf.sigmoid(logit), "country": country}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, "count")], autograph=False)
        def spin(self, count):
            """Counts up one by one: as slow as one likes."""
            return {
                "sum": tf.while_loop(
                    lambda i: i < count[0], lambda i: [i + 1], [tf.constant(0, tf.int64)]
                )[0]
            }

        @tf.function(
            input_signature=[tf.TensorSpec([None], dtype, dtype.name) for dtype in all_kinds()],
            autograph=False,
        )
        def kinds(self, *tensors):
            """Every dtype there and back."""
            return {tensor.dtype.name: tf.identity(tensor) for tensor in tensors}

        @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, "anything")], autograph=False)
        def total(self, anything):
            return {"total": tf.reduce_sum(anything) + self.bias}

        @tf.function(input_signature=[rows, rows], autograph=False)
        def add(self, a, b):
            return {"sum": a + b}

    model = Model()
    signatures = {
        "serving_default": model.score,
        "spin": model.spin,
        "kinds": model.kinds,
        "total": model.total,
        "add": model.add,
    }
    tf.saved_model.save(
        model,
        str(directory),
        signatures={name: each.get_concrete_function() for name, each in signatures.items()},
    )
    return directory


def all_kinds() -> list[Any]:
    import tensorflow as tf

    return [
        *(tf.float32, tf.float64, tf.half, tf.bfloat16, tf.bool, tf.string, tf.complex64),
        *(tf.int8, tf.int16, tf.int32, tf.int64, tf.uint8, tf.uint16, tf.uint32, tf.uint64),
    ]


def write_conformance_models(directory: Path) -> Path:
    """Versions 1 and 2 (bias 1 and 2) and their ``models.config``; returns the config's path."""
    for version in (1, 2):
        save_model(directory / MODEL / str(version), float(version))
    config = directory / "models.config"
    config.write_text(MODELS_CONFIG.format(base=directory.absolute() / MODEL), encoding="utf-8")
    return config


class Client:
    """The plain protocol, with as little around it as possible."""

    def __init__(self, target: str, name: str = MODEL, credentials: Any = None) -> None:
        import grpc
        from grpc_health.v1 import health_pb2_grpc
        from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

        options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        if credentials is None:
            self.channel = grpc.insecure_channel(target, options)
        else:
            self.channel = grpc.secure_channel(target, credentials, options)
        self.name = name
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    def request(
        self,
        inputs: dict[str, Any],
        *,
        name: str | None = None,
        version: int | None = None,
        label: str | None = None,
        signature: str = "",
        outputs: tuple[str, ...] = (),
    ) -> Any:
        """A PredictRequest; values are TensorProtos, arrays or lists."""
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest(output_filter=outputs)
        self.fill_spec(request.model_spec, name, version, label)
        request.model_spec.signature_name = signature
        for key, value in inputs.items():
            request.inputs[key].CopyFrom(
                value if hasattr(value, "tensor_shape") else tf.make_tensor_proto(value)
            )
        return request

    def predict(self, inputs: dict[str, Any], timeout: float = 20.0, **choices: Any) -> Any:
        return self.prediction.Predict(self.request(inputs, **choices), timeout=timeout)

    def logits(self, **choices: Any) -> list[float]:
        """Scores of the two `ROWS`: shows which version answered."""
        import tensorflow as tf

        return tf.make_ndarray(self.predict(ROWS, **choices).outputs["logit"]).tolist()

    def status(self, **choices: Any) -> dict[int, tuple[int, str]]:
        from tensorflow_serving.apis import get_model_status_pb2

        request = get_model_status_pb2.GetModelStatusRequest()
        self.fill_spec(request.model_spec, **choices)
        answer = self.models.GetModelStatus(request, timeout=20)
        return {
            one.version: (one.state, one.status.error_message)
            for one in answer.model_version_status
        }

    def reload(self, text: str) -> Any:
        from google.protobuf import text_format
        from tensorflow_serving.apis import model_management_pb2

        request = model_management_pb2.ReloadConfigRequest()
        text_format.Parse(text, request.config)
        return self.models.HandleReloadConfigRequest(request, timeout=60)

    def is_serving(self, service: str = "") -> bool:
        from grpc_health.v1 import health_pb2

        answer = self.health.Check(health_pb2.HealthCheckRequest(service=service), timeout=20)
        return answer.status == health_pb2.HealthCheckResponse.SERVING

    def fill_spec(
        self,
        spec: Any,
        name: str | None = None,
        version: int | None = None,
        label: str | None = None,
    ) -> None:
        spec.name = self.name if name is None else name
        if version is not None:
            spec.version.value = version
        if label is not None:
            spec.version_label = label


#: One member with an embedding, one without; their logits are 10 + 100 + bias and bias.
ROWS = {
    "country": [b"CH", b"XX"],
    "meta_embedding": [[1.0, 2.0, 3.0, 4.0], [5.0, 5.0, 5.0, 5.0]],
    "has_meta_embedding": [True, False],
}


@pytest.fixture(scope="session")
def rows() -> dict[str, Any]:
    return ROWS


@pytest.fixture(scope="session")
def kinds() -> list[Any]:
    """The dtypes of signature ``kinds``: one input and one output each, named like them."""
    return all_kinds()


@pytest.fixture(scope="session")
def conformance_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_conformance_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def target(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server with the conformance models: the embedded one, or the one named on the command
    line.
    """
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
    """``serve(models, **settings)``: an embedded server of the test's own; it looks at the disk
    only when told to (`manager.refresh`).
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
    """``serve_base(policy, labels)``: the folder of `add_version`, empty or not, served as model
    ``m``; the server and a client.
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
    """Everything that Kubernetes is given."""
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
    """``refusal(call, ...)``: the status code's name and message with which a call fails."""
    import grpc

    def of(call: Callable[..., Any], *arguments: Any, **choices: Any) -> tuple[str, str]:
        with pytest.raises(grpc.RpcError) as caught:
            call(*arguments, **choices)
        return caught.value.code().name, caught.value.details()

    return of


if __name__ == "__main__":
    sys.stdout.write(f"{write_conformance_models(Path(sys.argv[1]))}\n")
