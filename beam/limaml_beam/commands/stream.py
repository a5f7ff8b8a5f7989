"""``limaml stream``: updates with new files of a folder or messages of a Kafka topic."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limaml_beam.commands import update
from limaml_beam.commands.ignored_options import Rule, refuse_ignored
from limaml_beam.update import defaults
from tfrec_limaml.cli import Command
from tfrec_limaml.commands.arguments import add_metrics_arguments
from tfrec_limaml.errors import LimamlError

if TYPE_CHECKING:
    from limaml_beam.update.job import Update
    from limaml_beam.update.patience import Tell

DESCRIPTION = """\
Waits for new interactions, in files of a folder or in messages of a Kafka topic, and runs an update
for them, as limaml update does; the model stays loaded. Bad rows, files and messages become dead
letters (WORK/updates/dead_letter) and do not stop the stream. While the store is unavailable, or
another update runs, it waits and tries again; no row is lost. It can be killed at any time: the
next start continues where it stopped, and nothing is applied twice.

Write files under a name that begins with . or _, then rename them. A message is a JSON object with
the columns of one interaction; the offsets of the consumer group are committed after the rows are
in the store.

examples:
  limaml stream --from-folder ARRIVING --work WORK --store redis://127.0.0.1:6379/0
  limaml stream --from-kafka 127.0.0.1:9092 --topic clicks --work WORK --store lmdb:STORE

Each update prints a line of JSON on stderr. At the end (--stop-when-idle) the totals are printed on
stdout.
"""

IGNORED = (
    *update.IGNORED,
    Rule(
        (
            *("--topic", "--group", "--batch-seconds", "--batch-messages"),
            *("--kafka-config", "--as-pipeline"),
        ),
        needs=("--from-kafka",),
    ),
    Rule(("--poll-seconds",), needs=("--from-folder",)),
    Rule(("--metrics-port",), not_with=("--as-pipeline",)),
    Rule(("--metrics-host",), needs=("--metrics-port",)),
    Rule(("--expansion-service",), needs=("--as-pipeline",)),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``limaml stream``."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--from-folder", metavar="DIR", help="local folder where files arrive")
    source.add_argument(
        "--from-kafka", metavar="HOST:PORT", help="Kafka broker, or several, comma-separated"
    )
    update.add_shared_arguments(parser)
    parser.add_argument(
        "--stop-when-idle",
        type=float,
        metavar="S",
        help="exit after this time without new interactions (default: never)",
    )
    parser.add_argument(
        "--expire-seconds",
        type=float,
        default=defaults.EXPIRE_SECONDS,
        metavar="S",
        help="time between checks for updated members whose rows left the window (default: "
        "%(default)s)",
    )
    add_metrics_arguments(parser)
    folder = parser.add_argument_group("with --from-folder")
    folder.add_argument(
        "--poll-seconds",
        type=float,
        default=defaults.POLL_SECONDS,
        metavar="S",
        help="time between checks of the folder (default: %(default)s)",
    )
    _add_kafka_arguments(parser)


def _add_kafka_arguments(parser: argparse.ArgumentParser) -> None:
    kafka = parser.add_argument_group("with --from-kafka")
    kafka.add_argument("--topic", help="topic to read")
    kafka.add_argument(
        "--group",
        default=defaults.GROUP,
        help="consumer group: the stream continues from the offsets that the group has committed; "
        "a new group begins with the oldest message (default: %(default)s)",
    )
    kafka.add_argument(
        "--batch-seconds",
        type=float,
        default=defaults.BATCH_SECONDS,
        metavar="S",
        help="time that a micro-batch waits after its first message (default: %(default)s)",
    )
    kafka.add_argument(
        "--batch-messages",
        type=int,
        default=defaults.BATCH_MESSAGES,
        metavar="N",
        help="maximum number of messages of a micro-batch (default: %(default)s)",
    )
    kafka.add_argument(
        "--kafka-config",
        metavar="FILE",
        help="name=value lines for the client library (librdkafka): TLS, user, password",
    )
    kafka.add_argument(
        "--as-pipeline",
        action="store_true",
        help="run as an unbounded Beam pipeline on the engine given by --beam; its workers need "
        "access to the work folder and the store, and --kafka-config applies to Kafka's Java "
        "client",
    )
    kafka.add_argument(
        "--expansion-service",
        metavar="HOST:PORT",
        help="address of a running Beam expansion service with KafkaIO (default: Beam starts one)",
    )


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs the stream."""
    from limaml_beam.update.metrics import serving_metrics
    from tfrec_limaml.store import open_store

    if arguments.from_kafka is not None and not arguments.topic:
        raise LimamlError("--from-kafka needs --topic: the topic to read, received none")
    refuse_ignored(arguments, add_arguments, IGNORED)
    if arguments.as_pipeline and arguments.stop_when_idle is not None:
        raise LimamlError(
            "a pipeline runs until its engine cancels it: leave out --stop-when-idle, or "
            "--as-pipeline"
        )
    if arguments.as_pipeline:
        return _pipeline(arguments)
    update.refuse_runner(arguments.beam, "limaml stream", ", or give --as-pipeline")
    store = open_store(arguments.store)
    try:
        settings = dataclasses.replace(
            update.settings_from(arguments, store), expire_seconds=arguments.expire_seconds
        )
        source = _kafka if arguments.from_folder is None else _folder
        with serving_metrics(_tell, arguments.metrics_host, arguments.metrics_port) as tell:
            return source(arguments, settings, tell)
    finally:
        store.close()


def _folder(arguments: argparse.Namespace, settings: Update, tell: Tell) -> dict[str, Any]:
    from limaml_beam.update.stream import Stream, stream

    return stream(
        Stream(
            folder=Path(arguments.from_folder),
            update=settings,
            poll_seconds=arguments.poll_seconds,
            idle_seconds=arguments.stop_when_idle,
        ),
        tell,
    )


def _kafka(arguments: argparse.Namespace, settings: Update, tell: Tell) -> dict[str, Any]:
    from limaml_beam.update.kafka import stream_kafka
    from limaml_beam.update.kafka_settings import KafkaStream, read_client_file

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
        tell,
    )


def _pipeline(arguments: argparse.Namespace) -> dict[str, Any]:
    from limaml_beam.commands.beam_flags import quiet_beam
    from limaml_beam.generate_embeddings.artefacts import newest_adapter
    from limaml_beam.io.pipeline_options import use_options
    from limaml_beam.update.kafka_settings import read_client_file
    from limaml_beam.update.pipeline import KafkaPipeline, run_pipeline

    quiet_beam(use_options(arguments.beam))
    config, export = arguments.kafka_config, arguments.export
    work = str(Path(arguments.work).absolute())
    settings = KafkaPipeline(
        servers=arguments.from_kafka,
        topic=arguments.topic,
        store=arguments.store,
        update={
            "work": work,
            "adapter": None if export is None else newest_adapter(export),
            "window_end": arguments.window_end,
            "clock_skew_seconds": arguments.clock_skew_seconds,
            "expire_seconds": arguments.expire_seconds,
        },
        group=arguments.group,
        batch_messages=arguments.batch_messages,
        batch_seconds=arguments.batch_seconds,
        client={} if config is None else read_client_file(Path(config)),
        expansion_service=arguments.expansion_service,
    )
    run_pipeline(settings, arguments.beam)
    return {}


def _tell(report: dict[str, Any]) -> None:
    sys.stderr.write(f"{json.dumps(report)}\n")


COMMAND = Command(
    help="update continuously from files of a folder or messages of a Kafka topic",
    description=DESCRIPTION,
    add_arguments=add_arguments,
    run=run,
)
