"""A scripted model server with the real protocol's messages, and a store in memory."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import numpy as np
import pytest

from limaml_serving import Ranker
from tfrec_limaml.errors import StoreError
from tfrec_limaml.manifest import Manifest
from tfrec_limaml.schema.schema import Schema

DIM = 3
SERVICE = "tensorflow.serving.PredictionService"


class MemoryStore:
    """Embeddings by version and key; each look-up sleeps for `delay` and raises `failure`."""

    def __init__(self) -> None:
        self.versions: dict[int, dict[str, list[float]]] = {}
        self.failure: Exception | None = None
        self.delay = 0.0
        self.asked: list[tuple[tuple[str, ...], int]] = []

    def get_many(self, keys: Any, model_version: int) -> tuple[np.ndarray, np.ndarray]:
        self.asked.append((tuple(keys), model_version))
        time.sleep(self.delay)
        if self.failure is not None:
            raise self.failure
        held = self.versions.get(model_version)
        if held is None:
            return np.zeros((len(keys), 0), np.float32), np.zeros(len(keys), bool)
        width = len(next(iter(held.values())))
        matrix = np.array([held.get(key, [0.0] * width) for key in keys], np.float32).reshape(
            len(keys), width
        )
        return matrix, np.array([key in held for key in keys])


class ScriptedServer:
    """Scores ``logit = price + 100 * embedding[0] + 10000 * version``.

    Without an embedding the second term is missing.

    Attributes:
        versions: Loaded version numbers.
        labels: Label to version.
        script: Called before each Predict with (number of the call, request, context); may abort or
            sleep.
        answers_as: The version named in answers, if it should differ from the one asked for.
        requests: Predict requests received, in TensorFlow's own protos.
    """

    def __init__(self) -> None:
        from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2

        self._protos = predict_pb2, get_model_metadata_pb2
        self.versions = {1}
        self.labels: dict[str, int] = {}
        self.script: Callable[[int, Any, grpc.ServicerContext], None] = (
            lambda call, request, context: None
        )
        self.answers_as: int | None = None
        self.requests: list[Any] = []
        self.resolutions = 0
        self._lock = threading.Lock()
        self._server = grpc.server(futures.ThreadPoolExecutor(8))
        self._server.add_generic_rpc_handlers((self.handlers(),))
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self.target = f"127.0.0.1:{self.port}"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(0).wait()

    def handlers(self) -> grpc.GenericRpcHandler:
        predict, metadata = self._protos
        serialize = lambda message: message.SerializeToString()  # noqa: E731
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Predict": grpc.unary_unary_rpc_method_handler(
                    self._predict, predict.PredictRequest.FromString, serialize
                ),
                "GetModelMetadata": grpc.unary_unary_rpc_method_handler(
                    self._metadata, metadata.GetModelMetadataRequest.FromString, serialize
                ),
            },
        )

    def _version(self, spec: Any, context: grpc.ServicerContext) -> int:
        if spec.name != "ranker":
            context.abort(
                grpc.StatusCode.NOT_FOUND, f"Servable not found for request: Latest({spec.name})"
            )
        if spec.HasField("version_label"):
            if spec.version_label not in self.labels:
                context.abort(
                    grpc.StatusCode.INVALID_ARGUMENT,
                    f"Unrecognized servable version label: {spec.version_label}",
                )
            return self.labels[spec.version_label]
        version = spec.version.value if spec.HasField("version") else max(self.versions)
        if version not in self.versions:
            context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"Servable not found for request: Specific({spec.name}, {version})",
            )
        return version

    def _metadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.resolutions += 1
        if list(request.metadata_field) != ["signature_def"]:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Metadata field is not supported")
        response = self._protos[1].GetModelMetadataResponse()
        response.model_spec.version.value = self._version(request.model_spec, context)
        return response

    def _predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        import tensorflow as tf

        with self._lock:
            self.requests.append(request)
            call = len(self.requests)
        self.script(call, request, context)
        version = self._version(request.model_spec, context)
        price = tf.make_ndarray(request.inputs["price"])
        embedding = tf.make_ndarray(request.inputs["meta_embedding"])
        has = tf.make_ndarray(request.inputs["has_meta_embedding"])
        logit = (price + 10000 * version + 100 * np.where(has, embedding[:, 0], 0)).astype(
            np.float32
        )
        response = self._protos[0].PredictResponse()
        response.model_spec.name = "ranker"
        response.model_spec.version.value = self.answers_as or version
        outputs = {"logit": logit, "probability": 1 / (1 + np.exp(-logit)), "prediction": logit}
        for name in request.output_filter or outputs:
            values = outputs[name]
            output = response.outputs[name]
            output.dtype = 1
            output.tensor_shape.dim.add().size = len(values)
            output.float_val.extend(values)
        return response


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    scripted = ScriptedServer()
    yield scripted
    scripted.stop()


@pytest.fixture
def store() -> MemoryStore:
    memory = MemoryStore()
    memory.versions = {1: {"7": [1.0, 0.0, 0.0], "8": [2.0, 0.0, 0.0]}}
    return memory


@pytest.fixture(scope="session")
def schema() -> Schema:
    return Schema.from_dict(
        {
            "name": "shop",
            "label": "clicked",
            "timestamp": "time",
            "tasks": {"user": ["user_id"], "user_tab": ["user_id", "tab"]},
            "features": [
                {
                    "name": "age",
                    "role": "meta",
                    "dtype": "float32",
                    "on_invalid": "fill",
                    "fill_value": 30.0,
                },
                {
                    "name": "country",
                    "role": "meta",
                    "dtype": "string",
                    "encoding": "vocabulary",
                    "fill_value": "??",
                },
                {"name": "tab", "dtype": "int64", "encoding": "vocabulary"},
                {"name": "price", "dtype": "float32", "on_invalid": "error"},
                {"name": "image", "dtype": "float32", "width": 2},
            ],
        }
    )


@pytest.fixture(scope="session")
def make_manifest(schema: Schema) -> Callable[..., Manifest]:
    def make(version: int = 1, **changes: Any) -> Manifest:
        manifest = Manifest(
            model_version=version,
            schema=schema.to_dict(),
            schema_fingerprint=schema.fingerprint(),
            task_definition="user",
            embedding_dim=DIM,
            inner_loop={},
        )
        return dataclasses.replace(manifest, **changes)

    return make


@pytest.fixture
def member() -> dict[str, Any]:
    return {"user_id": 7, "age": 41.0, "country": "CH"}


@pytest.fixture
def candidates() -> dict[str, Any]:
    return {
        "price": np.array([3.0, 9.0, 5.0, 1.0]),
        "tab": np.array([0, 1, 1, 2]),
        "image": np.arange(8, dtype=np.float32).reshape(4, 2),
        "item": ["a", "b", "c", "d"],
    }


@pytest.fixture
def make_ranker(
    server: ScriptedServer, store: MemoryStore, make_manifest: Callable[..., Manifest]
) -> Iterator[Callable[..., Ranker]]:
    made: list[Ranker] = []

    def make(**changes: Any) -> Ranker:
        settings = {
            "target": server.target,
            "store": store,
            "manifest": make_manifest(),
            "timeout": 20.0,
            **changes,
        }
        made.append(Ranker(settings.pop("target"), settings.pop("store"), **settings))
        return made[-1]

    yield make
    for ranker in made:
        ranker.close()


@pytest.fixture
def store_failure() -> StoreError:
    return StoreError("cannot reach the store")
