"""Checked columns to Predict requests, and Predict responses to scores."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from limaml_serving import wire
from limaml_serving.columns import Column, Rows
from limaml_serving.errors import ServingError
from tfrec_limaml.manifest import HAS_META_EMBEDDING, LOGIT, META_EMBEDDING, PROBABILITY, RANK_SIGNATURE, SERVING_SIGNATURE
from tfrec_limaml.store.base import Mask, Matrix

_DTYPES = {"f": wire.DT_FLOAT, "i": wire.DT_INT64, "b": wire.DT_BOOL}


def predict_request(
    model: str, version: int, rows: Sequence[Rows], embeddings: Sequence[Matrix], has: Sequence[Mask], *, compact: bool = True
) -> bytes:
    """One serialized `PredictRequest`, pinned to a version number.

    A single compact request uses the ``rank`` signature: the member's columns travel once. Others are laid end to end
    for ``serving_default``, every column repeated to its request's length.

    Args:
        model: Name of the model on the server.
        version: The version that must answer.
        rows: Checked requests.
        embeddings: For each request, ``[1 or N, D]``.
        has: For each request, which embeddings are real, ``[1 or N]``.
        compact: Whether ``rank`` may be used; a server that batches requests needs all columns of one length.
    """
    if compact and len(rows) == 1:
        inputs = {**rows[0].columns, META_EMBEDDING: embeddings[0], HAS_META_EMBEDDING: has[0]}
        parts = [_opening(model, version, RANK_SIGNATURE)]
    else:
        counts = [r.count for r in rows]
        every = [{**r.columns, META_EMBEDDING: e, HAS_META_EMBEDDING: h} for r, e, h in zip(rows, embeddings, has, strict=True)]
        inputs = {name: _end_to_end([each[name] for each in every], counts) for name in every[0]}
        parts = [_opening(model, version, SERVING_SIGNATURE)]
    for name, column in inputs.items():
        parts += serialized_input(name, column)
    return b"".join(parts)


@functools.lru_cache(maxsize=64)
def _opening(model: str, version: int, signature: str) -> bytes:
    """Everything of a request but its inputs."""
    request = wire.PredictRequest(output_filter=(PROBABILITY, LOGIT))
    request.model_spec.name = model
    request.model_spec.version.value = version
    request.model_spec.signature_name = signature
    content: bytes = request.SerializeToString()
    return content


def serialized_input(name: str, column: Column) -> tuple[bytes, bytes]:
    """One entry of a request's ``inputs`` map in two parts: what goes before a column's content, and the content.

    A serialized message is its fields one after another. So a request is put together from parts, and what goes before numbers,
    which only depends on the feature and the shape, is made once: a tenth of the time that filling protobuf messages takes.
    """
    if isinstance(column, list):
        tensor = wire.TensorProto(dtype=wire.DT_STRING, string_val=column)
        tensor.tensor_shape.dim.add().size = len(column)
        content = tensor.SerializeToString()
        return wire.entry_head(name, len(content)), content
    return _number_head(name, column.dtype.kind, column.shape, column.nbytes), column.tobytes()


@functools.lru_cache(maxsize=4096)
def _number_head(name: str, kind: str, shape: tuple[int, ...], size: int) -> bytes:
    tensor = wire.TensorProto(dtype=_DTYPES[kind])
    for each in shape:
        tensor.tensor_shape.dim.add().size = each
    head = tensor.SerializeToString() + wire.content_head(size)
    return wire.entry_head(name, len(head) + size) + head


def _end_to_end(columns: Sequence[Column], counts: Sequence[int]) -> Column:
    if isinstance(columns[0], list):
        return [value for column, n in zip(columns, counts, strict=True) for value in (column if len(column) == n else column * n)]
    parts = [np.broadcast_to(column, (n, *np.shape(column)[1:])) for column, n in zip(columns, counts, strict=True)]
    return np.concatenate(parts)


def read_output(response: Any, name: str, count: int) -> npt.NDArray[np.float32]:
    """One float output ``[count]`` of a `PredictResponse`, whichever way the server wrote it.

    Raises:
        ServingError: The output is missing, of another type or of another length.
    """
    if name not in response.outputs:
        raise ServingError(f"the server's answer has no output {name!r}, only {sorted(response.outputs)}: is this a ranker?", "INTERNAL")
    tensor = response.outputs[name]
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.dtype != wire.DT_FLOAT or shape != [count]:
        raise ServingError(f"output {name!r} should be float32 [{count}], received dtype {tensor.dtype} and shape {shape}", "INTERNAL")
    values = np.frombuffer(tensor.tensor_content, "<f4") if tensor.tensor_content else np.fromiter(tensor.float_val, np.float32)
    if len(values) != count:
        raise ServingError(f"output {name!r} should hold {count} values, received {len(values)}", "INTERNAL")
    return values
