"""What the jobs use of tfx-bsl without a promise: each use gives what it is used for, and a version
without it is named.
"""

import pytest
import tensorflow as tf
import tfx_bsl
from apache_beam.ml.inference.base import ModelHandler
from tfx_bsl.beam import run_inference
from tfx_bsl.coders import example_coder
from tfx_bsl.public.proto import model_spec_pb2

from limaml_beam.io import tfx_bsl_internals as internals
from tfrec_limaml.errors import LimamlError


class _Double(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="x")])
    def __call__(self, x):
        return {"y": x}


def test_a_handler_runs_what_stands_in_place_of_the_session(tmp_path):
    module = _Double()
    tf.saved_model.save(module, str(tmp_path), signatures=module.__call__)
    spec = model_spec_pb2.InferenceSpecType()
    spec.saved_model_spec.model_path = str(tmp_path)
    loaded = []

    def load(path, tags):
        loaded.append((path, list(tags)))
        return "session"

    handler = internals.model_handler(spec, load)
    assert isinstance(handler, ModelHandler)
    assert handler.load_model() == "session"
    assert loaded == [(str(tmp_path), ["serve"])]


def test_a_prediction_log_goes_to_bytes_and_back():
    log = internals.prediction_log()()
    log.predict_log.request.inputs["x"].string_val.append(b"record")
    assert internals.prediction_log().FromString(log.SerializeToString()) == log


def test_examples_become_a_record_batch():
    example = tf.train.Example()
    example.features.feature["n"].int64_list.value.append(7)
    batch = internals.example_decoder()([example.SerializeToString()] * 2)
    assert batch.to_pydict() == {"n": [[7], [7]]}


@pytest.mark.parametrize(
    ("owner", "name", "use"),
    [
        (run_inference, "create_model_handler", lambda: internals.model_handler(None, None)),
        (run_inference, "prediction_log_pb2", internals.prediction_log),
        (example_coder, "ExamplesToRecordBatchDecoder", internals.example_decoder),
    ],
)
def test_what_a_version_lacks_is_named_with_the_version(monkeypatch, owner, name, use):
    monkeypatch.delattr(owner, name)
    with pytest.raises(LimamlError, match=rf"tfx_bsl {tfx_bsl.__version__} has no .*\.{name};"):
        use()
