"""``limaml stream --as-pipeline`` on Flink: a real job server and its embedded cluster, a real
broker, a worker process. One pipeline, of two sides, goes through everything, as its start is what
takes long; what it does with a model of one definition is a part of that.
"""

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from java_options import QUICK_START
from ports import free_port, listens
from two_sided_toy import ROWS, VIDEO
from update_world import END
from waiting import wait_for
from worker_pool import WorkerPool

pytestmark = [pytest.mark.kafka, pytest.mark.flink, pytest.mark.slow]


@pytest.fixture
def job_server(checkout):
    given = os.environ.get("LIMAML_FLINK_KAFKA_JOB_SERVER")
    jar = Path(given or checkout / "build" / "flink-kafka" / "job-server.jar")
    if not jar.is_file():
        pytest.skip(f"no job server at {jar}: make kafka, or set LIMAML_FLINK_KAFKA_JOB_SERVER")
    return jar


@pytest.fixture
def expansion_service(job_server, tmp_path):
    port = free_port()
    main = "org.apache.beam.sdk.expansion.service.ExpansionService"
    # Flink's runner of this release reads Kafka by its own, older kind of source only.
    options = ["--defaultEnvironmentType=EMBEDDED", "--experiments=use_deprecated_read"]
    java = ["java", "-Xmx256m", *QUICK_START, "-cp", str(job_server), main, str(port), *options]
    with running(java, tmp_path / "expansion.log"):
        wait_for(lambda: listens(port))
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


def sums(rows):
    """Sum of x and number of rows of each task, by its key in a store."""
    found = {}
    for user, video, x, _ in rows:
        for key in (user, VIDEO + video):
            total, count = found.get(key, (0.0, 0))
            found[key] = (total + x, count + 1)
    return found


@pytest.mark.timeout(1200)  # each wait in it has a limit of its own
def test_a_pipeline_goes_on_from_a_checkpoint_and_ends_where_the_batch_does(
    two_sides, broker, topic, job_server, expansion_service, pool, tmp_path
):
    world = two_sides
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
    small = " ".join(("-Xmx512m", *QUICK_START))

    def wait_until(condition):
        wait_for(
            lambda: condition() or process.poll() is not None,
            why=lambda: log.read_text(errors="replace")[-8000:],
        )
        assert process.poll() is None, log.read_text(errors="replace")[-8000:]

    with running(command, log, _JAVA_OPTIONS=small) as process:
        first = [("first", "v1", 1.0, 1.0), ("first", "v2", 2.0, 2.0)]
        broker.send(topic, world.row(*first[0]), b"poison", None, world.row(*first[1]))
        wait_until(lambda: world.sums("first") == [(3, 2)])
        wait_until(world.letters)
        assert {letter["reason"] for letter in world.letters()} == {"undecodable_message"}

        made = random.Random(3)
        rows = [
            (f"u{made.randrange(5)}", f"v{made.randrange(6)}", float(n), made.uniform(0, 20))
            for n in range(40)
        ]
        late = [*rows, *rows[:15]]
        made.shuffle(late)
        for number, row in enumerate(late):
            broker.send(topic, world.row(*row))
            if number == 20:
                (worker,) = workers_of(pool)
                os.kill(worker, signal.SIGKILL)
        all_rows = [*ROWS, *first, *rows]
        expected = sums(all_rows)
        wait_until(lambda: world.sums(*expected) == list(expected.values()))
        assert re.search(r"Restoring job \w+ from Checkpoint", log.read_text())
        assert pool.workers_started() > 1
    world.write(all_rows)
    assert world.refresh("--min-rows-per-day-ratio", "0") == 0
    updates = world.result()["updates"]
    touched = sums([*first, *rows])
    assert (updates["compared"], updates["reconciled_share"]) == (len(touched), 1.0)
