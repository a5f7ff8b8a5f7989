"""Ranks two candidates with the stock stubs only: pip install tensorflow-serving-api.

    python serving/examples/plain_stub_client.py 127.0.0.1:8500 requests.json

`requests.json` holds the inputs of the request, by name; member features have one value,
candidate features one each:

    {"country": ["CH"], "age": [41.0], "price": [3.0, 9.0], "meta_embedding": [[0.1, ...]],
    "has_meta_embedding": [true]}

The embedding must come from the store's current generation of the requested version, and the
request must name that version: mixing versions gives plausible but meaningless scores.
`limaml_serving.Ranker` prevents that.
"""

import json
import sys

import grpc
import tensorflow as tf
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc


def signature_inputs(stub, name):
    """The model's version and the dtype of each input of its `rank` signature."""
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = name
    response = stub.GetModelMetadata(request, timeout=5)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    inputs = signatures.signature_def["rank"].inputs
    return response.model_spec.version.value, {
        key: tf.dtypes.as_dtype(info.dtype) for key, info in inputs.items()
    }


def main(target, path):
    """Sends the file's values and prints the candidates, best first."""
    with open(path, encoding="utf-8") as file:
        values = json.load(file)
    stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(target))
    version, dtypes = signature_inputs(stub, "ranker")

    request = predict_pb2.PredictRequest()
    request.model_spec.name = "ranker"
    request.model_spec.signature_name = "rank"
    request.model_spec.version.value = version
    for name, value in values.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value, dtypes[name]))

    response = stub.Predict(request, timeout=1)
    scores = tf.make_ndarray(response.outputs["probability"])
    for position in scores.argsort()[::-1]:
        print(f"version {version}: candidate {position} has probability {scores[position]:.4f}")  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
