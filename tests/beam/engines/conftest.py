"""A small exported model, tasks for it, and runners other than the in-process one."""

import contextlib
import dataclasses
import importlib.util
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from java_options import QUICK_START
from toys import toy_schema, toy_statistics, write_description, write_split
from worker_pool import WorkerPool

from limaml_beam.generate_embeddings.pipeline import EmbeddingJob
from tfrec_limaml.schema.schema import Feature, Schema
from tfrec_limaml.tasks.record_format import LABEL, TIMESTAMP
from tfrec_limaml.tasks.task_encoder import TaskEncoder
from tfrec_limaml.training.model_options import ModelOptions

TASKS, FILES = 300, 4
ENGINES = ("flink", "spark", "prism")


@pytest.fixture(scope="session")
def schema() -> Schema:
    return toy_schema(
        Feature(name="m", role="meta", width=4, normalise="none"),
        Feature(name="o", width=3, normalise="none"),
    )


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory, schema: Schema) -> Path:
    """``adapter/<version>`` of an untrained model with two inner steps."""
    from tfrec_limaml import export_for_serving
    from tfrec_limaml.tasks.feature_encoder import FeatureEncoder
    from tfrec_limaml.training.recipes import build_model

    encoder = FeatureEncoder(schema, toy_statistics())
    options = ModelOptions.paper().replace(
        meta_units=(8,),
        embedding_dim=4,
        global_units=(8,),
        inner_steps=2,
        inner_learning_rate=0.3,
        first_order=True,
    )
    model = build_model("limaml", encoder, options)
    model.build(encoder.output_shapes)
    folder = tmp_path_factory.mktemp("export")
    return folder / "adapter" / str(export_for_serving(model, folder).model_version)


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory, schema: Schema) -> Path:
    """Task records of 1 to 8 samples, in the layout of `limaml prepare`."""
    random = np.random.default_rng(3)
    counts = random.integers(1, 9, TASKS)
    ends = np.cumsum(counts)
    rows = int(ends[-1])
    columns = {
        "m": random.standard_normal((rows, 4), np.float32),
        "o": random.standard_normal((rows, 3), np.float32),
        LABEL: (random.random(rows) < 0.4).astype(np.float32),
        TIMESTAMP: np.arange(rows) + 1_650_000_000_000,
    }
    encoder = TaskEncoder(schema, columns)
    records = [
        encoder.encode(f"member-{n}", int(end - count), int(end))
        for n, (end, count) in enumerate(zip(ends, counts, strict=True))
    ]
    folder = tmp_path_factory.mktemp("tasks")
    write_description(folder, schema, toy_statistics())
    write_split(folder, "user", "recent", records, files=FILES)
    return folder


@pytest.fixture
def job(tmp_path: Path, tasks: Path, adapter: Path) -> EmbeddingJob:
    return EmbeddingJob(
        tasks=str(tasks),
        adapter=str(adapter),
        output=str(tmp_path / "direct"),
        generation="g1",
        intra_op_threads=1,
    )


@pytest.fixture
def load_deployed(checkout: Path) -> Callable[[str], Any]:
    """Loads a script of the deployment folder as a module."""

    def module(name: str) -> Any:
        spec = importlib.util.spec_from_file_location(Path(name).stem, checkout / "beam" / name)
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return loaded

    return module


def find_job_server(engine: str, checkout: Path) -> Path:
    """The job server of Flink or Spark; skips the test with the way to get it if there is none."""
    if shutil.which("java") is None:
        pytest.skip("Java is not installed (apt-get install openjdk-17-jre-headless)")
    variable = f"LIMAML_{engine.upper()}_JOB_SERVER"
    jar = Path(os.environ.get(variable) or checkout / "build" / engine / "job-server.jar")
    if not jar.is_file():
        pytest.skip(f"no {engine} job server at {jar}: make {engine}, or set {variable}")
    return jar


def find_prism(checkout: Path) -> Path:
    """Beam's Go runner; skips the test with the way to get it if there is none."""
    binary = Path(os.environ.get("LIMAML_PRISM") or checkout / "build" / "prism" / "prism")
    if not binary.is_file():
        pytest.skip(f"no Prism at {binary}: make prism (needs Go), or set LIMAML_PRISM")
    return binary


def stop_own_children_that_run(server: Path) -> None:
    """Stops this process's job server.

    Beam does so when Python exits normally, but a test worker does not exit normally.
    """
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it may end while we look
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and str(server).encode() in (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGTERM)


@pytest.fixture
def worker_pool(tmp_path: Path) -> Iterator[WorkerPool]:
    pool = WorkerPool(tmp_path / "worker_pool.log")
    try:
        pool.wait_until_it_listens()
        yield pool
    finally:
        pool.stop()


@dataclasses.dataclass(frozen=True)
class Engine:
    """A runner other than the in-process one.

    Attributes:
        flags: Beam's flags for a job, with two worker processes if the engine has processes.
        pool: The pool that starts them.
        workers: Their number; None if they are threads of this process.
    """

    flags: list[str]
    pool: WorkerPool
    workers: int | None


@pytest.fixture(params=[pytest.param(n, marks=getattr(pytest.mark, n)) for n in ENGINES])
def engine(
    request: pytest.FixtureRequest,
    checkout: Path,
    worker_pool: WorkerPool,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Engine]:
    name = request.param
    monkeypatch.setenv("_JAVA_OPTIONS", " ".join(QUICK_START))
    server = find_prism(checkout) if name == "prism" else find_job_server(name, checkout)
    external = ["--environment_type=EXTERNAL", f"--environment_config={worker_pool.address}"]
    # Without the cache each stage starts its own workers.
    external += ["--sdk_worker_parallelism=2", "--environment_cache_millis=60000"]
    flags = {
        "flink": [
            "--runner=FlinkRunner",
            "--flink_master=[local]",
            f"--flink_job_server_jar={server}",
            "--parallelism=2",
            *external,
        ],
        "spark": [
            "--runner=SparkRunner",
            "--spark_master_url=local[2]",
            f"--spark_job_server_jar={server}",
            *external,
        ],
        "prism": [
            "--runner=PrismRunner",
            f"--prism_location={server}",
            "--environment_type=LOOPBACK",
        ],
    }
    workers = {"flink": 2, "spark": 2, "prism": None}
    yield Engine(flags[name], worker_pool, workers[name])
    stop_own_children_that_run(server)
