"""Trains the reference work (see training.py) in one process and in several, each on one core.

    python benchmarks/distributed.py [--json] [--workers 2] [--batch 128] [--epochs 3] [--size 8192]
        [--rounds 3] [--no-resume]

Each worker has batches of `--batch` tasks, so that a step of n workers has n times as many.
The workers exchange gradients once per step: the larger the batch, the smaller their share.
Compared trainings alternate, round by round; each figure is a median, and each ratio a median of
the rounds' ratios.

Keys: `workers`; `batch`; `rounds`; `tasks_per_s` of all workers together and `tasks_per_s_of_one`
process; `scaling_efficiency`, the first over n times the second; `unconnected_efficiency`, the same
for n processes side by side that do not train together: the limit of the machine; `cpu_ms_per_task`
of all workers together and `cpu_ms_per_task_of_one`; `cpu_efficiency`, the second divided by the
first: the efficiency if nothing else runs on the cores and no worker waits; `resume_equal`: whether
a training that is killed and resumed ends with the same weights as an uninterrupted one (null with
`--no-resume`).

Other work on the machine distorts the rates, because workers wait for each other in each step. It
hardly changes the CPU time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from command_line import parser_of, positive
from servers import free_ports

FILES = 8
LINKS = 4  # how often an epoch that is timed reads each file


def write_tasks(folder, size):
    """Writes a folder for `train`: task records of the reference sizes in several files."""
    import numpy as np
    import reference_work as work
    import tensorflow as tf

    from tfrec_limaml.tasks.folder import SCHEMA_FILE, STATISTICS_FILE, shard_name
    from tfrec_limaml.tasks.record_format import encode_task
    from tfrec_limaml.tasks.statistics import Statistics

    schema = work.schema()
    schema.save(folder / SCHEMA_FILE)
    Statistics(rows=1, label_mean=0.5, window={}, features={}).save(folder / STATISTICS_FILE)
    (folder / "member").mkdir()
    rng, rows = np.random.default_rng(0), 32
    for split, tasks in (("train", size), ("validation", 256)):
        for shard in range(FILES):
            path = folder / "member" / shard_name(split, shard, FILES)
            with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
                for task in range(shard, tasks, FILES):
                    values = work.random_rows(rng, rows)
                    writer.write(encode_task(schema, f"t{task}", values, 24))


def with_links(tasks, folder):
    """The same tasks with each training file several times, so that epochs are long."""
    from tfrec_limaml.tasks.folder import shard_name

    shutil.copytree(tasks, folder, copy_function=os.link)
    count = FILES * LINKS
    for shard in range(count):
        source = tasks / "member" / shard_name("train", shard % FILES, FILES)
        os.link(source, folder / "member" / shard_name("train", shard, count))
    for shard in range(FILES):
        (folder / "member" / shard_name("train", shard, FILES)).unlink()
    return folder


def train_here(args):
    """One process: trains, and writes rates and a digest of the weights."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[args.core]})
    import hashlib

    import keras
    import tensorflow as tf

    from tfrec_limaml import LiMAML, MLPGlobalBlock, MLPMetaBlock
    from tfrec_limaml.training.checkpoints import CheckpointOptions
    from tfrec_limaml.training.distribution import make_strategy
    from tfrec_limaml.training.options import TrainOptions
    from tfrec_limaml.training.train import train

    tf.config.threading.set_intra_op_parallelism_threads(1)

    class Clock(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.spent, self.batches = [], 0

        def on_epoch_begin(self, epoch, logs=None):
            self.started = time.perf_counter(), time.process_time()

        def on_train_batch_end(self, batch, logs=None):
            self.ended = time.perf_counter(), time.process_time()
            self.batches += 1
            if self.batches == args.kill_after:
                os.kill(os.getpid(), signal.SIGKILL)

        def on_epoch_end(self, epoch, logs=None):
            self.spent.append([b - a for a, b in zip(self.started, self.ended, strict=True)])

    def build(_, encoder, options):
        blocks = MLPMetaBlock((128,), 32), MLPGlobalBlock((256, 128))
        return LiMAML(*blocks, encoder=encoder, inner_learning_rate=0.1, inner_steps=1)

    is_multi_worker, clock = "TF_CONFIG" in os.environ, Clock()
    trained = train(
        args.tasks,
        TrainOptions(
            epochs=args.epochs,
            patience=args.epochs,
            batch_size=args.batch * args.workers,
            choose_strength=False,
        ).replace(id_embeddings=True),
        callbacks=[clock],
        build=build,
        checkpoints=args.checkpoints and CheckpointOptions(args.checkpoints, steps=16, resume=True),
        strategy=make_strategy("multi-worker", 120.0) if is_multi_worker else None,
    )
    digest = hashlib.sha256(b"".join(w.tobytes() for w in trained.model.get_weights()))
    spent = clock.spent[1:] or clock.spent  # without the epoch that is traced
    wall, cpu = (median(values) for values in zip(*spent, strict=True))
    args.result.write_text(json.dumps({"wall": wall, "cpu": cpu, "digest": digest.hexdigest()}))


def run(tasks, folder, workers, batch, epochs, *further, connected=True):
    """The reports of processes, which train together if connected; None if one was killed."""
    folder.mkdir(exist_ok=True)
    hosts, processes = [f"127.0.0.1:{port}" for port in free_ports(workers)], []
    for index in range(workers):
        config = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        environment |= {"TF_CONFIG": json.dumps(config)} if workers > 1 and connected else {}
        command = [sys.executable, __file__, "--here", "--tasks", tasks, "--core", str(index)]
        command += ["--result", folder / f"{index}.json"]
        command += ["--workers", str(workers if connected else 1)]
        command += ["--batch", str(batch), "--epochs", str(epochs), *further]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL))
    codes = [process.wait() for process in processes]
    if any(code not in (0, -signal.SIGKILL) for code in codes):
        raise SystemExit(f"a worker ended with {codes}")
    if any(codes):
        return None
    return [json.loads((folder / f"{index}.json").read_text()) for index in range(workers)]


