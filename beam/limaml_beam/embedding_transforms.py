"""Transforms of the embedding job: prediction logs to tables, and rows carried over from the previous generation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics

from limaml_beam import embedding_tables as tables
from limaml_beam.adapter import REFUSED, Outputs, read_log
from limaml_beam.record_batches import DEAD_LETTERS, DIGEST_BYTES, NAMESPACE, digest

KEYS = "keys"


class ToTables(beam.DoFn):  # type: ignore[misc]
    """PredictionLogs to tables of embeddings.

    Outputs: tables of embeddings; `DEAD_LETTERS`: tables of refused records; `KEYS`: digests of the task keys, joined.
    """

    def __init__(self, model_version: int, generation: str) -> None:
        self._model_version = model_version
        self._generation = generation
        self._embedded = Metrics.counter(NAMESPACE, "tasks_embedded")
        self._dead = {reason: Metrics.counter(NAMESPACE, f"dead_{reason}") for reason in (tables.UNDECODABLE, tables.NOT_FINITE)}

    def process(self, log: Any) -> Iterator[object]:
        """Splits one batch into good rows and dead letters."""
        records, outputs = read_log(log)
        refused = outputs["sample_count"][:, 0] == REFUSED
        finite = np.isfinite(outputs["meta_embedding"]).all(axis=1)
        good = np.flatnonzero(~refused & finite)
        if good.size:
            keys = [key.decode() for key in outputs["task_key"][good, 0]]
            self._embedded.inc(len(keys))
            yield self._table(keys, [records[i] for i in good], outputs, good)
            yield beam.pvalue.TaggedOutput(KEYS, b"".join(map(key_digest, keys)))
        if good.size < len(records):
            yield beam.pvalue.TaggedOutput(DEAD_LETTERS, self._dead_letters(records, outputs, refused, finite))

    def _table(self, keys: list[str], records: list[bytes], outputs: Outputs, rows: Any) -> pa.Table:
        return tables.embeddings_table(
            keys=keys,
            embeddings=outputs["meta_embedding"][rows],
            timestamps=outputs["last_timestamp"][rows, 0],
            sample_counts=outputs["sample_count"][rows, 0],
            losses=(outputs["loss_before"][rows, 0], outputs["loss_after"][rows, 0]),
            digests=[digest(record) for record in records],
            model_version=self._model_version,
            generation=self._generation,
        )

    def _dead_letters(self, records: list[bytes], outputs: Outputs, refused: Any, finite: Any) -> pa.Table:
        bad = np.flatnonzero(refused | ~finite)
        reasons = [tables.UNDECODABLE if refused[i] else tables.NOT_FINITE for i in bad]
        for reason in reasons:
            self._dead[reason].inc()
        details = [outputs["task_key"][i, 0].decode(errors="replace") for i in bad]
        return tables.dead_letter_table(reasons, details, [records[i] for i in bad])


class CarryOver(beam.DoFn):  # type: ignore[misc]
    """Files of the previous generation to tables of the rows that stay.

    A row stays where today's record of its task is the same, bit by bit; or, where the task has no record today (it left the window),
    while its last interaction is at or after `oldest`.

    Args:
        generation: Name that carried rows get.
        oldest: Milliseconds.
    """

    def __init__(self, generation: str, oldest: int) -> None:
        self._generation = generation
        self._oldest = oldest
        self._counters = {name: Metrics.counter(NAMESPACE, f"tasks_{name}") for name in ("carried", "kept_outside_window", "aged_out")}

    def process(self, path: str, unchanged: Iterable[bytes], keys: Iterable[bytes]) -> Iterator[pa.Table]:
        """Filters one file, column by column."""
        same = pa.array(sorted(set(_split(unchanged))), pa.binary())
        today = set(_split(keys))
        with FileSystems.open(path) as file:
            for batch in pq.ParquetFile(file).iter_batches(65_536):
                carried = pc.is_in(batch["record_digest"], same).to_numpy(zero_copy_only=False)
                present = np.fromiter((key_digest(key) in today for key in batch["task_key"].to_pylist()), bool, len(batch))
                left = ~carried & ~present
                young = batch["event_timestamp"].cast(pa.int64()).to_numpy() >= self._oldest
                self._counters["carried"].inc(int(carried.sum()))
                self._counters["kept_outside_window"].inc(int((left & young).sum()))
                self._counters["aged_out"].inc(int((left & ~young).sum()))
                table = pa.Table.from_batches([batch]).filter(pa.array(carried | (left & young)))
                if len(table):
                    column = tables.EMBEDDINGS_SCHEMA.get_field_index("generation")
                    names = pa.repeat(pa.scalar(self._generation), len(table))
                    yield table.set_column(column, tables.EMBEDDINGS_SCHEMA.field(column), names).cast(tables.EMBEDDINGS_SCHEMA)


def key_digest(key: str) -> bytes:
    """16 bytes that stand for a task key."""
    return hashlib.blake2b(key.encode(), digest_size=DIGEST_BYTES).digest()


def _split(joined: Iterable[bytes]) -> Iterator[bytes]:
    for part in joined:
        for start in range(0, len(part), DIGEST_BYTES):
            yield part[start : start + DIGEST_BYTES]
