"""What the jobs use of tfx-bsl without a promise: each use gives what it is used for, and a version
without it is named.
"""

import sys

import numpy as np
import pytest
import tensorflow as tf
import tfx_bsl
from apache_beam.internal import pickler
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


@pytest.fixture
def spec(tmp_path):
    module = _Double()
    tf.saved_model.save(module, str(tmp_path), signatures=module.__call__)
    spec = model_spec_pb2.InferenceSpecType()
    spec.saved_model_spec.model_path = str(tmp_path)
    spec.batch_parameters.max_batch_size = 3
    return spec


class _Session:
    """What stands in place of a session: fetches give what is fed."""

    def __init__(self, path, tags):
        self.loaded = path, list(tags)

    def run(self, fetches, feed_dict):
        (records,) = feed_dict.values()
        return dict.fromkeys(fetches, np.array(records))


def test_a_handler_runs_what_stands_in_place_of_the_session(tmp_path, spec):
    handler = internals.SavedModelHandler(spec, _Session)
    assert isinstance(handler, ModelHandler)
    model = handler.load_model()
    assert model.loaded == (str(tmp_path), ["serve"])
    (log,) = handler.run_inference([b"record"], model)
    assert tf.make_ndarray(log.predict_log.response.outputs["y"]) == [b"record"]


def test_a_handler_tells_beam_what_tfx_bsl_s_own_does(spec):
    handler = internals.SavedModelHandler(spec, _Session)
    original = run_inference.create_model_handler(spec, _Session, None)
    batch = [b"a", b"record"]
    assert handler.get_num_bytes(batch) == original.get_num_bytes(batch)
    assert handler.get_metrics_namespace() == original.get_metrics_namespace()
    assert handler.batch_elements_kwargs() == {"max_batch_size": 3}


def test_a_worker_imports_tensorflow_without_keras_before_it_unpickles_what_needs_it(
    tmp_path, spec, monkeypatch
):
    content = pickler.dumps(internals.SavedModelHandler(spec, _Session))
    with monkeypatch.context() as patched:  # a module of None cannot be imported
        patched.setitem(sys.modules, "tfx_bsl.beam.run_inference", None)
        handler = pickler.loads(content)
    imports = []
    monkeypatch.setattr(internals, "import_tensorflow", lambda **options: imports.append(options))
    assert handler.load_model().loaded == (str(tmp_path), ["serve"])
    assert imports == [{"keras": False}]


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
        (run_inference, "create_model_handler", lambda: internals.SavedModelHandler(None, None)),
        (run_inference, "prediction_log_pb2", internals.prediction_log),
        (example_coder, "ExamplesToRecordBatchDecoder", internals.example_decoder),
    ],
)
def test_what_a_version_lacks_is_named_with_the_version(monkeypatch, owner, name, use):
    monkeypatch.delattr(owner, name)
    with pytest.raises(LimamlError, match=rf"tfx_bsl {tfx_bsl.__version__} has no .*\.{name};"):
        use()
