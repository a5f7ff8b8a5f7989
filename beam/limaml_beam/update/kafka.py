"""``limaml stream --from-kafka``: messages of a topic, one micro-batch after another.

The offsets of a batch are committed once its rows are in the store and in the state of updates.
Messages that a killed stream had not committed are delivered again, which changes nothing, because
rows are identified by their content: no message is lost, and none is applied twice. While the store
is unavailable nothing is polled and nothing committed: messages stay in the topic. The client
library reconnects to a broker that returns.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limaml_beam.update.job import Update, Updater
from limaml_beam.update.messages import Message
from limaml_beam.update.patience import PatientUpdater, Sleep, Tell
from tfrec_limaml.errors import LimamlError

_POLL_SECONDS, _ANSWER_SECONDS = 0.5, 10.0
#: Settings that the stream sets itself.
_RESERVED = {
    "bootstrap.servers",
    "group.id",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.partition.eof",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class KafkaStream:
    """Settings of a stream.

    Attributes:
        servers: ``HOST:PORT`` of one broker, or several with commas between them.
        topic: The topic.
        update: The updater's settings.
        group: Consumer group; a stream starts at its committed offsets, a new group at the oldest
            message.
        batch_messages: Most messages of one micro-batch.
        batch_seconds: A micro-batch waits this long after its first message for more; a member who
            clicks several times meanwhile is adapted once.
        idle_seconds: Ends after this time at the end of the topic without a message; None to run
            until stopped.
        client: Further settings of the client library (librdkafka), for TLS and passwords; they may
            replace ``auto.offset.reset`` (``earliest``) and ``session.timeout.ms`` (10 s: after
            this time the partitions of a killed stream are assigned to another one).
    """

    servers: str
    topic: str
    update: Update
    group: str = "limaml"
    batch_messages: int = 10_000
    batch_seconds: float = 1.0
    idle_seconds: float | None = None
    client: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_batches(self.batch_seconds, self.batch_messages)
        if reserved := sorted(_RESERVED & self.client.keys()):
            raise LimamlError(
                f"the stream itself sets {reserved} of the Kafka client: leave out these settings"
            )


def check_batches(seconds: float, messages: int) -> None:
    """Raises `LimamlError` for invalid settings of micro-batches."""
    if not seconds > 0 or messages < 1:
        raise LimamlError(
            "batch_seconds must be positive and batch_messages at least 1, received "
            f"{seconds} and {messages}"
        )


def read_client_file(path: Path) -> dict[str, str]:
    """Settings of the client library, ``name=value`` a line, ``#`` before remarks."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LimamlError(f"cannot read {path}: {error}") from error
    lines = [line.strip() for line in text.splitlines()]
    settings = {}
    for line in lines:
        if line and not line.startswith("#"):
            name, equals, value = line.partition("=")
            if not equals:
                raise LimamlError(f"{path}: expected name=value, found {line!r}")
            settings[name.strip()] = value.strip()
    return settings


def stream_kafka(settings: KafkaStream, tell: Tell, sleep: Sleep = time.sleep) -> dict[str, Any]:
    """Updates with the messages of a topic, until none has come for `idle_seconds`.

    Args:
        settings: The settings.
        tell: Gets the report of every update, ``{"waiting": reason}`` while there is one, and
            ``{"broker": reason}`` with the client library's errors about the broker.
        sleep: Waits.

    Returns:
        ``updates``, ``rows``, ``tasks``, ``upserted``, ``dead_letters`` and ``waits``.

    Raises:
        LimamlError: No broker answers at the start, there is no such topic, or an error that
            waiting does not solve: a work folder without rows, another schema.
    """
    topic = _Topic(settings, tell)

    def wait(seconds: float) -> None:
        topic.stay_in_group()
        sleep(seconds)

    try:
        updater = PatientUpdater(settings.update, tell, wait)
        _run(topic, updater, settings, tell)
        return dataclasses.asdict(updater.totals)
    finally:
        topic.close()


def _run(topic: _Topic, updater: PatientUpdater, settings: KafkaStream, tell: Tell) -> None:
    """Updates with one micro-batch after another, and commits each."""
    idle = math.inf if settings.idle_seconds is None else settings.idle_seconds
    last = time.monotonic()
    while time.monotonic() - last < idle or not topic.at_end:
        batch = topic.batch()
        if batch:
            messages = [message for message, _, _ in batch]
            update = functools.partial(
                Updater.update_messages, topic=settings.topic, messages=messages
            )
            tell(updater.run(update))
            topic.commit(batch)
        else:
            updater.run_idle()
        if batch or not topic.at_end:
            last = time.monotonic()


