"""Each benchmark runs at a small size, and prints the keys that its text names: no more, no less.

Numbers are not looked at: they are noise at these sizes.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import math
import os
import re
import shutil
import sys
import types

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import quick_beam
import tensorflow as tf
from toys import toy_schema

from limaml_serving.server import EmbeddedServer
from tfrec_limaml.schema.schema import Feature

#: Folders with own commands for helpers, not for measurements.
HELPERS = {
    *("command_line", "embedding_work", "reference_work", "servers", "serving_world"),
    *("timers", "yardstick_worker"),
}
#: Benchmarks and the arguments that make them small.
SMALL = {
    "batch_sizes": [
        *("--rounds", 1, "--tasks", 2, "--xla-tasks", 2, "--fit-tasks", 2),
        *("--algorithms", "vanilla"),
    ],
    "blocks": ["--rounds", 1, "--tasks", 2, "--blocks", "id"],
    "embedding_job": ["--tasks", 16, "--repeat", 1, "--no-workers", "--rough"],
    "freshness": [
        *("--members", 20, "--rows", 2, "--share", 0.2, "--updates", 1, "--reads", 2),
        *("--stores", "lmdb", "--no-reconcile"),
    ],
    "input_files": ["--files", 2, "--tasks", 8, "--batch", 2],
    "memory": ["--steps", 1, "--tasks", 2],
    "serving": ["--pairs", 2, "--seconds", 0.1, "--candidates", 3],
    "serving_soak": ["--periods", 1, "--seconds", 0.5, "--threads", 1],
    "serving_two_sided": ["--pairs", 50, "--candidates", 3],
    "store": ["--rows", 50, "--reads", 2],
    "training": [
        *("--rounds", 1, "--tasks", 2, "--embed-tasks", 2),
        *("--algorithms", "vanilla", "limaml_n1"),
    ],
}
#: Those with a test of their own below.
OTHERS = {"build_tasks", "distributed", "mixed_precision", "scaling"}


@pytest.fixture(scope="module", autouse=True)
def _quick_beam():
    quick_beam.use()


@pytest.fixture
def benchmark(checkout, monkeypatch, capsys):
    """``benchmark("store", "--rows", 9)``: the module and the JSON that it prints, in this
    process.
    """
    folder = checkout / "benchmarks"
    names = {path.stem for path in folder.glob("*.py")}
    monkeypatch.syspath_prepend(folder)
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)

    def run(name, *arguments):
        module = importlib.import_module(name)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments), "--json"])
        capsys.readouterr()
        module.main()
        return module, json.loads(capsys.readouterr().out)

    yield run
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def exported(checkout, tmp_path_factory):
    """The model of the serving benchmarks, exported once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(checkout / "benchmarks")
        return importlib.import_module("serving_world").export(tmp_path_factory.mktemp("export"))


def one_step(timer, *arguments):
    """A timer of a number of steps, which times one."""
    *arguments, _ = arguments
    return timer(*arguments, 1)


class InThisProcess:
    """As a process of `distributed.py`, which ends before the call that starts it."""

    def __init__(self, module, command, env, stderr):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "sched_setaffinity", lambda *_: None)
            patch.setattr(
                tf.config.threading, "set_intra_op_parallelism_threads", lambda number: None
            )
            patch.setattr(sys, "argv", [*map(str, command[1:])])
            module.main()

    def wait(self):
        return 0


