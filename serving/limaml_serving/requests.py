"""Checked columns to Predict requests, and Predict responses to scores."""

from __future__ import annotations

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


def fill_tensor(tensor: Any, column: Column) -> None:
    """Writes a column into a `TensorProto`: numbers as one block of little-endian bytes, strings one by one."""
    if isinstance(column, list):
        tensor.dtype = wire.DT_STRING
        tensor.tensor_shape.dim.add().size = len(column)
        tensor.string_val.extend(column)
        return
    tensor.dtype = _DTYPES[column.dtype.kind]
    for size in column.shape:
        tensor.tensor_shape.dim.add().size = size
    tensor.tensor_content = column.tobytes()


def predict_request(
    model: str, version: int, rows: Sequence[Rows], embeddings: Sequence[Matrix], has: Sequence[Mask], *, compact: bool = True
) -> Any:
    """One `PredictRequest`, pinned to a version number.

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
    request = wire.PredictRequest()
    request.model_spec.name = model
    request.model_spec.version.value = version
    request.output_filter.extend((PROBABILITY, LOGIT))
    inputs = request.inputs
    if compact and len(rows) == 1:
        request.model_spec.signature_name = RANK_SIGNATURE
        for name, column in rows[0].columns.items():
            fill_tensor(inputs[name], column)
        fill_tensor(inputs[META_EMBEDDING], embeddings[0])
        fill_tensor(inputs[HAS_META_EMBEDDING], has[0])
        return request
    request.model_spec.signature_name = SERVING_SIGNATURE
    counts = [r.count for r in rows]
    for name in rows[0].columns:
        fill_tensor(inputs[name], _end_to_end([r.columns[name] for r in rows], counts))
    fill_tensor(inputs[META_EMBEDDING], _end_to_end(embeddings, counts))
    fill_tensor(inputs[HAS_META_EMBEDDING], _end_to_end(has, counts))
    return request


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
