"""``limaml stream --as-pipeline`` on Flink: a real job server and its embedded cluster, a real
broker, a worker process. One pipeline goes through everything, as its start is what takes long.
"""

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kafka_broker import Broker, find_broker
from worker_pool import WorkerPool

from limaml_beam.generate_embeddings import tables
from tfrec_limaml.store import open_store

pytestmark = [
    *(pytest.mark.kafka, pytest.mark.flink, pytest.mark.slow),
    pytest.mark.timeout(1800),  # the whole test: everything in it has a limit of its own
]

START, DAY, END = 1_650_000_000_000, 86_400_000, "2022-06-01"
ROWS = [(f"u{n}", 1.0, n / 100) for n in range(20)]
SMALL = {"_JAVA_OPTIONS": "-Xmx512m -XX:+UseSerialGC"}


@pytest.fixture
def broker(checkout, tmp_path):
    (tmp_path / "kafka").mkdir()
    made = Broker(find_broker(checkout), tmp_path / "kafka")
    made.start()
    yield made
    made.kill()


@pytest.fixture
def job_server(checkout):
    given = os.environ.get("LIMAML_FLINK_KAFKA_JOB_SERVER")
    jar = Path(given or checkout / "build" / "flink-kafka" / "job-server.jar")
    if not jar.is_file():
        pytest.skip(f"no job server at {jar}: make kafka, or set LIMAML_FLINK_KAFKA_JOB_SERVER")
    return jar


@pytest.fixture
def expansion_service(job_server, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    main = "org.apache.beam.sdk.expansion.service.ExpansionService"
    # Flink's runner of this release reads Kafka by its own, older kind of source only.
    options = ["--defaultEnvironmentType=EMBEDDED", "--experiments=use_deprecated_read"]
    with running(
        ["java", "-Xmx256m", "-cp", str(job_server), main, str(port), *options],
        tmp_path / "expansion.log",
    ):
        wait_for(lambda: answers(port))
        yield f"127.0.0.1:{port}"


@contextlib.contextmanager
def running(command, log, **environment):
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env=os.environ | environment, start_new_session=True
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)


def answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition, log=None, process=None):
    deadline = time.monotonic() + 600
    while not condition():
        if time.monotonic() > deadline or (process and process.poll() is not None):
            pytest.fail(log.read_text(errors="replace")[-8000:] if log else "nothing happened")
        time.sleep(0.2)


def message(user, x, day):
    row = {"user_id": user, "x": x, "note": "n", "click": 1}
    return row | {"time": START + round(day * DAY)}


def workers_of(pool):
    """Processes of the pool's workers."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pool.process:
                found.append(int(process.name))
    return found


@pytest.fixture
def pool(tmp_path):
    made = WorkerPool(tmp_path / "pool.log")
    made.wait_until_it_listens()
    yield made
    made.stop()


def test_a_pipeline_goes_on_from_a_checkpoint_and_ends_where_the_batch_does(
    world, broker, job_server, expansion_service, pool, tmp_path
):
    world.write(ROWS)
    assert world.refresh() == 0
    topic, store = broker.make_topic("clicks"), open_store(world.store)

    def used(user):
        """Rows in a member's embedding."""
        matrix, found = store.get_many([user], 7)
        return int(matrix[0][2]) if found[0] else 0

    flags = [
        "--runner=FlinkRunner",
        "--flink_master=[local]",
        f"--flink_job_server_jar={job_server}",
        "--parallelism=1",
        "--checkpointing_interval=1000",
        "--environment_type=EXTERNAL",
        f"--environment_config={pool.address}",
    ]
    command = [
        *(sys.executable, str(Path(__file__).with_name("kafka_pipeline_driver.py")), "stream"),
        *("--from-kafka", broker.address, "--topic", topic, "--as-pipeline"),
        *("--expansion-service", expansion_service, "--batch-seconds", "0.5"),
        *("--work", str(world.work), "--store", world.store, "--window-end", END),
        *(f"--beam={flag}" for flag in flags),
    ]
    log = tmp_path / "pipeline.log"
    with running(command, log, **SMALL) as process:
        broker.send(topic, message("first", 1.0, 1), b"poison", None, message("first", 2.0, 2))
        wait_for(lambda: used("first") == 2, log, process)
        (file,) = (world.work / "updates" / "dead_letter").glob("*.jsonl")
        letters = [json.loads(line) for line in file.read_text().splitlines()]
        assert {letter["reason"] for letter in letters} == {"undecodable_message"}

        made = random.Random(3)
        rows = [(f"u{made.randrange(5)}", float(n), made.uniform(0, 20)) for n in range(40)]
        late = [*rows, *rows[:15]]
        made.shuffle(late)
        for number, row in enumerate(late):
            broker.send(topic, message(*row))
            if number == 20:
                (worker,) = workers_of(pool)
                os.kill(worker, signal.SIGKILL)
        broker.send(topic, message("last", 1.0, 3))
        wait_for(lambda: used("last") == 1, log, process)
        keys = sorted({user for user, _, _ in rows})
        # Each of them has one row from the refresh.
        expected = {key: 1 + sum(user == key for user, _, _ in rows) for key in keys}
        wait_for(lambda: {key: used(key) for key in keys} == expected, log, process)
        assert re.search(r"Restoring job \w+ from Checkpoint", log.read_text())
        assert pool.workers_started() > 1
    sent = [*rows, ("first", 1.0, 1), ("first", 2.0, 2), ("last", 1.0, 3)]
    world.write([*ROWS, *sent])
    assert world.refresh("--full", "--min-rows-per-day-ratio", "0") == 0
    report = json.loads((world.work / "refresh.json").read_text())
    assert report["updates"]["compared"] == len(keys) + 2
    assert report["updates"]["reconciled_share"] == 1.0
    assert tables.embedding_files(str(world.work / "embeddings" / report["generation"]))
