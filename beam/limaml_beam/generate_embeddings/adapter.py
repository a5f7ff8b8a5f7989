"""The adapter SavedModel under tfx-bsl's RunInference, one packed batch per element.

tfx-bsl builds one PredictionLog per element, in Python: with one task per element that would cost
more than the adaptation. Here an element is a packed batch of tasks, unpacked by the object that
`load_override_fn` (a hook of tfx-bsl) returns in place of a session; one PredictionLog then carries
hundreds of tasks, its outputs with a leading axis of length 1.

A task that the graph refuses does not fail its batch; see `packed_adapter`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.ml.inference import base

from limaml_beam.generate_embeddings.other_side import KnownOffsets, OffsetsInFiles, TurnInputs
from limaml_beam.generate_embeddings.packed_adapter import Outputs, PackedAdapter
from limaml_beam.generate_embeddings.record_batches import unpack
from limaml_beam.io import files, tfx_bsl_internals
from tfrec_limaml import manifest as names
from tfrec_limaml.manifest import (
    ADAPTER_INPUT,
    ADAPTER_OUTPUTS,
    NESTED_OUTPUTS,
    VARIANCE,
    VARIANCE_SIGNATURE,
)
from tfrec_limaml.tensorflow_setup import import_tensorflow

_LOGGER = logging.getLogger(__name__)

#: Models of this process by folder, within `sharing_models`.
_shared_models: dict[str, Any] | None = None


@contextlib.contextmanager
def sharing_models() -> Iterator[None]:
    """Inside the block, consecutive jobs of this process load an adapter only once."""
    global _shared_models
    outer, _shared_models = _shared_models, {}
    try:
        yield
    finally:
        _shared_models = outer


def adapt_with(
    adapter: str,
    embedding_dim: int,
    intra_op_threads: int,
    with_variance: bool,
    turn_inputs: TurnInputs | None,
) -> beam.PTransform:
    """A transform from packed batches (bytes) to PredictionLogs.

    Args:
        adapter: ``adapter/<version>`` on any Beam filesystem; workers load it from there, once per
            process.
        embedding_dim: Width ``D``, from the manifest.
        intra_op_threads: TensorFlow threads for one operation; 0 lets TensorFlow choose.
        with_variance: Call the signature that gives posterior variances too.
        turn_inputs: For a model of two definitions: the side of the tasks, and the known offsets of
            the other side.
    """
    import_tensorflow(keras=False)
    from tfx_bsl.public.proto import model_spec_pb2

    spec = model_spec_pb2.InferenceSpecType()
    # An element is a batch already; tfx-bsl's public transform would gather many of them and hold
    # them in memory.
    spec.batch_parameters.min_batch_size = 1
    spec.batch_parameters.max_batch_size = 1
    signature = VARIANCE_SIGNATURE if with_variance else names.SERVING_SIGNATURE
    spec.saved_model_spec.signature_name.append(signature)
    load = functools.partial(
        _load, adapter, embedding_dim, intra_op_threads, signature, turn_inputs
    )
    with files.local_copy(adapter) as folder:
        # tfx-bsl reads the signature now, through TensorFlow's own file access.
        spec.saved_model_spec.model_path = folder
        handler = tfx_bsl_internals.SavedModelHandler(spec, load)
    log = tfx_bsl_internals.prediction_log()
    beam.coders.registry.register_coder(log, LogCoder)
    return base.RunInference(handler).with_output_types(log)


class LogCoder(beam.coders.Coder):  # type: ignore[misc]
    """PredictionLogs of packed batches.

    Beam calls a coder's `estimate_size` for the elements that pass from step to step. The default
    one serialises megabytes to measure them.
    """

    def encode(self, log: Any) -> bytes:
        """The message's bytes."""
        return bytes(log.SerializeToString())

    def decode(self, encoded: bytes) -> Any:
        """Inverse of `encode`."""
        return tfx_bsl_internals.prediction_log().FromString(encoded)

    def estimate_size(self, log: Any) -> int:
        """Bytes of the packed batch, which is nearly all of it."""
        return len(log.predict_log.request.inputs[ADAPTER_INPUT].string_val[0])


