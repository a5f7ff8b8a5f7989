"""The adapter on packed batches of task records, behind the interface of a session.

A task that the graph refuses does not fail its batch: the batch is halved until the task is alone.
It is returned with ``sample_count`` `REFUSED` and the reason instead of the task key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from limaml_beam.generate_embeddings.record_batches import unpack
from tfrec_limaml import manifest as names
from tfrec_limaml.manifest import (
    NESTED_OUTPUTS,
    VARIANCE,
)

REFUSED = -1
Outputs = dict[str, npt.NDArray[Any]]


class PackedAdapter:
    """Replaces the session that tfx-bsl expects: runs the adapter on packed batches.

    Args:
        call: Serialized task records to the adapter's outputs, each ``[n, ...]``.
        embedding_dim: Width ``D``.
        refusal: What `call` raises on records that the graph cannot take.
        nested: Whether `call` gives `NESTED_OUTPUTS` too.
        with_variance: Whether `call` gives variances too.
        keep_alive: Owner of the graph that `call` runs.
    """

    def __init__(
        self,
        call: Callable[[Sequence[bytes]], Outputs],
        embedding_dim: int,
        refusal: type[Exception],
        nested: bool = False,
        with_variance: bool = False,
        keep_alive: object = None,
    ) -> None:
        self._call = call
        self._embedding_dim = embedding_dim
        self._refusal = refusal
        self._nested = nested
        self._with_variance = with_variance
        self._keep_alive = keep_alive

    def run(self, fetches: Mapping[str, str], feed_dict: Mapping[str, Sequence[bytes]]) -> Outputs:
        """Adapts packed batches; every output is an array of one array per batch."""
        (batches,) = feed_dict.values()
        results = [self.adapt(unpack(batch)) for batch in batches]
        return {name: _array_of([result[name] for result in results]) for name in fetches}

    def adapt(self, records: Sequence[bytes]) -> Outputs:
        """Outputs ``[n, ...]`` of all records; ``sample_count`` is `REFUSED` for refused ones."""
        try:
            return self._call(records)
        except self._refusal as error:
            if len(records) == 1:
                return self._refused(str(error))
        half = len(records) // 2
        first, second = self.adapt(records[:half]), self.adapt(records[half:])
        return {name: _concatenate(name, first[name], second[name]) for name in first}

    def _refused(self, reason: str) -> Outputs:
        zero, dim = np.zeros((1, 1), np.float32), self._embedding_dim
        nested = {
            names.NESTED_DEFINITION: np.zeros((1, 0), np.int64),
            names.NESTED_TASK_KEY: np.zeros((1, 0), object),
            names.NESTED_META_EMBEDDING: np.zeros((1, 0, dim), np.float32),
            names.NESTED_SAMPLE_COUNT: np.zeros((1, 0), np.int64),
            names.NESTED_LAST_TIMESTAMP: np.zeros((1, 0), np.int64),
        }
        return {
            names.TASK_KEY: np.array([[_first_cause(reason).encode()]], object),
            names.META_EMBEDDING: np.zeros((1, dim), np.float32),
            names.SAMPLE_COUNT: np.array([[REFUSED]], np.int64),
            names.LAST_TIMESTAMP: np.zeros((1, 1), np.int64),
            names.LOSS_BEFORE: zero,
            names.LOSS_AFTER: zero,
            **(nested if self._nested else {}),
            **({VARIANCE: np.zeros((1, dim), np.float32)} if self._with_variance else {}),
        }


def _concatenate(name: str, first: npt.NDArray[Any], second: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Outputs of two batches as one; nested ones are padded to the same number of subtasks."""
    if name in NESTED_OUTPUTS:
        width = max(first.shape[1], second.shape[1])
        padding: Any = (
            -1 if name == names.NESTED_DEFINITION else b"" if first.dtype == object else 0
        )
        first, second = (
            np.pad(
                part,
                [(0, 0), (0, width - part.shape[1]), *[(0, 0)] * (part.ndim - 2)],
                constant_values=padding,
            )
            for part in (first, second)
        )
    return np.concatenate([first, second])


def _first_cause(message: str) -> str:
    """The line with the reason of a TensorFlow error: the one before its list of nodes."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    nodes = [i for i, line in enumerate(lines) if line.startswith("[[")]
    index = nodes[0] - 1 if nodes and nodes[0] > 0 else 0
    return lines[index][:500] if lines else "no reason given"


def _array_of(arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """An object array of arrays: batches may differ in length."""
    holder = np.empty(len(arrays), object)
    for i, array in enumerate(arrays):
        holder[i] = array
    return holder
