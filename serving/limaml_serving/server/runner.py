"""One SavedModel in one TensorFlow session, as in TensorFlow Serving.

A session only runs a graph: no Python code of the model is loaded, so none of it can run. Closing
the session and dismantling its graph frees the model at once, which keeps memory constant over many
version changes. A run costs a tenth of a call of the same signature as a concrete function, and can
be stopped at a deadline.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf

from limaml_serving.server.errors import (
    StatusError,
    describe,
    failed_precondition,
    from_runtime,
    invalid,
)
from limaml_serving.server.tensorflow_internals import dismantle, endpoint, run_session
from limaml_serving.server.tensors import RUNTIME_ONLY, TensorSpec
from tfrec_limaml.errors import LimamlError

#: Signatures that Predict may run; the same three as in TensorFlow Serving.
_METHODS = {f"tensorflow/serving/{name}" for name in ("predict", "classify", "regress")}

#: Largest number of selections of outputs that a session prepares for. Each takes some tenths of a
#: second and memory, and clients choose them freely. Beyond the limit all outputs are computed, and
#: those that were not asked for are dropped.
_SELECTIONS_LIMIT = 64

#: Time limit of a run, for any deadline of its client.
LONGEST_RUN_MS = 300_000


class LoadError(LimamlError):
    """A version directory that cannot be served; the message says why."""


class Signature:
    """The named inputs and outputs of one signature."""

    def __init__(self, name: str, definition: Any) -> None:
        self.name = name
        self.inputs = {
            key: TensorSpec.from_info(key, info) for key, info in sorted(definition.inputs.items())
        }
        self.outputs = {
            key: TensorSpec.from_info(key, info) for key, info in sorted(definition.outputs.items())
        }

    def check_inputs(self, names: set[str]) -> None:
        """Raises INVALID_ARGUMENT unless exactly this signature's inputs are given."""
        if names == self.inputs.keys():
            return
        extra, missing = sorted(names - self.inputs.keys()), sorted(self.inputs.keys() - names)
        if len(names) != len(self.inputs):
            raise invalid(
                f"input size does not match signature: received {len(names)}, expected "
                f"{len(self.inputs)}. "
                f"Sent extra: {_names(extra)}. Missing but required: {_names(missing)}."
            )
        raise invalid(
            f"input tensor alias not found in signature: {_names(extra)}. Inputs expected to be "
            f"in the set {_names(list(self.inputs))}."
        )

    def select_outputs(self, names: Sequence[str]) -> tuple[str, ...]:
        """The outputs to compute: `names`, or all of them if it is empty."""
        for name in names:
            if name not in self.outputs:
                raise invalid(
                    f"output tensor alias not found in signature: {name}. Outputs expected to be "
                    f"in the set {_names(list(self.outputs))}."
                )
        if len(set(names)) != len(names):
            raise invalid(f"duplicate output tensor alias in output_filter: {_names(list(names))}")
        return tuple(sorted(names)) or tuple(self.outputs)


