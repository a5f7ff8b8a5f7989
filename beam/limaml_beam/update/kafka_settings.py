"""Settings of a stream of messages from Kafka."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from limaml_beam.update import defaults
from limaml_beam.update.job import Update
from limaml_beam.update.patience import check_idle
from tfrec_limaml.errors import LimamlError

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
        batch_messages: Maximum number of messages in one micro-batch.
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
    group: str = defaults.GROUP
    batch_messages: int = defaults.BATCH_MESSAGES
    batch_seconds: float = defaults.BATCH_SECONDS
    idle_seconds: float | None = None
    client: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_batches(self.batch_seconds, self.batch_messages)
        check_idle(self.idle_seconds)
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
    """Settings of the client library, one ``name=value`` per line; ``#`` begins a comment.

    Raises `LimamlError` without the text of a wrong line, which may be a password.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # a byte order mark is no part of a name
    except (OSError, UnicodeDecodeError) as error:
        raise LimamlError(f"cannot read {path}: {error}") from error
    lines = [line.strip() for line in text.splitlines()]
    settings = {}
    for number, line in enumerate(lines, 1):
        if line and not line.startswith("#"):
            name, equals, value = line.partition("=")
            if not equals:
                raise LimamlError(f"{path}, line {number}: expected name=value, found no =")
            settings[name.strip()] = value.strip()
    return settings