@pytest.fixture
def in_this_process(request, benchmark, monkeypatch):
    """Spares processes that import TensorFlow, and a second export of one model."""
    name = request.node.callspec.params["name"]
    if name == "memory":
        module = importlib.import_module("memory")
        monkeypatch.setattr(module, "BASE_TASKS", 2)
        monkeypatch.setattr(module, "measure", functools.cache(module.measure_here))
    if name == "batch_sizes":
        monkeypatch.setattr(importlib.import_module(name), "FIT_STEPS", (1, 2))
    if name == "training":
        module = importlib.import_module("training")
        monkeypatch.setattr(module, "gemm", functools.partial(module.gemm, size=32))
        monkeypatch.setattr(module, "FILE_BATCHES", 2)
        for timer in ("StepTimer", "FitTimer"):
            short = functools.partial(one_step, getattr(module, timer))
            monkeypatch.setattr(module, timer, short)
        request.getfixturevalue("no_graphs")
    if name.startswith("serving"):
        world, export = (
            importlib.import_module("serving_world"),
            request.getfixturevalue("exported"),
        )
        make = world.export

        def copied(base, options=world.PLAIN):
            if options.joint_task:
                return make(base, options.replace(inner_steps=1))
            return shutil.copytree(export, base)

        monkeypatch.setattr(world, "export", copied)
    if name == "embedding_job":
        module = importlib.import_module(name)
        monkeypatch.setattr(module, "MODEL", module.MODEL.replace(inner_steps=1))
    if name in ("serving_soak", "serving_two_sided"):

        @contextlib.contextmanager
        def served(**models):
            with EmbeddedServer(models, poll_seconds=0.1) as server:
                yield server.target, os.getpid()

        monkeypatch.setattr(world, "served", served)


def keys_in(value):
    """The keys of nested objects and lists, numbers apart."""
    if isinstance(value, list):
        return set().union(*map(keys_in, value))
    if not isinstance(value, dict):
        return set()
    own = {key for key in value if not key.isdigit()}
    return own.union(*map(keys_in, value.values()))


def keys_of(text):
    """The names in backticks of the paragraph of a module's text that lists its keys."""
    (paragraph,) = re.findall(r"^Keys:((?:.+\n)+)", text, re.MULTILINE)
    return set(re.findall(r"`(\w+)`", paragraph))


def test_every_benchmark_is_tested_here(checkout):
    files = {path.stem for path in (checkout / "benchmarks").glob("*.py")}
    assert files == HELPERS | SMALL.keys() | OTHERS


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_small_run_prints_the_keys_of_its_text(benchmark, in_this_process, name):
    module, result = benchmark(name, *SMALL[name])
    expected = keys_of(module.__doc__)
    expected |= {"blocks": {"id"}, "batch_sizes": {"vanilla"}}.get(name, set())
    if name == "freshness" or (name == "store" and shutil.which("redis-server") is None):
        expected -= {"redis"}
    if name == "embedding_job":
        expected -= {key for key in expected if "worker" in key}
    if name == "training":
        algorithms = {"vanilla", "limaml_n1"}
        expected |= {f"{each}_{kind}" for each in algorithms for kind in ("ms", "share_of_gemm")}
        expected = (expected | {"limaml_n1_ratio"}) - {"A_ms", "A_ratio", "A_share_of_gemm"}
    assert keys_in(result) == expected


@pytest.mark.slow
def test_a_worker_reports_what_the_comparison_of_workers_needs(
    benchmark, no_graphs, monkeypatch, tmp_path
):
    """Training with several workers: tests/core/training."""
    module = importlib.import_module("distributed")
    run, reports, alone = module.run, [], tmp_path / "alone"
    started = functools.partial(InThisProcess, module)
    monkeypatch.setattr(module, "subprocess", types.SimpleNamespace(Popen=started, DEVNULL=None))

    def run_one(tasks, folder, workers, batch, epochs, *further, connected=True):
        if not reports:
            reports.extend(run(tasks, alone, 1, batch, 1))
        return reports * workers

    monkeypatch.setattr(module, "run", run_one)
    arguments = ("--epochs", 1, "--size", 64, "--batch", 64, "--no-resume")
    module, result = benchmark("distributed", *arguments)
    assert result.keys() == keys_of(module.__doc__)
    assert result["tasks_per_s"] == pytest.approx(64 * 4 / reports[0]["wall"], rel=1e-3)
    assert result["cpu_efficiency"] == 0.5  # two that did all tasks
    assert result["unconnected_efficiency"] == 1.0  # each as fast as one alone
    assert result["resume_equal"] is None


