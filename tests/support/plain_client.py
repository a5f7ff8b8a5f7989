"""A minimal client of TensorFlow Serving's protocol."""

from __future__ import annotations

from typing import Any

from conformance_models import MODEL, ROWS


class Client:
    """Calls the services of a server by their generated stubs."""

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
        """Logits of the two `ROWS`, which show the version that answered."""
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
