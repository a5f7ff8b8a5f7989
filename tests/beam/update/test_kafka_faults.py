"""``limaml stream --from-kafka`` through faults of the stream, the store and the broker."""

import dataclasses
import signal
import threading
import time
from pathlib import Path

import pytest
from kafka_streams import command, ignore, message, running, settings
from waiting import wait_for

from limaml_beam.update.kafka import stream_kafka
from limaml_beam.update.kafka_topic import Topic
from tfrec_limaml.errors import LimamlError, StoreError
from tfrec_limaml.store.lmdb_store import LmdbStore

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

DRIVER = Path(__file__).with_name("kafka_driver.py")


def test_while_the_store_is_away_nothing_is_committed_and_nothing_is_lost(
    refreshed, broker, topic, monkeypatch
):
    original, waits, committed = LmdbStore.upsert, [], []

    def away(*arguments):
        if len(waits) < 3:
            raise StoreError("connection refused")
        return original(*arguments)

    def sleep(seconds):
        waits.append(seconds)
        committed.append(broker.committed(topic, "limaml"))
        broker.send(topic, message("u4", float(len(waits)), len(waits)))

    broker.send(topic, message("u3", 5.0, 1))
    monkeypatch.setattr(LmdbStore, "upsert", away)
    done = stream_kafka(settings(refreshed, broker, topic), ignore, sleep)
    assert (waits, committed, done["waits"]) == ([1, 2, 4], [0, 0, 0], 3)
    assert refreshed.sums("u3", "u4") == [(6, 2), (7, 4)]
    assert broker.committed(topic, "limaml") == 4


def test_a_stream_that_is_killed_anywhere_loses_nothing_and_applies_nothing_twice(
    refreshed, broker, topic, forks
):
    points = ["before the store", "before the state", "before the commit"]
    for number, point in enumerate(points):
        broker.send(topic, message("u3", 2.0**number, number + 1))
        done = forks().start(DRIVER, point, *command(refreshed, broker, topic)).wait(300)
        assert done.returncode == -signal.SIGKILL, done.stderr
    broker.send(topic, message("u3", 8.0, 4))
    assert stream_kafka(settings(refreshed, broker, topic), ignore)["dead_letters"] == 0
    assert refreshed.sums("u3") == [(1 + 15, 5)]
    assert broker.committed(topic, "limaml") == 4


def test_a_broker_that_goes_away_and_comes_back_is_read_on(refreshed, broker, topic):
    with running(settings(refreshed, broker, topic, idle_seconds=None)) as reports:
        broker.send(topic, message("u3", 5.0, 1))
        wait_for(lambda: refreshed.sums("u3") == [(6, 2)])
        broker.kill()
        wait_for(lambda: any("broker" in report for report in reports))
        broker.start()
        broker.send(topic, message("u3", 6.0, 2))
        wait_for(lambda: refreshed.sums("u3") == [(12, 3)])


def test_a_broker_that_goes_away_during_a_commit_is_reported_and_read_on(refreshed, broker, topic):
    def stop(report):
        if "rows" in report and not stopped.is_set():  # the commit follows
            broker.pause()
            stopped.set()

    stopped = threading.Event()
    with running(settings(refreshed, broker, topic, idle_seconds=None), stop) as reports:
        broker.send(topic, message("u3", 5.0, 1))
        assert stopped.wait(300)
        time.sleep(1.0)  # the commit is on its way
        broker.kill()
        wait_for(lambda: any("broker" in report for report in reports))
        broker.start()
        broker.send(topic, message("u3", 6.0, 2))
        wait_for(lambda: refreshed.sums("u3") == [(12, 3)])
        wait_for(lambda: broker.committed(topic, "limaml") == 2)


def test_a_stream_ends_although_the_broker_does_not_answer(refreshed, broker, topic, monkeypatch):
    monkeypatch.setattr("limaml_beam.update.kafka_topic._ANSWER_SECONDS", 2.0)
    with running(settings(refreshed, broker, topic, idle_seconds=None)) as reports:
        broker.send(topic, message("u3", 5.0, 1))
        wait_for(lambda: refreshed.sums("u3") == [(6, 2)])
        broker.pause()
    try:
        assert "no answer at the end" in reports[-1]["broker"]
    finally:
        broker.resume()


def test_an_offset_that_the_broker_refuses_is_reported(refreshed, broker, topic):
    reports = []
    reader = Topic(settings(refreshed, broker, topic), reports.append)
    try:
        wait_for(lambda: reader.batch() or reader.at_end)  # the group has taken it in
        reader.commit([(None, 0, 4), (None, 99, 4)])
        wait_for(lambda: reader.batch() or reports)
    finally:
        reader.close()
    (report,) = reports
    assert "offsets not committed" in report["broker"]
    assert broker.committed(topic, "limaml") == 5


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"servers": "127.0.0.1:1"}, "no Kafka broker answers at 127.0.0.1:1"),
        ({"topic": "nobody-made-it"}, "has no topic 'nobody-made-it'"),
        ({"client": {"no.such.setting": "1"}}, "refuses its settings"),
    ],
)
def test_what_is_wrong_at_the_start_is_an_error(refreshed, broker, topic, monkeypatch, given, what):
    monkeypatch.setattr("limaml_beam.update.kafka_topic._ANSWER_SECONDS", 2.0)
    stream = settings(refreshed, broker, topic)
    with pytest.raises(LimamlError, match=what):
        stream_kafka(dataclasses.replace(stream, **given), ignore)
