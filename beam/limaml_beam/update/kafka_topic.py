"""Messages of a Kafka topic in micro-batches, through the client library."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from limaml_beam.update.kafka_settings import KafkaStream
from limaml_beam.update.kafka_tls import needs_tls
from limaml_beam.update.messages import Message
from limaml_beam.update.patience import Tell
from tfrec_limaml.errors import LimamlError

_POLL_SECONDS, _ANSWER_SECONDS = 0.5, 10.0
#: Each kind of error of the broker is reported once in this time; the library repeats it all along.
_REPORT_SECONDS = 60.0


class Topic:
    """Micro-batches of a topic, as triples of message, partition and offset.

    Args:
        settings: The stream's settings.
        tell: Receives ``{"broker": reason}`` with the client library's errors about the broker.

    Raises:
        LimamlError: No broker answers, there is no such topic, or the client library refuses its
            settings.
    """

    def __init__(self, settings: KafkaStream, tell: Tell) -> None:
        self._kafka = _client_library()
        self._settings, self._tell = settings, tell
        self._reported: dict[int, float] = {}  # by the error's code
        self._pending: list[tuple[Message, int, int]] = []
        self._waiting = self._closing = False
        self._commits = 0  # not answered by the broker yet
        self._assigned: set[int] | None = None  # until this consumer has joined the group
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
            "on_commit": self._end_commit,
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
            if server := needs_tls(servers, self._settings.client):
                raise LimamlError(
                    f"the Kafka broker {server} expects TLS: add security.protocol=ssl (with a "
                    "user and password: sasl_ssl) to the file of --kafka-config"
                ) from error
            raise LimamlError(f"no Kafka broker answers at {servers}: {error}") from error
        if metadata is None or metadata.error is not None:
            raise LimamlError(f"the Kafka broker {servers} has no topic {topic!r}: create it first")

    def _join(self, consumer: Any, partitions: list[Any]) -> None:
        self._assigned = {partition.partition for partition in partitions}
        self._ended.clear()

    @property
    def at_end(self) -> bool:
        """Whether this consumer has joined the group and read all its partitions to the end."""
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
        """Commits a batch without waiting for the broker.

        If that fails the batch is delivered again, which is harmless. A commit that waits has no
        time limit in the client library, which reports no errors meanwhile.
        """
        last: dict[int, int] = {}
        for _, partition, offset in batch:
            last[partition] = max(offset, last.get(partition, -1))
        offsets = [
            self._kafka.TopicPartition(self._settings.topic, partition, offset + 1)
            for partition, offset in last.items()
        ]
        self._commits += 1
        try:
            self._consumer.commit(offsets=offsets, asynchronous=True)
        except self._kafka.KafkaException as error:
            self._end_commit(error, [])

    def _end_commit(self, error: Any, _: list[Any]) -> None:
        self._commits -= 1
        if error is not None:  # also if a single partition failed
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
        now = time.monotonic()
        if now - self._reported.get(error.code(), -_REPORT_SECONDS) >= _REPORT_SECONDS:
            self._reported[error.code()] = now
            self._tell({"broker": str(error)})
        if not self._closing and error.code() in (
            self._kafka.KafkaError._AUTHENTICATION,
            self._kafka.KafkaError.TOPIC_AUTHORIZATION_FAILED,
            self._kafka.KafkaError.GROUP_AUTHORIZATION_FAILED,
        ):
            raise LimamlError(f"the Kafka broker {self._settings.servers} refuses: {error}")

    def close(self) -> None:
        """Waits for the commits and leaves the group; gives up if the broker does not answer."""
        self._closing = True
        end = time.monotonic() + _ANSWER_SECONDS
        self._consumer.pause(self._consumer.assignment())
        while self._commits and time.monotonic() < end:
            self._read(1, 0.1)
        closing = threading.Thread(target=self._consumer.close, daemon=True)
        closing.start()
        closing.join(max(0.1, end - time.monotonic()))
        if closing.is_alive():
            self._tell({"broker": "no answer at the end: the last messages may be delivered again"})


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
