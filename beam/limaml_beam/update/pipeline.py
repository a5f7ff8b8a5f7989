"""``limaml stream --from-kafka`` as an unbounded Beam pipeline, for an engine such as Flink.

Kafka's offsets, waiting messages and timers are state of the engine: after the death of a worker it
continues from its last checkpoint. Messages that it then delivers again are duplicates for
`Updater`, which identifies rows by their content: every message counts once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.coders import BooleanCoder, BytesCoder
from apache_beam.io.kafka import ReadFromKafka
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import StandardOptions
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import (
    BagStateSpec,
    ReadModifyWriteStateSpec,
    TimerSpec,
    on_timer,
)

from limaml_beam.generate_embeddings.artefacts import read_manifest, read_schema
from limaml_beam.io.pipeline_options import new_pipeline, use_options
from limaml_beam.update import defaults
from limaml_beam.update.job import Update, Updater
from limaml_beam.update.kafka_settings import check_batches
from limaml_beam.update.messages import Message
from limaml_beam.update.patience import PatientUpdater
from limaml_beam.update.plan import read_plan
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.schema.task_keys import task_key
from tfrec_limaml.store import EmbeddingStore, open_store

_LOG = logging.getLogger(__name__)
#: Counters of the pipeline, and the counts of a report that each adds up.
_VALUES = {
    "values_filled": "filled",
    "values_unreadable": "unreadable",
    "unknown_keys": "unknown_keys",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class KafkaPipeline:
    """Settings of a pipeline.

    Attributes:
        servers, topic, group, client: As in `KafkaStream`; client settings are those of Kafka's
            Java client.
        store: Address of the store.
        update: Further settings of the updater, by name; its work folder must be visible to all
            workers.
        batch_messages: Maximum number of messages in one micro-batch.
        batch_seconds: How long a member's messages wait after the first one for more, and then the
            batch for other members.
        expansion_service: ``HOST:PORT`` of a running one; None lets Beam start its own.
    """

    servers: str
    topic: str
    store: str
    update: Mapping[str, Any]
    group: str = defaults.GROUP
    batch_messages: int = defaults.BATCH_MESSAGES
    batch_seconds: float = defaults.BATCH_SECONDS
    client: Mapping[str, str] = dataclasses.field(default_factory=dict)
    expansion_service: str | None = None


def run_pipeline(settings: KafkaPipeline, flags: Sequence[str]) -> None:
    """Runs the pipeline until it is cancelled.

    Args:
        settings: The settings.
        flags: Beam options: the runner and its own.

    Raises:
        LimamlError: Settings out of range, a work folder without rows, or an address that is not
            one of a store.
    """
    check_batches(settings.batch_seconds, settings.batch_messages)
    columns = _key_columns(Path(settings.update["work"]))
    with contextlib.closing(open_store(settings.store)) as store:
        _update_of(settings.update, store)
    options = use_options(flags)
    options.view_as(StandardOptions).streaming = True
    pipeline = new_pipeline(options)
    _build(pipeline, settings, columns)
    pipeline.run().wait_until_finish()


def _build(pipeline: beam.Pipeline, settings: KafkaPipeline, columns: Sequence[str]) -> None:
    """The steps from Kafka to the store."""
    consumer = {
        "auto.offset.reset": "earliest",
        **settings.client,
        "bootstrap.servers": settings.servers,
        "group.id": settings.group,
    }
    (
        pipeline
        | "Read"
        >> ReadFromKafka(
            consumer,
            [settings.topic],
            commit_offset_in_finalize=True,
            expansion_service=settings.expansion_service,
        )
        | "ByMember" >> beam.ParDo(ByMember(columns))
        | "Debounce" >> beam.ParDo(Debounce(settings.batch_seconds))
        | "Together" >> beam.Map(_with_one_key).with_output_types(tuple[str, bytes])
        | "Batch"
        >> beam.GroupIntoBatches(
            settings.batch_messages, max_buffering_duration_secs=settings.batch_seconds
        )
        | "Update" >> beam.ParDo(UpdateStore(settings.topic, settings.store, settings.update))
    )


def _update_of(options: Mapping[str, Any], store: EmbeddingStore) -> Update:
    return Update(**{**options, "work": Path(options["work"]), "store": store})


def _key_columns(work: Path) -> tuple[str, ...]:
    manifest = read_manifest(read_plan(work / "tasks").adapter)
    return read_schema(str(work / "tasks")).task_columns(manifest.task_definition)


def _with_one_key(value: bytes) -> tuple[str, bytes]:
    """Gives all values the same key: updates of a work folder run one after another."""
    return "", value


@beam.typehints.with_output_types(tuple[str, bytes])
class ByMember(beam.DoFn):
    """(key, value) of a message -> (task key, value); ``""`` if none can be read."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = list(columns)

    def process(self, message: tuple[bytes | None, bytes | None]) -> Iterator[tuple[str, bytes]]:
        """Reads the key; the updater checks the message itself."""
        value = message[1] or b""
        yield self._key(value), value

    def _key(self, value: bytes) -> str:
        try:
            row = json.loads(value)
            return task_key([row[name] for name in self.columns]) or ""
        except (ValueError, RecursionError, LookupError, TypeError, LimamlError):
            return ""