class _Topic:
    """Micro-batches of a topic, as triples of message, partition and offset."""

    def __init__(self, settings: KafkaStream, tell: Tell) -> None:
        self._kafka = _client_library()
        self._settings, self._tell = settings, tell
        self._pending: list[tuple[Message, int, int]] = []
        self._waiting = False
        self._assigned: set[int] | None = None  # until the group has taken this consumer in
        self._ended: set[int] = set()
        client_settings = {
            "auto.offset.reset": "earliest",
            "session.timeout.ms": 10_000,
            **settings.client,
            "bootstrap.servers": settings.servers,
            "group.id": settings.group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            "error_cb": self._report_error,
            "logger": _silent_logger(),
        }
        try:
            self._consumer = self._kafka.Consumer(client_settings)
        except (self._kafka.KafkaException, TypeError, ValueError) as error:
            raise LimamlError(f"the Kafka client refuses its settings: {error}") from error
        try:
            self._check()
            self._consumer.subscribe([settings.topic], on_assign=self._join)
        except LimamlError:
            self._consumer.close()
            raise

    def _check(self) -> None:
        servers, topic = self._settings.servers, self._settings.topic
        try:
            metadata = self._consumer.list_topics(topic, timeout=_ANSWER_SECONDS).topics.get(topic)
        except self._kafka.KafkaException as error:
            raise LimamlError(f"no Kafka broker answers at {servers}: {error}") from error
        if metadata is None or metadata.error is not None:
            raise LimamlError(f"the Kafka broker {servers} has no topic {topic!r}: create it first")

    def _join(self, consumer: Any, partitions: list[Any]) -> None:
        self._assigned = {partition.partition for partition in partitions}
        self._ended.clear()

    @property
    def at_end(self) -> bool:
        """Whether the group has taken this consumer in, and all its partitions are read to their
        ends.
        """
        return self._assigned is not None and self._assigned <= self._ended

    def batch(self) -> list[tuple[Message, int, int]]:
        """The next messages; empty if none arrived for a short time."""
        self._resume()
        limit = self._settings.batch_messages
        messages, self._pending = self._pending, []
        if not messages:
            messages = self._read(1, _POLL_SECONDS)
        end = time.monotonic() + self._settings.batch_seconds
        while messages and len(messages) < limit and (remaining := end - time.monotonic()) > 0:
            messages += self._read(limit - len(messages), remaining)
        return messages

    def _read(self, max_messages: int, seconds: float) -> list[tuple[Message, int, int]]:
        messages = []
        for record in self._consumer.consume(max_messages, seconds):
            partition, offset = record.partition(), record.offset()
            if record.error() is not None:
                if record.error().code() == self._kafka.KafkaError._PARTITION_EOF:
                    self._ended.add(partition)
                else:
                    self._report_error(record.error())
                continue
            self._ended.discard(partition)
            source = f"{record.topic()}/{partition}/{offset}"
            messages.append((Message(source, record.value()), partition, offset))
        return messages

    def commit(self, batch: list[tuple[Message, int, int]]) -> None:
        """Commits a batch. If that fails the batch is delivered again, which is harmless."""
        last: dict[int, int] = {}
        for _, partition, offset in batch:
            last[partition] = max(offset, last.get(partition, -1))
        offsets = [
            self._kafka.TopicPartition(self._settings.topic, partition, offset + 1)
            for partition, offset in last.items()
        ]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except self._kafka.KafkaException as error:
            self._tell({"broker": f"offsets not committed: {error}"})

    def stay_in_group(self) -> None:
        """Polls with paused partitions: a consumer that never polls is removed from its group."""
        self._consumer.pause(self._consumer.assignment())
        self._waiting = True
        self._pending += self._read(1, 0.0)

    def _resume(self) -> None:
        if self._waiting:
            self._consumer.resume(self._consumer.assignment())
            self._waiting = False

    def _report_error(self, error: Any) -> None:
        self._tell({"broker": str(error)})
        if error.code() in (
            self._kafka.KafkaError._AUTHENTICATION,
            self._kafka.KafkaError.TOPIC_AUTHORIZATION_FAILED,
            self._kafka.KafkaError.GROUP_AUTHORIZATION_FAILED,
        ):
            raise LimamlError(f"the Kafka broker {self._settings.servers} refuses: {error}")

    def close(self) -> None:
        """Leaves the group."""
        self._consumer.close()


def _client_library() -> Any:
    try:
        import confluent_kafka
    except ImportError as error:
        raise LimamlError(
            "--from-kafka needs the package confluent-kafka: pip install 'tfrec-limaml[stream]'"
        ) from error
    return confluent_kafka


def _silent_logger() -> logging.Logger:
    """Drops the client library's own log lines, which also arrive as errors."""
    logger = logging.getLogger("limaml.kafka")
    logger.setLevel(logging.CRITICAL)
    return logger