@pytest.mark.slow
def test_preparing_copies_of_a_raw_folder_counts_their_rows(benchmark, tmp_path):
    toy_schema(Feature(name="x", role="meta")).save(tmp_path / "schema.yaml")
    users = np.repeat(np.arange(200), 3)
    times = 1_651_400_000_000 + np.arange(600)  # 2022-05-01
    columns = {"user_id": users, "x": users * 0.1, "click": users % 2, "time": times}
    pq.write_table(pa.table(columns), tmp_path / "interactions.parquet")
    module, result = benchmark("build_tasks", "--raw", tmp_path, "--copies", 2, "--recent-only")
    assert keys_in(result) == keys_of(module.__doc__)
    (run,) = result["runs"]
    assert (run["copies"], run["rows"]) == (2, 1200)


def test_noise_is_judged_by_differences_of_the_same_seed(benchmark, monkeypatch):
    module = importlib.import_module("mixed_precision")
    aucs = {"float32": (0.70, 0.72), "mixed_bfloat16": (0.71, 0.73), "mixed_float16": (0.9, 0.94)}
    monkeypatch.setattr(module, "make_tasks", lambda folder, members: folder)
    monkeypatch.setattr(
        module, "test_auc", lambda tasks, policy, epochs, seed: aucs[policy][seed - 1]
    )
    module, result = benchmark("mixed_precision", "--seeds", 2)
    assert keys_in(result) == keys_of(module.__doc__)
    half = result["mixed_float16"]
    assert half["auc"] == pytest.approx(0.92)
    assert half["auc_sd"] == pytest.approx(0.04 / math.sqrt(2))
    assert half["difference"] == pytest.approx(0.21)
    assert half["standard_error"] == pytest.approx(0.01)  # of 0.20 and 0.22
    assert not half["within_noise"]
    assert result["mixed_bfloat16"]["within_noise"]


@pytest.mark.slow
def test_a_training_under_a_policy_gives_its_auc_and_leaves_the_policy(
    benchmark, no_graphs, tmp_path
):
    import keras

    module = importlib.import_module("mixed_precision")
    tasks = module.make_tasks(tmp_path, 20)
    before = keras.config.dtype_policy().name
    assert 0 <= module.test_auc(tasks, "mixed_bfloat16", 1, 1) <= 1
    assert keras.config.dtype_policy().name == before


def test_the_scaling_table_has_the_keys_of_its_text(benchmark, tmp_path):
    """Its numbers: tests/beam/engines/test_scaling.py."""
    reports = {
        "build-tasks": {"runs": [{"rows": 10, "processor_seconds": 9.0}]},
        "embedding-job": {"one_single_threaded_worker_tasks_per_s": 1000.0},
        "store": {"lmdb": {"bulk_rows_per_s": 1e5, "bytes_per_row": 200.0}},
    }
    arguments = ["--rows-per-member", 36, "--core-hour-price", 1]
    for name, report in reports.items():
        path = tmp_path / name
        path.write_text(json.dumps(report))
        arguments += [f"--{name}", path]
    module, result = benchmark("scaling", *arguments)
    assert keys_in(result) == keys_of(module.__doc__)


def test_keys_are_collected_from_nested_objects_and_named_in_backticks():
    """The helpers of this file."""
    module = types.SimpleNamespace(
        __doc__="A text.\n\nKeys: `a`, and `b` of `c`,\nand `d`.\n\n`e`.\n"
    )
    assert keys_of(module.__doc__) == {"a", "b", "c", "d"}
    assert keys_in({"a": [{"b": 1}, {"c": {"8": {"d": 2}}}]}) == {"a", "b", "c", "d"}


@pytest.mark.parametrize("text", ["0", "-3", "2.5", ""])
def test_a_size_that_is_no_positive_number_is_refused_with_its_value(benchmark, capsys, text):
    with pytest.raises(SystemExit):
        benchmark("distributed", f"--rounds={text}")
    assert f"must be a whole number of at least 1, received '{text}'" in capsys.readouterr().err