@beam.typehints.with_output_types(bytes)
class Debounce(beam.DoFn):
    """(task key, value) -> values; those of a member together, some seconds after the first.

    A member who clicks several times meanwhile is adapted once.
    """

    MESSAGES = BagStateSpec("held", BytesCoder())
    WAITING = ReadModifyWriteStateSpec("waiting", BooleanCoder())
    END = TimerSpec("end", TimeDomain.REAL_TIME)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def process(
        self,
        message: tuple[str, bytes],
        messages: Any = beam.DoFn.StateParam(MESSAGES),
        waiting: Any = beam.DoFn.StateParam(WAITING),
        end: Any = beam.DoFn.TimerParam(END),
    ) -> None:
        """Holds a message."""
        messages.add(message[1])
        if not waiting.read():
            waiting.write(True)
            end.set(time.time() + self.seconds)

    @on_timer(END)
    def release(
        self,
        messages: Any = beam.DoFn.StateParam(MESSAGES),
        waiting: Any = beam.DoFn.StateParam(WAITING),
    ) -> Iterator[bytes]:
        """Releases the messages."""
        values = list(messages.read())
        messages.clear()
        waiting.clear()
        yield from values


class UpdateStore(beam.DoFn):
    """Batches of values -> no output; updates the embeddings of their members in the store.

    It waits while the store is unavailable, and so do the steps before it.

    From the first batch on, a timer checks for tasks whose rows left the window. It is one
    real-time timer for all tasks: the window ends now, and `UpdateState` lists the tasks that are
    due.
    """

    EXPIRE = TimerSpec("expire", TimeDomain.REAL_TIME)

    def __init__(self, topic: str, store: str, update: Mapping[str, Any]) -> None:
        self.topic, self.address, self.update = topic, store, dict(update)

    def setup(self) -> None:
        """Opens the store and loads the model."""
        self._store = open_store(self.address)
        settings = _update_of(self.update, self._store)
        self._seconds = settings.expire_seconds
        self._updater = PatientUpdater(settings, self._report)

    def process(
        self,
        batch: tuple[str, Iterable[bytes]],
        expire: Any = beam.DoFn.TimerParam(EXPIRE),
    ) -> None:
        """One micro-batch."""
        messages = [Message(self.topic, value) for value in batch[1]]
        update = functools.partial(Updater.update_messages, messages=messages)
        report = self._updater.run(update)
        for name in ("tasks", "upserted", "dead_letters"):
            Metrics.counter("stream", name).inc(report[name])
        for name, of_report in _VALUES.items():
            Metrics.counter("stream", name).inc(sum(report[of_report].values()))
        self._report(report)
        expire.set(time.time() + self._seconds)

    @on_timer(EXPIRE)
    def expire(self, expire: Any = beam.DoFn.TimerParam(EXPIRE)) -> None:
        """Adapts the tasks that are due."""
        self._updater.run_idle()
        expire.set(time.time() + self._seconds)

    def _report(self, report: Mapping[str, Any]) -> None:
        _LOG.info("%s", json.dumps(report))

    def teardown(self) -> None:
        """Closes the store."""
        self._store.close()
