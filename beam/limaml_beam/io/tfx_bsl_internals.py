"""All uses of tfx-bsl in the jobs outside ``tfx_bsl.public``, its only stable interface.

tfx-bsl imports TensorFlow: functions import it, so that the launcher of a job need not.
``tests/beam/io/test_tfx_bsl_internals.py`` names the missing one if a new version lacks it.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from apache_beam.ml.inference.base import ModelHandler

from tfrec_limaml.internals import internal
from tfrec_limaml.tensorflow_setup import import_tensorflow


class SavedModelHandler(ModelHandler[bytes, Any, Any]):  # type: ignore[misc]
    """tfx-bsl's handler for Beam's RunInference.

    Unpickling it imports neither tfx-bsl nor TensorFlow, so that a worker imports TensorFlow as
    commands do.

    Args:
        spec: An ``InferenceSpecType`` with a saved model.
        load: Called on a worker with the model's path and tags; its result replaces a session.
            Must be picklable.
    """

    def __init__(self, spec: Any, load: Callable[[str, Sequence[str]], Any]) -> None:
        import tfx_bsl
        from tfx_bsl.beam import run_inference

        handler = internal(tfx_bsl, run_inference, "create_model_handler")(spec, load, None)
        super().__init__()
        self._pickled = pickle.dumps(handler)
        self._metrics_namespace = handler.get_metrics_namespace()
        self._batch_elements_kwargs = handler.batch_elements_kwargs()

    @functools.cached_property
    def _handler(self) -> Any:
        import_tensorflow(keras=False)
        return pickle.loads(self._pickled)

    def load_model(self) -> Any:
        """What `load` returns."""
        return self._handler.load_model()

    def run_inference(
        self, batch: Sequence[bytes], model: Any, inference_args: dict[str, Any] | None = None
    ) -> Iterable[Any]:
        """One PredictionLog for each element of the batch."""
        return self._handler.run_inference(batch, model, inference_args)

    def get_num_bytes(self, batch: Sequence[bytes]) -> int:
        """Bytes of the batch."""
        return sum(map(len, batch))

    def get_metrics_namespace(self) -> str:
        """As tfx-bsl names it."""
        return self._metrics_namespace

    def batch_elements_kwargs(self) -> Mapping[str, Any]:
        """Limits of a batch, as the spec sets them."""
        return self._batch_elements_kwargs


def prediction_log() -> Any:
    """The message class ``PredictionLog`` that a handler answers with."""
    import tfx_bsl
    from tfx_bsl.beam import run_inference

    return internal(
        tfx_bsl, internal(tfx_bsl, run_inference, "prediction_log_pb2"), "PredictionLog"
    )


def example_decoder() -> Callable[[list[bytes]], Any]:
    """A function from serialized ``tf.train.Example`` messages to an Arrow record batch."""
    import tfx_bsl
    from tfx_bsl.coders import example_coder

    decoder = internal(tfx_bsl, example_coder, "ExamplesToRecordBatchDecoder")()
    return internal(tfx_bsl, decoder, "DecodeBatch")