class SavedModelRunner:
    """A loaded SavedModel.

    Args:
        directory: One version's directory.

    Raises:
        LoadError: Not a SavedModel, or a damaged one.
    """

    def __init__(self, directory: Path) -> None:
        self._endpoints: dict[str, Any] = {}  # the session's handle of a tensor, by its name
        self._selections: set[tuple[str, tuple[str, ...]]] = set()
        self._graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=self._graph)
        try:
            with self._graph.as_default():
                meta_graph = _quiet_load(self._session, directory)
            self.signature_definitions = dict(meta_graph.signature_def)
            self._signatures = {
                name: Signature(name, definition)
                for name, definition in self.signature_definitions.items()
                if _is_usable(definition)
            }
            for spec in [
                spec
                for signature in self._signatures.values()
                for spec in (*signature.inputs.values(), *signature.outputs.values())
            ]:
                self._endpoints[spec.tensor] = endpoint(self._graph, spec.tensor)
        except Exception as error:  # whatever is wrong with the files
            self.close()
            raise LoadError(f"cannot load the SavedModel: {describe(error)}") from error

    def signature(self, name: str) -> Signature:
        """The signature `name`; ``serving_default`` if empty.

        Raises:
            StatusError: FAILED_PRECONDITION; there is none, or it is not for Predict.
        """
        name = name or tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
        signature = self._signatures.get(name)
        if signature is not None:
            return signature
        if name in self.signature_definitions:
            raise failed_precondition(
                f'Serving signature "{name}" cannot be run by Predict: it needs dense tensors and a predict method.'  # noqa: E501
            )
        raise failed_precondition(f'Serving signature key "{name}" not found.')

    def run(
        self,
        signature: Signature,
        inputs: Mapping[str, np.ndarray],
        outputs: tuple[str, ...],
        timeout_ms: int = LONGEST_RUN_MS,
    ) -> list[np.ndarray]:
        """Computes `outputs`, in that order.

        Args:
            signature: One of this model's.
            inputs: One array per input of the signature.
            outputs: As returned by `Signature.select_outputs`.
            timeout_ms: Time limit of the run; at least one millisecond, because 0 means no limit to
                TensorFlow.

        Raises:
            StatusError: With the runtime's own status code.
        """
        computed = self._prepared_for(signature, outputs)
        feeds = {
            self._endpoints[spec.tensor]: inputs[name] for name, spec in signature.inputs.items()
        }
        fetches = [self._endpoints[signature.outputs[name].tensor] for name in computed]
        try:
            values = run_session(self._session, feeds, fetches, max(timeout_ms, 1))
        except tf.errors.OpError as error:
            message = _message(error)
            if "Could not allocate ndarray" in message:  # an empty one, of a size beyond all arrays
                raise invalid(f"signature {signature.name}: {message} for an output") from error
            raise from_runtime(error.error_code, message) from error
        except MemoryError as error:
            raise StatusError(grpc.StatusCode.RESOURCE_EXHAUSTED, "out of memory") from error
        except (TypeError, ValueError, RuntimeError, SystemError, NotImplementedError) as error:
            # An input that TensorFlow cannot take, or an output that no array can hold.
            raise invalid(f"signature {signature.name}: {describe(error)}") from error
        return values if computed == outputs else [values[computed.index(name)] for name in outputs]

    def cancel(self) -> None:
        """Ends runs in progress with CANCELLED, and all later ones."""
        self._session.close()

    def close(self) -> None:
        """Frees the model and its memory; no run may be in progress."""
        self._endpoints.clear()
        self._session.close()
        dismantle(self._graph)
        _give_back_memory()

    def _prepared_for(self, signature: Signature, outputs: tuple[str, ...]) -> tuple[str, ...]:
        """The outputs to compute for `outputs`: these, or all."""
        for name in outputs:
            kind = signature.outputs[name].dtype
            if kind in RUNTIME_ONLY:
                raise invalid(f"output {name}: a response cannot carry dtype {kind.name}")
        selection = (signature.name, outputs)
        if selection not in self._selections:
            everything = tuple(
                name for name, spec in signature.outputs.items() if spec.dtype not in RUNTIME_ONLY
            )
            if len(self._selections) >= _SELECTIONS_LIMIT:
                return everything
            self._selections.add(selection)
        return outputs


def _is_usable(definition: Any) -> bool:
    tensors = [*definition.inputs.values(), *definition.outputs.values()]
    return definition.method_name in _METHODS and all(
        info.WhichOneof("encoding") == "name" for info in tensors
    )


def _quiet_load(session: tf.compat.v1.Session, directory: Path) -> Any:
    """Loads without the deprecation notice of the session loader, which is for model authors."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], str(directory))
    finally:
        logger.setLevel(level)


def _message(error: tf.errors.OpError) -> str:
    try:
        return str(error.message)
    except Exception:  # noqa: BLE001
        return describe(error)


def _names(names: Sequence[str]) -> str:
    return "{" + ", ".join(names) + "}"


def _give_back_memory() -> None:
    """Returns freed memory if the C library is glibc; others neither have nor need such a call.

    Several threads allocate and free a model, and glibc keeps the memory that each of them freed
    for later use: a server that changes versions under load would grow by tens of megabytes.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