def _load(
    adapter: str,
    embedding_dim: int,
    intra_op_threads: int,
    signature: str,
    turn_inputs: TurnInputs | None,
    _launchers_path: str,
    tags: Sequence[str],
) -> PackedAdapter:
    """Loads the adapter on a worker; called by tfx-bsl.

    The path that tfx-bsl passes is valid only in the process that built the job.
    """
    return load_packed(
        adapter,
        tags,
        embedding_dim=embedding_dim,
        intra_op_threads=intra_op_threads,
        signature_name=signature,
        turn_inputs=turn_inputs,
    )


def load_packed(
    adapter: str,
    tags: Sequence[str],
    *,
    embedding_dim: int,
    intra_op_threads: int,
    signature_name: str = names.SERVING_SIGNATURE,
    turn_inputs: TurnInputs | None = None,
) -> PackedAdapter:
    """Loads the SavedModel behind the interface that tfx-bsl calls."""
    model = None if _shared_models is None else _shared_models.get(adapter)
    if model is None:
        model = load_model(adapter, tags, intra_op_threads)
        if _shared_models is not None:
            _shared_models[adapter] = model
    known_offsets = None if turn_inputs is None else OffsetsInFiles(turn_inputs, embedding_dim)
    return packed_adapter(model, embedding_dim, signature_name, known_offsets)


def load_model(adapter: str, tags: Sequence[str], intra_op_threads: int) -> Any:
    """Loads the SavedModel."""
    import_tensorflow(keras=False)
    import tensorflow as tf

    if intra_op_threads:
        try:
            tf.config.threading.set_intra_op_parallelism_threads(intra_op_threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)
        except RuntimeError:
            _LOGGER.warning(
                "TensorFlow already runs in this process: intra_op_threads=%d has no effect",
                intra_op_threads,
            )
    with files.local_copy(adapter) as folder:
        return tf.saved_model.load(folder, tags=list(tags))


def packed_adapter(
    model: Any,
    embedding_dim: int,
    signature_name: str = names.SERVING_SIGNATURE,
    known_offsets: KnownOffsets | None = None,
) -> PackedAdapter:
    """A loaded SavedModel behind the interface that tfx-bsl calls.

    Args:
        model: The result of `load_model`.
        embedding_dim: Width ``D``.
        signature_name: The signature to call, without `known_offsets`.
        known_offsets: For a model of two definitions: the known offsets of the other side.
    """
    import_tensorflow(keras=False)
    import tensorflow as tf

    signature = model.signatures[signature_name]
    variance = (VARIANCE,) if signature_name == VARIANCE_SIGNATURE else ()

    nested = NESTED_OUTPUTS if NESTED_OUTPUTS.keys() <= signature.structured_outputs.keys() else ()

    def call(records: Sequence[bytes]) -> Outputs:
        inputs = {ADAPTER_INPUT: tf.constant(records, tf.string)}
        if known_offsets is None:
            outputs = signature(**inputs)
        else:
            keys = model.signatures[f"{names.OTHER_KEYS_SIGNATURE}_{known_offsets.side}"](**inputs)
            rows, offsets = known_offsets.look_up(keys[names.OTHER_KEY].numpy())
            offset_inputs = {
                names.OTHER_ROW: tf.constant(rows, tf.int32),
                names.OTHER_OFFSETS: tf.constant(offsets, tf.float32),
            }
            outputs = model.signatures[f"{names.GIVEN_SIGNATURE}_{known_offsets.side}"](
                **inputs, **offset_inputs
            )
        return {name: outputs[name].numpy() for name in (*ADAPTER_OUTPUTS, *variance, *nested)}

    return PackedAdapter(
        call,
        embedding_dim,
        tf.errors.OpError,
        nested=bool(nested),
        with_variance=bool(variance),
        keep_alive=model,
    )


def read_log(log: Any) -> tuple[list[bytes], Outputs]:
    """Records and outputs ``[n, ...]`` of one PredictionLog."""
    import tensorflow as tf

    predict = log.predict_log
    records = unpack(predict.request.inputs[ADAPTER_INPUT].string_val[0])
    return records, {
        name: tf.make_ndarray(tensor)[0] for name, tensor in predict.response.outputs.items()
    }
