"""Loads the job's Parquet files into the embedding store, as one generation."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from limaml_beam.generate_embeddings import tables
from limaml_beam.generate_embeddings.options import EmbedOptions
from limaml_beam.generate_embeddings.report import read_report
from tfrec_limaml.errors import ErasedMeanwhileError, LimamlError
from tfrec_limaml.paths import path_text
from tfrec_limaml.store import EmbeddingStore, Generation
from tfrec_limaml.store.base import GRACE_SECONDS

_LOGGER = logging.getLogger(__name__)
#: Times that an output is loaded if each one meets an erasure.
_ATTEMPTS = 5


def publish(
    folder: str | os.PathLike[str],
    store: EmbeddingStore,
    column: str = "embedding",
    keep: int = EmbedOptions.keep_generations,
) -> Generation:
    """Loads a finished output folder into the store and makes it current.

    Args:
        folder: Output of `generate`.
        store: The store to load into.
        column: The column to load: ``"embedding"``, or ``"variance"`` into a separate store.
        keep: Number of generations that stay in the store; see `EmbedOptions.keep_generations`.

    Returns:
        The published generation. Publishing the current generation again changes nothing.

    Raises:
        StoreError: The store refused, its number of task keys differs from the report's, or keys
            were erased in every attempt. Readers still see the previous generation.
        LimamlError: The folder is not a finished output, or a file disagrees with its report.
    """
    folder = path_text(folder, "folder")
    report = read_report(folder)
    version, identifier = report["model_version"], report["generation"]
    current = store.current(version)
    # Erasures may have removed rows since.
    if current is not None and current.identifier == identifier:
        return current
    generation = _load_without_erased(folder, report, store, column)
    store.prune(version, keep, GRACE_SECONDS)
    return generation


def _load_without_erased(
    folder: str, report: dict[str, Any], store: EmbeddingStore, column: str
) -> Generation:
    """Loads the output, and again without keys that were erased meanwhile.

    The last time, new erasures wait if the store can make them. Written data are not changed
    instead: LMDB leaves the bytes of deleted keys in its pages.
    """
    for attempt in range(1, _ATTEMPTS):
        try:
            return _load(folder, report, store, column)
        except ErasedMeanwhileError:
            _LOGGER.warning(
                "keys were erased while generation %r was loaded: loading it again without them "
                "(attempt %d of %d)",
                *(report["generation"], attempt + 1, _ATTEMPTS),
            )
    try:
        with getattr(store, "without_erasures", contextlib.nullcontext)():
            return _load(folder, report, store, column)
    except ErasedMeanwhileError as error:
        raise ErasedMeanwhileError(
            f"keys were erased during each of {_ATTEMPTS} attempts to load generation "
            f"{report['generation']!r}: it is not published; run the same command again after the "
            "erasures, and erase many keys at once with `limaml erase --keys-file`"
        ) from error


def _load(folder: str, report: dict[str, Any], store: EmbeddingStore, column: str) -> Generation:
    rows, dim = report["rows"], report["embedding_dim"]
    progress = tqdm(total=rows, desc="publish", unit=" embeddings", mininterval=1.0, disable=None)
    writer = store.new_generation(
        report["model_version"], dim, report["generation"], report.get("manifest_digest", "")
    )
    with progress, writer:
        for batch in tables.read_batches(tables.embedding_files(folder), ["task_key", column]):
            matrix = tables.embedding_matrix(batch[column])
            if len(batch) and matrix.shape[1] != dim:
                raise LimamlError(
                    f"{folder} holds embeddings of width {matrix.shape[1]}, its report says {dim}; "
                    "run the embedding job again"
                )
            writer.put(batch["task_key"].to_pylist(), matrix)
            progress.update(len(batch))
        return writer.publish(rows, functools.partial(event_times, folder))


def event_times(folder: str, keys: Sequence[str]) -> npt.NDArray[np.int64]:
    """The times up to which an output covers some tasks ``[n]``, in milliseconds.

    That is each task's last interaction. A task without a row gets the time of the oldest row,
    because older interactions have left the window.
    """
    value_set = pa.array(keys, pa.string())
    by_key: dict[str, int] = {}
    oldest = None
    batches = tables.read_batches(tables.embedding_files(folder), ["task_key", "event_timestamp"])
    for batch in batches:
        if len(batch):
            times = batch["event_timestamp"].cast(pa.int64())
            first = pc.min(times).as_py()
            oldest = first if oldest is None else min(oldest, first)
            mask = pc.is_in(batch["task_key"], value_set=value_set)
            rows = batch["task_key"].filter(mask), times.filter(mask)
            by_key |= zip(*(column.to_pylist() for column in rows), strict=True)
    return np.array([by_key.get(key, oldest or 0) for key in keys], np.int64)
