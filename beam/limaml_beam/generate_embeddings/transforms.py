"""Transforms of the embedding job: prediction logs to tables, and carried-over rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.utils.shared import Shared

from limaml_beam.generate_embeddings import tables
from limaml_beam.generate_embeddings.adapter import read_log
from limaml_beam.generate_embeddings.counts import tagged_counts
from limaml_beam.generate_embeddings.digests import DigestSet, as_array, digest
from limaml_beam.generate_embeddings.packed_adapter import REFUSED, Outputs
from tfrec_limaml import manifest as names
from tfrec_limaml.manifest import VARIANCE, Manifest
from tfrec_limaml.schema.task_keys import fits, key_text
from tfrec_limaml.store.erasure import key_digest

KEYS = "keys"


class ToTables(beam.DoFn):  # type: ignore[misc]
    """PredictionLogs to tables of embeddings.

    Outputs: tables of embeddings, those of a batch's tasks and those of its nested tasks;
    `tables.DEAD_LETTERS`: tables of refused records; `KEYS`: digests of the task keys, joined;
    `COUNTS`.

    Args:
        manifest: The manifest of the adapter.
        generation: Name of the run.
        definition: The records' task definition; the manifest's by default.
    """

    def __init__(self, manifest: Manifest, generation: str, definition: str | None = None) -> None:
        self._definition = definition or manifest.task_definition
        self._nested_definitions = manifest.nested_definitions
        self._model_version = manifest.model_version
        self._generation = generation

    def process(self, log: Any) -> Iterator[object]:
        """Splits one batch into good rows and dead letters."""
        return self.split(*read_log(log))

    def split(self, records: list[bytes], outputs: Outputs) -> Iterator[object]:
        """`process`, of records and the outputs of the adapter."""
        refused = outputs[names.SAMPLE_COUNT][:, 0] == REFUSED
        finite = np.asarray(np.isfinite(outputs[names.META_EMBEDDING]).all(axis=1))
        if VARIANCE in outputs:
            finite &= np.isfinite(outputs[VARIANCE]).all(axis=1)
        if self._nested_definitions:
            finite &= np.isfinite(outputs[names.NESTED_META_EMBEDDING]).all(axis=(1, 2))
        storable = np.array([_storable(key) for key in outputs[names.TASK_KEY][:, 0]], bool)
        good = np.flatnonzero(~refused & finite & storable)
        nested, unstorable = 0, 0
        if good.size:
            digests = [digest(records[i]) for i in good]
            results = [self._table(outputs, good, digests)]
            if self._nested_definitions:
                table, unstorable = self._nested_table(outputs, good, digests)
                results.append(table)
                nested = len(table)
            for table in results:
                yield table
                yield beam.pvalue.TaggedOutput(
                    KEYS, b"".join(map(key_digest, table["task_key"].to_pylist()))
                )
        reasons = np.select(
            [refused, ~finite, ~storable],
            [tables.UNDECODABLE, tables.NOT_FINITE, tables.UNSTORABLE_KEY],
            "",
        )
        if good.size < len(records):
            yield beam.pvalue.TaggedOutput(
                tables.DEAD_LETTERS, _dead_letters(records, outputs, reasons)
            )
        yield tagged_counts(
            tasks_embedded=good.size,
            nested_embedded=nested,
            nested_unstorable_key=unstorable,
            **{
                f"dead_{reason}": int((reasons == reason).sum())
                for reason in (tables.UNDECODABLE, tables.NOT_FINITE, tables.UNSTORABLE_KEY)
            },
        )

    def _table(self, outputs: Outputs, rows: Any, digests: list[bytes]) -> pa.Table:
        return tables.embeddings_table(
            keys=[key.decode() for key in outputs[names.TASK_KEY][rows, 0]],
            definitions=[self._definition] * len(rows),
            embeddings=outputs[names.META_EMBEDDING][rows],
            timestamps=outputs[names.LAST_TIMESTAMP][rows, 0],
            sample_counts=outputs[names.SAMPLE_COUNT][rows, 0],
            losses=(outputs[names.LOSS_BEFORE][rows, 0], outputs[names.LOSS_AFTER][rows, 0]),
            digests=digests,
            model_version=self._model_version,
            generation=self._generation,
            variances=outputs[VARIANCE][rows] if VARIANCE in outputs else None,
        )

    def _nested_table(
        self, outputs: Outputs, rows: Any, digests: list[bytes]
    ) -> tuple[pa.Table, int]:
        """The subtasks of the good tasks, with the digests of their records.

        Subtasks whose key no store can hold are left out; the second result is their number.
        """
        definition = outputs[names.NESTED_DEFINITION][rows]
        task, position = np.nonzero(definition >= 0)
        keys = outputs[names.NESTED_TASK_KEY][rows][task, position]
        storable = np.array([_storable(key) for key in keys], bool)
        task, position, keys = task[storable], position[storable], keys[storable]
        table = tables.embeddings_table(
            keys=[key.decode() for key in keys],
            definitions=[self._nested_definitions[i] for i in definition[task, position]],
            embeddings=outputs[names.NESTED_META_EMBEDDING][rows][task, position],
            timestamps=outputs[names.NESTED_LAST_TIMESTAMP][rows][task, position],
            sample_counts=outputs[names.NESTED_SAMPLE_COUNT][rows][task, position],
            losses=None,
            digests=[digests[i] for i in task],
            model_version=self._model_version,
            generation=self._generation,
        )
        return table, int((~storable).sum())


class CarryOver(beam.DoFn):  # type: ignore[misc]
    """Files of the previous generation to tables of the rows that stay, and `COUNTS`.

    A row stays if today's record of its task has the same bytes, or if the task has no record today
    (it left the window) and its last interaction is at or after `oldest`.

    Args:
        definition: The records' task definition: its tasks are counted separately from nested ones.
        generation: Name that carried rows get.
        oldest: Milliseconds.
        with_variance: Whether rows have posterior variances.
    """

    def __init__(self, definition: str, generation: str, oldest: int, with_variance: bool) -> None:
        self._definition = definition
        self._generation = generation
        self._oldest = oldest
        self._schema = tables.embeddings_schema(with_variance)
        self._shared = Shared(), Shared()
        self._digest_sets: tuple[DigestSet, DigestSet] | None = None

    def process(
        self, path: str, unchanged: Iterable[bytes], keys: Iterable[bytes]
    ) -> Iterator[object]:
        """Filters one file, column by column."""
        # Side inputs of a batch job are the same for all files. All threads of a process share the
        # sets.
        if self._digest_sets is None:
            self._digest_sets = (
                self._shared[0].acquire(lambda: DigestSet(unchanged)),
                self._shared[1].acquire(lambda: DigestSet(keys)),
            )
        unchanged_set, key_set = self._digest_sets
        for batch in tables.read_batches([path]):
            carried = unchanged_set.contains(tables.digest_column(batch))
            absent = ~carried & ~key_set.contains(
                as_array(b"".join(map(key_digest, batch["task_key"].to_pylist())))
            )
            recent = batch["event_timestamp"].cast(pa.int64()).to_numpy() >= self._oldest
            retained = absent & recent
            if (carried | retained).any():
                yield self._with_generation(batch.filter(pa.array(carried | retained)))
            is_task = pc.equal(batch["task_definition"], self._definition).to_numpy(
                zero_copy_only=False
            )
            yield tagged_counts(
                tasks_carried=int((carried & is_task).sum()),
                tasks_kept_outside_window=int((retained & is_task).sum()),
                tasks_aged_out=int((absent & ~recent & is_task).sum()),
                nested_carried=int((carried & ~is_task).sum()),
                nested_kept_outside_window=int((retained & ~is_task).sum()),
            )

    def _with_generation(self, batch: pa.RecordBatch) -> pa.Table:
        names = pa.repeat(pa.scalar(self._generation), len(batch))
        column = self._schema.get_field_index("generation")
        table = pa.Table.from_batches([batch]).select(self._schema.names)
        return table.set_column(column, self._schema.field(column), names).cast(self._schema)


def _storable(key: bytes) -> bool:
    """Whether a store can hold a task key."""
    text = key_text(key)
    return text is not None and fits(text)


def _dead_letters(
    records: list[bytes], outputs: Outputs, reasons: npt.NDArray[np.str_]
) -> pa.Table:
    bad = np.flatnonzero(reasons != "")
    details = [outputs[names.TASK_KEY][i, 0].decode(errors="replace") for i in bad]
    return tables.dead_letter_table(reasons[bad].tolist(), details, [records[i] for i in bad])
