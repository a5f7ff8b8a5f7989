"""Converts checked columns to Predict requests, and Predict responses to scores."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from limaml_serving.client import wire
from limaml_serving.client.columns import Rows
from limaml_serving.client.feature_reader import Column
from limaml_serving.errors import ServingError
from tfrec_limaml.arrays import Mask
from tfrec_limaml.manifest import (
    LOGIT,
    PROBABILITY,
    RANK_SIGNATURE,
    SERVING_SIGNATURE,
    embedding_inputs,
)
from tfrec_limaml.schema.schema import Feature
from tfrec_limaml.store.base import Matrix

_DTYPES = {
    "float32": wire.DT_FLOAT,
    "int64": wire.DT_INT64,
    "bool": wire.DT_BOOL,
    "string": wire.DT_STRING,
}


class RequestWriter:
    """Writes `PredictRequest` messages for one model; made once per model version.

    A serialized message is the concatenation of its fields. A request is concatenated from parts,
    most of which never change. Filling protobuf messages field by field takes several times as
    long.

    Args:
        features: The model's inputs beside the embeddings.
        embedding_dim: Width ``D`` of the meta embeddings.
        further_definitions: The model's task definitions after the first.
        outputs: The model's outputs to ask for.
    """

    def __init__(
        self,
        features: Sequence[Feature],
        embedding_dim: int,
        further_definitions: Sequence[str] = (),
        outputs: tuple[str, ...] = (PROBABILITY, LOGIT),
    ) -> None:
        self.outputs = outputs
        pairs = embedding_inputs(further_definitions)
        self._inputs = (
            *(
                _Input(feature.name, feature.dtype, () if feature.width == 1 else (feature.width,))
                for feature in features
            ),
            *(_Input(name, "float32", (embedding_dim,)) for name, _ in pairs),
            *(_Input(name, "bool", ()) for _, name in pairs),
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

        A single compact request uses the ``rank`` signature: the member's columns travel once.
        Other requests are concatenated for ``serving_default``, with every column repeated to its
        request's length.

        Args:
            model: Name of the model on the server.
            version: The version that must answer.
            rows: Checked requests.
            embeddings: For each request, one ``[1 or N, D]`` for each task definition.
            has: Likewise, which embeddings are real, ``[1 or N]``.
            compact: Whether ``rank`` may be used; a server that batches requests needs all columns
                of one length.
        """
        stacked = list(map(_inputs_of, rows, embeddings, has))
        if compact and len(rows) == 1:
            signature, columns = RANK_SIGNATURE, stacked[0]
        else:
            signature, columns = SERVING_SIGNATURE, _end_to_end(stacked, [r.count for r in rows])
        parts = [_opening(model, version, signature, self.outputs)]
        for writer, (count, content) in zip(self._inputs, columns, strict=True):
            parts += (writer.head(count, len(content)), content)
        return b"".join(parts)


def _inputs_of(rows: Rows, embeddings: Sequence[Matrix], has: Sequence[Mask]) -> list[Column]:
    """All columns of one request, in the order of the inputs."""
    return [
        *rows.columns,
        *[(len(matrix), matrix.tobytes()) for matrix in embeddings],
        *[(len(mask), mask.tobytes()) for mask in has],
    ]


@functools.lru_cache(maxsize=64)
def _opening(model: str, version: int, signature: str, outputs: tuple[str, ...]) -> bytes:
    """A request without its inputs."""
    request = wire.PredictRequest(output_filter=outputs)
    request.model_spec.name = model
    request.model_spec.version.value = version
    request.model_spec.signature_name = signature
    content: bytes = request.SerializeToString()
    return content


class _Input:
    """One named input: writes its columns as entries of a request's ``inputs`` map."""

    def __init__(self, name: str, dtype: str, tail: tuple[int, ...]) -> None:
        self._name = name
        self._dtype = dtype
        self._tail = tail
        #: The bytes before a column's content, by its number of rows and of bytes.
        self.head = functools.lru_cache(maxsize=512)(self._make_head)

    def _make_head(self, count: int, size: int) -> bytes:
        tensor = wire.TensorProto(dtype=_DTYPES[self._dtype])
        for size_of_axis in (count, *self._tail):
            tensor.tensor_shape.dim.add().size = size_of_axis
        head = tensor.SerializeToString()
        if self._dtype != "string":
            head += wire.content_head(size)
        return wire.entry_head(self._name, len(head) + size) + head


def _end_to_end(requests: Sequence[Sequence[Column]], counts: Sequence[int]) -> list[Column]:
    """Concatenates the columns of several requests; columns of one row are repeated."""
    total = sum(counts)
    return [
        (
            total,
            b"".join(
                [
                    content if rows == n else content * n
                    for (rows, content), n in zip(columns, counts, strict=True)
                ]
            ),
        )
        for columns in zip(*requests, strict=True)
    ]


def read_output(response: Any, name: str, count: int) -> npt.NDArray[np.float32]:
    """One float output ``[count]`` of a `PredictResponse`, in any encoding of the server.

    Raises:
        ServingError: The output is missing, of another type or of another length.
    """
    tensor = response.outputs.get(name)
    if tensor is None:
        raise ServingError(
            f"the server's answer has no output {name!r}, only {sorted(response.outputs)}: is "
            "this a ranker?",
            "INTERNAL",
        )
    dims = tensor.tensor_shape.dim
    if tensor.dtype != wire.DT_FLOAT or len(dims) != 1 or dims[0].size != count:
        shape = [dim.size for dim in dims]
        raise ServingError(
            f"output {name!r} should be float32 [{count}], received dtype {tensor.dtype} and "
            f"shape {shape}",
            "INTERNAL",
        )
    content = tensor.tensor_content or tensor.float_val
    if len(content) != 4 * count:
        raise ServingError(
            f"output {name!r} should hold {count} values, received {len(content) / 4:g}", "INTERNAL"
        )
    return np.frombuffer(content, "<f4")
