"""``limaml update``: new interactions change the embeddings of their members within seconds.

Only the affected tasks are read, adapted and upserted. State, in the work folder of `limaml
refresh`:

    <work>/update.lock               held by one updater, until its process ends
    <work>/tasks/update.json         how the last refresh built its records
    <work>/updates/rows/             rows of the tasks that updates affected
    <work>/updates/dead_letter/      rows that could not be used, with their reasons

The store is written before the state: an update that is killed between the two repeats its work.
Nothing is lost, and nothing is applied twice, because rows are identified by their content.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from limaml_beam.build_tasks.inputs import Inputs
from limaml_beam.build_tasks.kept_rows import KeptRows
from limaml_beam.build_tasks.prepare import sources
from limaml_beam.build_tasks.settings import TaskSettings, date_fields
from limaml_beam.erasure.work_tombstones import erased_digests
from limaml_beam.generate_embeddings import tables
from limaml_beam.generate_embeddings.artefacts import manifest_digest, read_manifest, read_schema
from limaml_beam.refresh.outputs import is_published
from limaml_beam.rows import columnar
from limaml_beam.rows.columnar import TASK, TIME
from limaml_beam.update import defaults
from limaml_beam.update.adapting import OtherModelError, TaskAdapter
from limaml_beam.update.dead_letters import write_letters
from limaml_beam.update.merging import merge_rows, recent_records, without_erased_others
from limaml_beam.update.messages import Message
from limaml_beam.update.new_rows import NewRows, read_messages, read_new
from limaml_beam.update.plan import read_plan
from limaml_beam.update.state import UpdateState, state_folder
from limaml_beam.update.state_entries import prefix_of
from limaml_beam.update.turn_offsets import TurnOffsets, current_generation
from tfrec_limaml.datasets.text_format import text_format
from tfrec_limaml.errors import LimamlError, NotCurrentError
from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.store import EmbeddingStore, Upserted
from tfrec_limaml.tasks.folder import DATA_CARD_FILE

_LONGEST_SKEW_SECONDS = 365 * 86_400.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Update:
    """Settings of an updater.

    Attributes:
        work: Work folder of a refresh with ``keep_rows``.
        store: The store whose current generation is updated.
        adapter: The exported adapter, ``EXPORT/adapter/<version>``; None for that of the last
            refresh.
        window_end: End of the window, ISO 8601; None for now.
        clock_skew_seconds: Rows at most this many seconds in the future are used.
        expire_seconds: Seconds without new rows after which a stream checks for updated tasks whose
            rows have left the window. Every update checks for them too.
    """

    work: Path
    store: EmbeddingStore
    adapter: str | None = None
    window_end: str | None = None
    clock_skew_seconds: float = defaults.CLOCK_SKEW_SECONDS
    expire_seconds: float = defaults.EXPIRE_SECONDS

    def __post_init__(self) -> None:
        if not self.expire_seconds > 0:
            raise LimamlError(f"expire_seconds must be positive, received {self.expire_seconds}")
        if not 0 <= self.clock_skew_seconds <= _LONGEST_SKEW_SECONDS:
            raise LimamlError(
                "clock_skew_seconds must not be negative, nor longer than a year, received "
                f"{self.clock_skew_seconds}"
            )


class Updater:
    """Updates one work folder and store. The model is loaded once for all calls.

    Examples:
        >>> updater = Updater(Update(work=Path("work"), store=store))     # doctest: +SKIP
        >>> with exclusive(Path("work"), UPDATE):                         # doctest: +SKIP
        ...     result = updater.update(["new/clicks.parquet"])

    Raises:
        LimamlError: The work folder does not hold the records of a refresh with ``keep_rows``, or
            the adapter's manifest cannot be read.
    """

    def __init__(self, settings: Update) -> None:
        self._settings = settings
        self._plan = read_plan(settings.work / "tasks")
        self._adapter_path = settings.adapter or self._plan.adapter
        self._digest = manifest_digest(self._adapter_path)
        self._manifest = read_manifest(self._adapter_path)
        self._definitions = (self._manifest.task_definition, *self._manifest.joint_definitions)
        self._tasks = settings.work / "tasks"
        self._task_adapter = TaskAdapter(self._adapter_path, self._manifest, self._digest)

    def load(self) -> None:
        """Loads the model; otherwise the first update loads it."""
        self._task_adapter.load()

    def is_replaced(self) -> bool:
        """Whether another export has taken the place of this updater's adapter."""
        return manifest_digest(self._adapter_path) != self._digest

    def update(self, patterns: Sequence[str]) -> dict[str, Any]:
        """Adds new interactions; call it within `limaml_beam.io.folder_lock.exclusive`.

        Args:
            patterns: Files, folders or patterns of interactions.

        Returns:
            Counts of rows, tasks, embeddings and dead letters; the ``seconds`` taken; and
            ``lag_seconds``, the time from interactions until now, as ``p50`` and ``p99``.

        Raises:
            LimamlError: There is no such file, the store did not answer, or its current generation
                was made of other records or by another model. Nothing is lost: call it again.
        """
        options = self._plan.options
        text = text_format(options.delimiter, options.null_words, options.quotes)

        def read(schema: Schema, settings: TaskSettings) -> NewRows:
            inputs = Inputs.find(schema, patterns, sources(options)[2], text)
            return read_new(inputs, schema, settings, self._tasks)

        return self._run(read)

    def update_messages(self, messages: Sequence[Message]) -> dict[str, Any]:
        """As `update`, for messages of a topic."""
        options, version = self._plan.options, self._manifest.model_version
        text = text_format(options.delimiter, options.null_words, options.quotes)

        def read(schema: Schema, settings: TaskSettings) -> NewRows:
            tables = Inputs.tables_of(schema, sources(options)[2], text)
            return read_messages(messages, tables, schema, settings, self._tasks, version)

        return self._run(read)

    def update_due(self) -> dict[str, Any]:
        """As `update`, without new rows: adapts the tasks that lost rows which left the window."""
        return self._run(lambda schema, settings: NewRows())

    def _run(self, read: Callable[[Schema, TaskSettings], NewRows]) -> dict[str, Any]:
        began = time.time()
        schema = read_schema(str(self._tasks))
        self._manifest.check_schema(schema)
        self._generation()  # before anything is read
        state = UpdateState(state_folder(self._settings.work))
        with contextlib.closing(state):
            new_rows, rows, settings = self._read(read, schema, state)
            records = [
                recent_records(rows.get(d), schema, settings, d)[1] for d in self._definitions
            ]
            result = self._task_adapter.adapt(records, self._look_up(state, settings))
            upserted = self._upsert(result.tables)
            prefixes = schema.key_prefixes(self._definitions)
            by_prefix = {prefixes[d]: table for d, table in rows.items()}
            state.put(by_prefix, settings.recent_start, result.turns)
        new_rows.letters += result.letters
        write_letters(self._settings.work, new_rows.letters)
        return {
            **new_rows.report(schema),
            "tasks": sum(map(len, records)),
            "left_window": new_rows.due,
            "upserted": upserted.applied,
            "ignored_as_older": upserted.older,
            "erased": upserted.erased,
            "dead_letters": len(new_rows.letters),
            "seconds": round(time.time() - began, 3),
            "lag_seconds": _lag(new_rows),
        }

    def _read(
        self,
        read: Callable[[Schema, TaskSettings], NewRows],
        schema: Schema,
        state: UpdateState,
    ) -> tuple[NewRows, dict[str, pa.Table], TaskSettings]:
        """New rows, and by definition all rows of the tasks that gained or lost a row."""
        settings = self._task_settings()
        new_rows = read(schema, settings)
        return new_rows, self._merge(new_rows, schema, settings, state), settings

    def _generation(self) -> str:
        """The current generation of the store.

        Raises:
            OtherModelError: The generation was made by another model than this updater's.
            NotCurrentError: The generation was not made of the records of the work folder, and no
                refresh is about to publish one that was.
        """
        work, store = self._settings.work, self._settings.store
        version = self._manifest.model_version
        current, plan = current_generation(store, version), read_plan(self._tasks)
        models = {g.identifier: g.model for g in store.generations(version)}
        is_next = plan.generation not in models and not is_published(work, plan.generation)
        if models.get(current, "") not in ("", self._digest):
            raise OtherModelError(
                f"generation {current!r} was made by another model with the same version number, "
                f"{version}, than {self._adapter_path}; run `limaml refresh` with this export"
            )
        if current == plan.generation or (is_next and current == plan.replaced):
            return current
        raise NotCurrentError(
            f"the rows in {self._tasks} are those of generation {plan.generation!r}, but "
            f"{current!r} is current in this store: was it rolled back, or is it another store? "
            "Nothing was read; run `limaml refresh` first"
        )

    def _task_settings(self) -> TaskSettings:
        """The settings of the last refresh, with a window that ends now."""
        options = self._plan.options
        card = json.loads((self._tasks / DATA_CARD_FILE).read_text(encoding="utf-8"))["settings"]
        end, days = self._settings.window_end, options.window_days
        if end is None:
            skew = dt.timedelta(seconds=self._settings.clock_skew_seconds)
            end = (dt.datetime.now(dt.UTC) + skew).isoformat()
            if days is not None:  # the window begins where it would without skew
                days += skew / dt.timedelta(days=1)
        dates = date_fields(
            read_schema(str(self._tasks)),
            window_days=days,
            recent_only=True,
            window_end=end,
        )
        return TaskSettings(
            definitions=self._definitions,
            max_samples=options.max_samples,
            max_query=options.max_query,
            shards=card["shards"],
            prior=card["prior"],
            erased=erased_digests(self._settings.work, self._settings.store),
            **dates,
        )

    def _merge(
        self, new_rows: NewRows, schema: Schema, settings: TaskSettings, state: UpdateState
    ) -> dict[str, pa.Table]:
        """All rows of the affected tasks, by definition."""
        due, rows = state.due(settings.recent_start), {}
        new_rows.due = len(due)
        for definition, prefix in schema.key_prefixes(settings.definitions).items():
            table = new_rows.tables.get(definition)
            due_keys = [key.removeprefix(prefix) for key in due if prefix_of(key) == prefix]
            distinct = [] if table is None else columnar.codes_of(table[TASK])[1].to_pylist()
            affected = list(dict.fromkeys([*distinct, *due_keys]))
            nightly = KeptRows(self._tasks / definition, settings.shards).read(affected)
            updated = state.read(affected, nightly[0].schema if nightly else None, prefix)
            old_rows = without_erased_others([*nightly, *updated], schema, settings, definition)
            merged_rows, duplicates = merge_rows(old_rows, table, schema, settings, due_keys)
            if merged_rows is not None:
                rows[definition] = merged_rows
            if definition == settings.definitions[0]:  # a duplicate is one in both
                new_rows.skip("duplicate", duplicates)
        return rows

    def _look_up(self, state: UpdateState, settings: TaskSettings) -> TurnOffsets:
        store = self._settings.store
        return TurnOffsets(self._settings.work, self._manifest, store, state, settings.erased)

    def _upsert(self, embeddings: list[pa.Table]) -> Upserted:
        """Upserts into the current generation; again if a refresh publishes the next meanwhile."""
        if not embeddings:
            return Upserted(applied=0, older=0, erased=0)
        table = pa.concat_tables(embeddings)
        while True:
            generation = self._generation()  # raises if it is not one of this work folder
            with contextlib.suppress(NotCurrentError):
                return self._settings.store.upsert(
                    self._manifest.model_version,
                    generation,
                    table["task_key"].to_pylist(),
                    tables.embedding_matrix(table["embedding"]),
                    table["event_timestamp"].cast(pa.int64()).to_pylist(),
                )


def _lag(new_rows: NewRows) -> dict[str, float] | None:
    """Seconds from the valid rows' times until now; None if no row was used."""
    if not new_rows.tables or not new_rows.used:
        return None
    ages = time.time() - columnar.to_numpy(next(iter(new_rows.tables.values()))[TIME]) / 1000
    median, p99 = np.quantile(ages, [0.5, 0.99])
    return {"p50": round(float(median), 3), "p99": round(float(p99), 3)}
