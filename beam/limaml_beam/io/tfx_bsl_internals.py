"""Everything that the jobs use of tfx-bsl outside ``tfx_bsl.public``, its only stable interface.

tfx-bsl imports TensorFlow: functions import it, so that the launcher of a job need not.
``tests/beam/io/test_tfx_bsl_internals.py`` names what a new version lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tfrec_limaml.internals import internal


def model_handler(spec: Any, load: Callable[[str, Sequence[str]], Any]) -> Any:
    """A handler for Beam's RunInference.

    Args:
        spec: An ``InferenceSpecType`` with a saved model.
        load: Called on a worker with the model's path and tags; its result replaces a session.
    """
    import tfx_bsl
    from tfx_bsl.beam import run_inference

    return internal(tfx_bsl, run_inference, "create_model_handler")(spec, load, None)


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
