"""Checked columns to Predict requests, and Predict responses to scores."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from limaml_serving import wire
from limaml_serving.columns import Column, Rows
from limaml_serving.errors import ServingError
from tfrec_limaml.manifest import LOGIT, PROBABILITY, RANK_SIGNATURE, SERVING_SIGNATURE, embedding_inputs
from tfrec_limaml.schema import Feature
from tfrec_limaml.store.base import Mask, Matrix

# Types of numbers on the wire, and bytes of one.
_NUMBERS = {"float32": (wire.DT_FLOAT, 4), "int64": (wire.DT_INT64, 8), "bool": (wire.DT_BOOL, 1)}


class RequestWriter:
    """Writes `PredictRequest` messages for one model; made once per model version.

    A serialized message is its fields one after another. So a request is put together from parts, most of which are the
    same every time; filling protobuf messages field by field takes several times as long.

    Args:
        features: The model's inputs beside the embeddings.
        embedding_dim: Width ``D`` of the meta embeddings.
        nested_definitions: The model's task definitions behind the first.
    """

    def __init__(self, features: Sequence[Feature], embedding_dim: int, nested_definitions: Sequence[str] = ()) -> None:
        pairs = embedding_inputs(nested_definitions)
        self._embedding_names = tuple(stored for stored, _ in pairs)
        self._mask_names = tuple(has for _, has in pairs)
        self._inputs = (
            *(_Input(feature.name, feature.dtype, () if feature.width == 1 else (feature.width,)) for feature in features),
            *(_Input(name, "float32", (embedding_dim,)) for name in self._embedding_names),
            *(_Input(name, "bool", ()) for name in self._mask_names),
        )

    def write(
        self,
        model: str,
        version: int,
        rows: Sequence[Rows],
        embeddings: Sequence[Sequence[Matrix]],
        has: Sequence[Sequence[Mask]],
        *,
        compact: bool = True,
    ) -> bytes:
        """One serialized request, pinned to a version number.

        A single compact request uses the ``rank`` signature: the member's columns travel once. Others are laid end to end
        for ``serving_default``, every column repeated to its request's length.

        Args:
            model: Name of the model on the server.
            version: The version that must answer.
            rows: Checked requests.
            embeddings: For each request, one ``[1 or N, D]`` for each task definition.
            has: Likewise, which embeddings are real, ``[1 or N]``.
            compact: Whether ``rank`` may be used; a server that batches requests needs all columns of one length.
        """
        every: list[dict[str, Column]] = []
        for each_rows, of_rows, masks in zip(rows, embeddings, has, strict=True):
            every.append(dict(each_rows.columns))
            every[-1].update(zip(self._embedding_names, [matrix.tobytes() for matrix in of_rows], strict=True))
            every[-1].update(zip(self._mask_names, [mask.tobytes() for mask in masks], strict=True))
        if compact and len(rows) == 1:
            parts = [_opening(model, version, RANK_SIGNATURE)]
            for each in self._inputs:
                parts += each.parts(every[0][each.name])
            return b"".join(parts)
        counts = [r.count for r in rows]
        parts = [_opening(model, version, SERVING_SIGNATURE)]
        for each in self._inputs:
            parts += each.parts(each.end_to_end([columns[each.name] for columns in every], counts))
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


class _Input:
    """One named input: how its columns become entries of a request's ``inputs`` map."""

    def __init__(self, name: str, dtype: str, tail: tuple[int, ...]) -> None:
        self.name = name
        self._tail = tail
        if dtype != "string":
            self._dtype, size = _NUMBERS[dtype]
            self._row_bytes = size * math.prod(tail)
            self._head = functools.lru_cache(maxsize=512)(self._make_head)

    def parts(self, column: Column) -> tuple[bytes, bytes]:
        """An entry in two parts: what goes before the column's content, and the content."""
        if isinstance(column, list):
            tensor = wire.TensorProto(dtype=wire.DT_STRING, string_val=column)
            tensor.tensor_shape.dim.add().size = len(column)
            content = tensor.SerializeToString()
            return wire.entry_head(self.name, len(content)), content
        return self._head(len(column)), column

    def end_to_end(self, columns: Sequence[Any], counts: Sequence[int]) -> Column:
        """Several requests' columns as one, those of one row repeated."""
        if isinstance(columns[0], list):
            return [value for column, n in zip(columns, counts, strict=True) for value in (column if len(column) == n else column * n)]
        size = self._row_bytes
        return b"".join(column if len(column) == n * size else column * n for column, n in zip(columns, counts, strict=True))

    def _make_head(self, size: int) -> bytes:
        tensor = wire.TensorProto(dtype=self._dtype)
        for each in (size // self._row_bytes, *self._tail):
            tensor.tensor_shape.dim.add().size = each
        head = tensor.SerializeToString() + wire.content_head(size)
        return wire.entry_head(self.name, len(head) + size) + head


def read_output(response: Any, name: str, count: int) -> npt.NDArray[np.float32]:
    """One float output ``[count]`` of a `PredictResponse`, whichever way the server wrote it.

    Raises:
        ServingError: The output is missing, of another type or of another length.
    """
    if name not in response.outputs:
        raise ServingError(f"the server's answer has no output {name!r}, only {sorted(response.outputs)}: is this a ranker?", "INTERNAL")
    tensor = response.outputs[name]
    dims = tensor.tensor_shape.dim
    if tensor.dtype != wire.DT_FLOAT or len(dims) != 1 or dims[0].size != count:
        shape = [dim.size for dim in dims]
        raise ServingError(f"output {name!r} should be float32 [{count}], received dtype {tensor.dtype} and shape {shape}", "INTERNAL")
    content = tensor.tensor_content or tensor.float_val
    if len(content) != 4 * count:
        raise ServingError(f"output {name!r} should hold {count} values, received {len(content) / 4:g}", "INTERNAL")
    return np.frombuffer(content, "<f4")
