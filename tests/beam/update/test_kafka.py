"""``limaml stream --from-kafka`` with a real broker."""

import json
import random
import time
from pathlib import Path

import numpy as np
import pytest
from kafka_streams import command, ignore, message, running, settings
from two_sided_toy import ROWS as ROWS_OF_TWO_SIDES
from two_sided_toy import Simulation
from update_world import ROWS, World
from waiting import wait_for

from limaml_beam.generate_embeddings import tables
from limaml_beam.update.job import Update
from limaml_beam.update.kafka import stream_kafka
from limaml_beam.update.kafka_settings import read_client_file
from tfrec_limaml.cli import main
from tfrec_limaml.store import open_store

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

DRIVER = Path(__file__).with_name("kafka_driver.py")


def test_messages_change_the_embeddings_of_their_members(refreshed, broker, topic, capsys):
    broker.send(topic, message("u3", 5.0, 1), message("new", 7.0, 1.5), message("u3", 6.0, 2))
    capsys.readouterr()
    assert main(command(refreshed, broker, topic)) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["rows"], result["upserted"], result["dead_letters"]) == (3, 2, 0)
    assert refreshed.sums("u2", "u3", "new") == [(1, 1), (12, 3), (7, 1)]
    assert broker.committed(topic, "limaml") == 3


def test_late_repeated_and_shuffled_messages_end_where_the_batch_puts_them(
    refreshed, broker, topic
):
    made = random.Random(5)
    rows = [(f"u{made.randrange(6)}", float(n), made.uniform(0, 20)) for n in range(60)]
    sent = [*rows, *rows[:30], *ROWS[:5]]
    made.shuffle(sent)
    broker.send(topic, *(message(*row) for row in sent))
    done = stream_kafka(settings(refreshed, broker, topic, batch_messages=17), ignore)
    assert (done["rows"], done["updates"] >= 6) == (95, True)
    keys = sorted({user for user, _, _ in rows})
    updated = open_store(refreshed.store).get_many(keys, 7)[0].copy()
    refreshed.write([*ROWS, *rows])
    assert refreshed.refresh("--full", "--min-rows-per-day-ratio", "0") == 0
    report = refreshed.result()
    assert report["updates"]["compared"] == len(keys)
    assert report["updates"]["reconciled_share"] == 1.0
    output = refreshed.work / "embeddings" / report["generation"]
    batch = {
        row["task_key"]: row["embedding"]
        for part in tables.read_batches(tables.embedding_files(str(output)))
        for row in part.to_pylist()
    }
    np.testing.assert_allclose(updated, [batch[key] for key in keys], rtol=1e-6)


def test_a_stream_of_two_sides_ends_where_the_batch_puts_it(two_sides, broker, topic):
    made = random.Random(7)
    rows = [
        (f"u{n % 8}", f"v{made.randrange(5)}", float(n), made.uniform(0, 20)) for n in range(40)
    ]
    rows += [(f"u{n}", f"v{n % 5}", 1.0, 21.0) for n in range(8)]  # nobody is left untouched
    sent = [*rows, *rows[:10], *ROWS_OF_TWO_SIDES[:5]]
    made.shuffle(sent)
    broker.send(topic, *(two_sides.row(*row) for row in sent))
    together = settings(two_sides, broker, topic, batch_messages=len(sent), batch_seconds=60.0)
    done = stream_kafka(together, ignore)
    assert (done["rows"], done["updates"], done["upserted"]) == (63, 1, 13)
    batch = Simulation([*ROWS_OF_TWO_SIDES, *rows]).embeddings()
    found = two_sides.stored(*batch)
    np.testing.assert_allclose(list(found.values()), list(batch.values()), rtol=1e-6)
    two_sides.write([*ROWS_OF_TWO_SIDES, *rows])
    assert two_sides.refresh("--min-rows-per-day-ratio", "0") == 0
    updates = two_sides.result()["updates"]
    assert (updates["compared"], updates["reconciled_share"]) == (13, 1.0)


def test_poison_messages_are_dead_letters_with_their_reasons_and_hold_nothing_up(
    refreshed, broker, topic
):
    lacking = {"user_id": "u3", "time": World.row("u3", 1.0, 0)["time"]}
    poison = {
        "not utf-8": (b"\xff\xfe{}", "undecodable_message"),
        "not json": (b"click!", "undecodable_message"),
        "no object": (b"[1, 2]", "undecodable_message"),
        "no value": (None, "undecodable_message"),
        "deep": (b"[" * 100_000, "undecodable_message"),
        "lacking": (json.dumps(lacking), "unknown_schema"),
        "other model": (json.dumps(message("u3", 1.0, 3, model_version=6)), "other_model_version"),
        "label": (json.dumps(message("u3", 1.0, 3, click="what?")), "invalid_label"),
        "future": (json.dumps(message("u3", 1.0, 900)), "future_time"),
        "microseconds": (json.dumps(message("u3", 1.0, 3, time=17 * 10**14)), "invalid_timestamp"),
        "key": (json.dumps(message({"id": 1}, 1.0, 3)), "missing_key:user_id"),
    }
    broker.send(topic, *(value for value, _ in poison.values()))
    broker.send(topic, message("u3", 5.0, 1, model_version=7), message("u4", 6.0, 1))
    done = stream_kafka(settings(refreshed, broker, topic), ignore)
    assert (done["rows"], done["dead_letters"]) == (13, 11)
    assert refreshed.sums("u3", "u4") == [(6, 2), (7, 2)]
    assert broker.committed(topic, "limaml") == 13
    letters = refreshed.letters()
    assert sorted(letter["reason"] for letter in letters) == sorted(
        reason for _, reason in poison.values()
    )
    assert {letter["file"].split("/")[0] for letter in letters} == {topic}
    assert all(letter["file"].count("/") == 2 for letter in letters)  # topic, partition, offset


def test_a_producers_clock_may_be_ahead_a_little(refreshed, broker, topic):
    now = round(time.time() * 1000)
    broker.send(
        topic,
        message("u3", 5.0, 0, time=now + 200_000),
        message("u4", 5.0, 0, time=now + 600_000),
        message("u3", 6.0, 0, time=now - 1000),
    )
    update = Update(work=refreshed.work, store=open_store(refreshed.store))
    done = stream_kafka(settings(refreshed, broker, topic, update=update), ignore)
    assert (done["rows"], done["dead_letters"]) == (3, 1)
    assert refreshed.sums("u3", "u4") == [(12, 3), (1, 1)]


def test_two_streams_of_one_group_share_the_topic_and_both_are_right(
    refreshed, broker, topic, forks
):
    with running(settings(refreshed, broker, topic, idle_seconds=None)) as reports:
        wait_for(lambda: broker.members("limaml") == 1)
        run = command(refreshed, broker, topic, idle_seconds=3.0)
        other = forks().start(DRIVER, "nowhere", *run)
        wait_for(lambda: broker.members("limaml") == 2)
        for number in range(30):
            broker.send(topic, message("u3", 1.0, number), message("u4", 1.0, number))
        there = other.wait(300)
        assert there.returncode == 0, there.stderr
        wait_for(lambda: refreshed.sums("u3", "u4") == [(31, 31), (31, 31)])
    here = [report["rows"]["read"] for report in reports if "rows" in report]
    assert sum(here) + json.loads(there.stdout)["rows"] >= 60


def test_a_client_file_is_read(tmp_path):
    path = tmp_path / "client"
    path.write_text("# remark\n\nsecurity.protocol = SASL_SSL\nsasl.password=a=b\n")
    assert read_client_file(path) == {"security.protocol": "SASL_SSL", "sasl.password": "a=b"}