def measure(workers, batch, epochs, size, rounds, resume):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tasks = folder / "tasks"
        tasks.mkdir()
        write_tasks(tasks, size)
        longer = with_links(tasks, folder / "longer")

        def rates_of(count, **options):
            return rates(run(longer, folder / "run", count, batch, epochs, **options), size)

        ones, together, unconnected = zip(
            *(
                (rates_of(1), rates_of(workers), rates_of(workers, connected=False))
                for _ in range(rounds)
            ),
            strict=True,
        )
        equal = resumes_equally(tasks, folder, batch, size) if resume else None
    return {
        "workers": workers,
        "batch": batch,
        "rounds": rounds,
        "tasks_per_s": round(median(r["rate"] for r in together), 1),
        "tasks_per_s_of_one": round(median(r["rate"] for r in ones), 1),
        "scaling_efficiency": round(median_ratio("rate", together, ones) / workers, 3),
        "unconnected_efficiency": round(median_ratio("rate", unconnected, ones), 3),
        "cpu_ms_per_task": round(median(r["cpu_ms"] for r in together), 4),
        "cpu_ms_per_task_of_one": round(median(r["cpu_ms"] for r in ones), 4),
        "cpu_efficiency": round(median_ratio("cpu_ms", ones, together), 3),
        "resume_equal": equal,
    }


def median_ratio(figure, of_runs, over_runs):
    """The median of the rounds' ratios of a figure."""
    return median(a[figure] / b[figure] for a, b in zip(of_runs, over_runs, strict=True))


def resumes_equally(tasks, folder, batch, size):
    """Whether a training that is killed and resumed ends with the weights of an undisturbed one."""
    checkpoints = ("--checkpoints", folder / "checkpoints")
    killed = (*checkpoints, "--kill-after", str(size // batch // 8 + 3))
    assert run(tasks, folder / "killed", 1, batch, 2, *killed) is None
    resumed, undisturbed = (
        run(tasks, folder / name, 1, batch, 2, *further)[0]["digest"]
        for name, further in (("resumed", checkpoints), ("undisturbed", ()))
    )
    return resumed == undisturbed


def rates(reports, size):
    """Tasks per second and milliseconds of CPU per task of processes that train together."""
    tasks, wall = size * LINKS, max(report["wall"] for report in reports)
    return {"rate": tasks / wall, "cpu_ms": 1e3 * sum(report["cpu"] for report in reports) / tasks}


def main():
    parser = parser_of(__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--workers", type=positive, default=2)
    parser.add_argument("--batch", type=positive, default=128, help="tasks per worker and step")
    parser.add_argument("--epochs", type=positive, default=3)
    parser.add_argument("--size", type=positive, default=8192, help="tasks on disk")
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument(
        "--no-resume", action="store_true", help="leave out the training that is killed"
    )
    for name in ("--tasks", "--result", "--checkpoints"):
        parser.add_argument(name, type=Path, help=argparse.SUPPRESS)
    for name in ("--core", "--kill-after"):
        parser.add_argument(name, type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        train_here(args)
        return
    cores = len(os.sched_getaffinity(0))
    if not 2 <= args.workers <= cores:
        parser.error(f"--workers must be 2 to {cores}, one per core, received {args.workers}")
    result = measure(
        args.workers, args.batch, args.epochs, args.size, args.rounds, not args.no_resume
    )
    lines = (f"{name:24} {value}" for name, value in result.items())
    print(json.dumps(result) if args.json else "\n".join(lines))


if __name__ == "__main__":
    main()
