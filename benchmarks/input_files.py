"""Times reading task records of the reference sizes, from files to batches, on the processor.

    python benchmarks/input_files.py [--json] [--files 16] [--tasks 32768] [--batch 128]

The figures are those of the second of two passes. All files hold the same tasks.

Keys: `files`, `tasks`, `batch`, `cores`; `compressed` and `uncompressed`, each with
`first_batch_s`, the seconds to the first batch, before which the shuffle buffer is filled;
`tasks_per_s` of the whole pass; and `running_tasks_per_s` after the first batch.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import reference_work as work
import tensorflow as tf
from command_line import parser_of, positive, print_result

from tfrec_limaml import FeatureEncoder, task_dataset
from tfrec_limaml.tasks.folder import shard_name
from tfrec_limaml.tasks.record_format import encode_task
from tfrec_limaml.tasks.statistics import Statistics

ROWS, DISTINCT = 32, 512  # rows of a task, and tasks that differ


def write(folder, files, tasks, compressed):
    """Files of the same records."""
    rng = np.random.default_rng(0)
    records = [
        encode_task(work.schema(), f"t{task}", work.random_rows(rng, ROWS))
        for task in range(min(DISTINCT, tasks))
    ]
    suffix = "" if compressed else ".gz"
    paths = [folder / shard_name("train", n, files).removesuffix(suffix) for n in range(files)]
    with tf.io.TFRecordWriter(str(paths[0]), "GZIP" if compressed else "") as writer:
        for task in range(max(1, tasks // files)):
            writer.write(records[task % len(records)])
    for path in paths[1:]:
        shutil.copyfile(paths[0], path)


def one_pass(dataset):
    started, counts = time.perf_counter(), []
    first = None
    for batch in dataset:
        counts.append(int(batch["support"]["label"].shape[0]))
        first = first or time.perf_counter() - started
    total = time.perf_counter() - started
    return {
        "first_batch_s": round(first, 3),
        "tasks_per_s": round(sum(counts) / total),
        "running_tasks_per_s": round(sum(counts[1:]) / (total - first)),
    }


def measure(args):
    encoder = FeatureEncoder(
        work.schema(), Statistics(rows=1, label_mean=0.5, window={}, features={})
    )
    result = {"files": args.files, "tasks": args.tasks, "batch": args.batch}
    result["cores"] = len(os.sched_getaffinity(0))
    for name in ("compressed", "uncompressed"):
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), args.files, args.tasks, name == "compressed")
            dataset = task_dataset(f"{folder}/train-*", encoder, args.batch, shuffle=True, seed=1)
            one_pass(dataset)
            result[name] = one_pass(dataset)
    return result


def main():
    parser = parser_of(__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--files", type=positive, default=16)
    parser.add_argument("--tasks", type=positive, default=32_768, help="in all files together")
    parser.add_argument("--batch", type=positive, default=128)
    args = parser.parse_args()
    tf.config.set_visible_devices([], "GPU")
    print_result(measure(args), args.json)


if __name__ == "__main__":
    main()
