"""``limaml stream``: a process that updates with what arrives in a folder or a Kafka topic."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limaml_beam.commands import update
from tfrec_limaml.cli import Command
from tfrec_limaml.errors import LimamlError

if TYPE_CHECKING:
    from limaml_beam.update.job import Update

DESCRIPTION = """\
Waits for interactions, in files of a folder or in messages of a Kafka topic, and does with them
what limaml update does; the model stays loaded. Bad rows, files and messages become dead letters
(WORK/updates/dead_letter) and hold nothing up. While the store is away, or another update runs, it
waits and tries again; no row is lost. Kill it at any time: what was not done is done after the next
start, and nothing is applied twice.

Write files under a name that begins with . or _ and rename them. A message is a JSON object with
the columns of the interactions; offsets of the consumer group are committed after the store has the
rows.

examples:
  limaml stream --from-folder ARRIVING --work WORK --store redis://127.0.0.1:6379/0
  limaml stream --from-kafka 127.0.0.1:9092 --topic clicks --work WORK --store lmdb:STORE

A line of JSON for each update goes to stderr, the totals to stdout at the end (--stop-when-idle).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``limaml stream``."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--from-folder", metavar="DIR", help="local folder where files arrive")
    source.add_argument(
        "--from-kafka", metavar="HOST:PORT", help="Kafka broker, or several with commas between"
    )
    update.add_shared_arguments(parser)
    parser.add_argument(
        "--stop-when-idle",
        type=float,
        metavar="S",
        help="end after so many seconds without anything new (default: go on for good)",
    )
    folder = parser.add_argument_group("with --from-folder")
    folder.add_argument(
        "--poll-seconds",
        type=float,
        default=1.0,
        metavar="S",
        help="between two looks at the folder (default: %(default)s)",
    )
    kafka = parser.add_argument_group("with --from-kafka")
    kafka.add_argument("--topic", help="its topic")
    kafka.add_argument(
        "--group",
        default="limaml",
        help="consumer group, whose offsets say where to go on; a new one begins with the oldest "
        "message (default: %(default)s)",
    )
    kafka.add_argument(
        "--batch-seconds",
        type=float,
        default=1.0,
        metavar="S",
        help="a micro-batch waits so long after its first message (default: %(default)s)",
    )
    kafka.add_argument(
        "--batch-messages",
        type=int,
        default=10_000,
        metavar="N",
        help="most messages of a micro-batch (default: %(default)s)",
    )
    kafka.add_argument(
        "--kafka-config",
        metavar="FILE",
        help="name=value lines for the client library (librdkafka): TLS, user, password",
    )


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs the stream."""
    from tfrec_limaml.store import open_store

    if arguments.from_kafka is not None and not arguments.topic:
        raise LimamlError("--from-kafka needs --topic: the topic to read, received none")
    store = open_store(arguments.store)
    try:
        settings = update.settings_from(arguments, store)
        return (_kafka if arguments.from_folder is None else _folder)(arguments, settings)
    finally:
        store.close()


def _folder(arguments: argparse.Namespace, settings: Update) -> dict[str, Any]:
    from limaml_beam.update.stream import Stream, stream

    return stream(
        Stream(
            folder=Path(arguments.from_folder),
            update=settings,
            poll_seconds=arguments.poll_seconds,
            idle_seconds=arguments.stop_when_idle,
        ),
        _tell,
    )


def _kafka(arguments: argparse.Namespace, settings: Update) -> dict[str, Any]:
    from limaml_beam.update.kafka import KafkaStream, read_client_file, stream_kafka

    config = arguments.kafka_config
    return stream_kafka(
        KafkaStream(
            servers=arguments.from_kafka,
            topic=arguments.topic,
            update=settings,
            group=arguments.group,
            batch_messages=arguments.batch_messages,
            batch_seconds=arguments.batch_seconds,
            idle_seconds=arguments.stop_when_idle,
            client={} if config is None else read_client_file(Path(config)),
        ),
        _tell,
    )


def _tell(report: dict[str, Any]) -> None:
    sys.stderr.write(f"{json.dumps(report)}\n")


COMMAND = Command(
    help="limaml update with all that arrives in a folder or a Kafka topic",
    description=DESCRIPTION,
    add_arguments=add_arguments,
    run=run,
)
