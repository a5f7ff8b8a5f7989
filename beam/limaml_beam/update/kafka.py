"""``limaml stream --from-kafka``: messages of a topic, one micro-batch after another.

The offsets of a batch are committed once its rows are in the store and in the state of updates.
Messages that a killed stream had not committed are delivered again, which changes nothing, because
rows are identified by their content: no message is lost, and none is applied twice. While the store
is unavailable, nothing is polled and nothing committed: messages stay in the topic. The client
library reconnects when the broker is available again.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from typing import Any

from limaml_beam.update.job import Updater
from limaml_beam.update.kafka_settings import KafkaStream
from limaml_beam.update.kafka_topic import Topic
from limaml_beam.update.patience import PatientUpdater, Sleep, Tell


def stream_kafka(settings: KafkaStream, tell: Tell, sleep: Sleep = time.sleep) -> dict[str, Any]:
    """Updates with the messages of a topic, until none has come for `idle_seconds`.

    Args:
        settings: The settings.
        tell: Receives the report of every update, and those of other events; see `Tell`.
        sleep: Waits for a number of seconds.

    Returns:
        ``updates``, ``rows``, ``tasks``, ``upserted``, ``dead_letters`` and ``waits``.

    Raises:
        LimamlError: No broker answers at the start, there is no such topic, or an error that
            waiting does not solve: a work folder without rows, a changed schema.
    """
    topic = Topic(settings, tell)

    def wait(seconds: float) -> None:
        topic.stay_in_group()
        sleep(seconds)

    try:
        updater = PatientUpdater(settings.update, tell, wait)
        _run(topic, updater, settings, tell)
        return dataclasses.asdict(updater.totals)
    finally:
        topic.close()


def _run(topic: Topic, updater: PatientUpdater, settings: KafkaStream, tell: Tell) -> None:
    """Updates with one micro-batch after another, and commits each."""
    idle = math.inf if settings.idle_seconds is None else settings.idle_seconds
    last = time.monotonic()
    while time.monotonic() - last < idle or not topic.at_end:
        batch = topic.batch()
        if batch:
            messages = [message for message, _, _ in batch]
            update = functools.partial(Updater.update_messages, messages=messages)
            tell(updater.run(update))
            topic.commit(batch)
        else:
            updater.run_idle()
        if batch or not topic.at_end:
            last = time.monotonic()
