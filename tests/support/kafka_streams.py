"""Streams of messages from a Kafka broker, for the small world of updates."""

import contextlib
import threading

import pytest
from update_world import END, World

from limaml_beam.update.job import Update
from limaml_beam.update.kafka import stream_kafka
from limaml_beam.update.kafka_settings import KafkaStream
from limaml_beam.update.kafka_topic import Topic
from tfrec_limaml.store import open_store

#: The client library reconnects soon to a broker that was away.
QUICK = {"reconnect.backoff.max.ms": "500"}
#: A killed stream is soon removed from its group.
SHORT = QUICK | {"session.timeout.ms": "2000", "heartbeat.interval.ms": "500"}


def message(user, x, day, **more):
    return World.row(user, x, day) | more


def settings(world, broker, topic, **more):
    update = Update(work=world.work, store=open_store(world.store), window_end=END)
    given = {"batch_seconds": 0.1, "idle_seconds": 0.2, "client": QUICK, "update": update, **more}
    return KafkaStream(servers=broker.address, topic=topic, **given)


def command(world, broker, topic, idle_seconds=0.5):
    config = world.folder / "client"
    config.write_text("".join(f"{name}={value}\n" for name, value in SHORT.items()))
    return [
        *("stream", "--from-kafka", broker.address, "--topic", topic, "--work", str(world.work)),
        *("--store", world.store, "--window-end", END, "--batch-seconds", "0.1"),
        *("--stop-when-idle", str(idle_seconds), "--json", "--kafka-config", str(config)),
    ]


def ignore(report):
    pass


class _EndError(Exception):
    pass


@contextlib.contextmanager
def running(stream, tell=ignore):
    """Runs a stream in a thread until the end of the block; yields the list of its reports."""
    reports, end, original = [], threading.Event(), Topic.batch

    def batch(topic):
        if end.is_set():
            raise _EndError
        return original(topic)

    def note(report):
        reports.append(report)
        tell(report)

    def run():
        with contextlib.suppress(_EndError):
            stream_kafka(stream, note)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Topic, "batch", batch)
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield reports
        finally:
            end.set()
            thread.join(60)
        assert not thread.is_alive()
