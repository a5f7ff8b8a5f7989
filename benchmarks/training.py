"""Times the learning core on the reference work: 128 tasks x (24 support + 8 query), float32, Adam.

    python benchmarks/training.py [--json] [--rounds 9] [--device cpu|gpu] [--tasks 128]
        [--padding 0] [--algorithms vanilla limaml_n1 ...] [--embed-tasks 20000] [--files 2]
        [--compressed]

Compared measurements alternate, round by round; each figure is a median. Ratios are medians of the
rounds' ratios. `--device gpu` fails if TensorFlow sees no GPU; `device` in the result names the
device of the measurement.

`--files` task records are read in parallel, compressed with `--compressed` as by `limaml prepare`.
On a GPU, batches are copied to it ahead, as `limaml train` does. With `--padding 0.5`, half of the
rows in the batch of a step are padding (shares of gemm then count the padding's multiplications).

Keys: `device`; of each algorithm A `A_ms` and, beside vanilla, `A_ratio`; `fit_vanilla_ms`,
`fit_limaml_n1_ms`, `keras_fit_ms`, `fit_vanilla_over_keras_fit`; `fit_from_files_ms` and
`train_step_share_of_fit_from_files`; `input_tasks_per_s`, from files to batches; of fine-tuning and
embedding, `embed_tasks_per_s`, the slower ways `embed_naive_tasks_per_s` and
`embed_loop_tasks_per_s`, `embed_over_naive` and `embed_over_loop`; `gemm_gflops`, and of some
algorithms their share of it, `A_share_of_gemm`.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import reference_work as work
import tensorflow as tf
from command_line import parser_of, positive, up_to_half
from embedding_work import (
    EMBED_BATCH,
    EMBED_MAX,
    EMBED_STEPS,
    eager_loop,
    embedding_batches,
    naive_embedder,
)
from timers import EmbedTimer, FitTimer, StepTimer, gemm

from tfrec_limaml import FeatureEncoder, task_dataset
from tfrec_limaml.tasks.folder import shard_name
from tfrec_limaml.tasks.record_format import encode_task
from tfrec_limaml.tasks.statistics import Statistics
from tfrec_limaml.training.fit import STEPS_PER_EXECUTION

SUPPORT, QUERY = 24, 8
# On disk, and how often one measurement goes through them. The tasks are four times the shuffle
# buffer: while that is filled at the beginning of a pass, nothing else runs.
FILE_BATCHES, PASSES = 128, 2
COUNTED_TASKS = 128  # of the batch whose multiplications GFLOP counts
GFLOP = {
    "vanilla": 2.050,
    "limaml_n1": 3.059,
    "limaml_n5": 10.829,
    "limaml_n1_first_order": 1.496,
}
EVERY = 3  # rounds between two measurements of slow cases
NAMES = (
    "vanilla",
    "limaml_n1",
    "limaml_n5",
    "limaml_n1_first_order",
    "limaml_n5_cheap",
    "vanilla_dot",
    "closed_form",
)


def keras_fit_step(batch):
    """One step of a plain `keras.Model.fit` on the same network and samples."""
    meta, other = keras.Input([work.META]), keras.Input([work.OTHER])
    hidden = keras.layers.Dense(128, activation="relu")(meta)
    inputs = keras.layers.Concatenate()([meta, other, keras.layers.Dense(32)(hidden)])
    hidden = keras.layers.Dense(128, activation="relu")(
        keras.layers.Dense(256, activation="relu")(inputs)
    )
    model = keras.Model([meta, other], keras.layers.Dense(1)(hidden))
    model.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True), jit_compile=False)
    parts = [batch["support"], batch["query"]]
    rows = sum(int(tf.size(part["label"])) for part in parts)
    x = [
        tf.concat(
            [tf.reshape(p["features"][k], [-1, p["features"][k].shape[-1]]) for p in parts], 0
        )
        for k in ("meta", "other")
    ]
    y = tf.reshape(tf.concat([tf.reshape(p["label"], [-1]) for p in parts], 0), [rows, 1])
    return model, tf.data.Dataset.from_tensors((tuple(x), y))


def ours_fit_step(name, batch):
    return work.model(name), tf.data.Dataset.from_tensors(batch)


def task_files(folder, rng, tasks, files, compressed):
    """Task records of the reference sizes in several files, and their encoder."""
    schema = work.schema()
    encoder = FeatureEncoder(schema, Statistics(rows=1, label_mean=0.5, window={}, features={}))
    suffix = "" if compressed else ".gz"
    for file in range(files):
        path = folder / shard_name("train", file, files).removesuffix(suffix)
        with tf.io.TFRecordWriter(str(path), "GZIP" if compressed else "") as writer:
            for task in range(file, tasks, files):
                rows = work.random_rows(rng, SUPPORT + QUERY)
                writer.write(encode_task(schema, f"t{task}", rows))
    return str(folder / "train-*"), encoder


def measure(args):
    tasks, names = args.tasks, args.algorithms
    rng = np.random.default_rng(0)
    batch = {
        "support": work.random_samples(rng, tasks, SUPPORT, args.padding),
        "query": work.random_samples(rng, tasks, QUERY, args.padding),
    }
    timers = {}
    for name in names:
        step = tf.function(work.model(name).train_step, autograph=False)
        timers[name] = StepTimer(lambda s=step: s(batch)["loss"], 3 if "n5" in name else 6)
    timers["fit_vanilla"] = FitTimer(*ours_fit_step("vanilla", batch), 12)
    timers["fit_limaml_n1"] = FitTimer(*ours_fit_step("limaml_n1", batch), 8)
    timers["keras_fit"] = FitTimer(*keras_fit_step(batch), 12)
    timers["gemm"], gflop = gemm()

    counts = rng.integers(1, EMBED_MAX + 1, args.embed_tasks)
    bucketed = list(embedding_batches(counts, rng, bucketed=True))
    model = work.model("limaml_n1", fine_tune_steps=EMBED_STEPS)
    embed = tf.function(
        lambda s: model.task_embeddings(s)[0], reduce_retracing=True, autograph=False
    )
    naive = naive_embedder()
    padded = list(embedding_batches(counts[: 8 * EMBED_BATCH], rng, bucketed=False))
    alone = range(min(20, args.embed_tasks))
    one_by_one = [tf.nest.map_structure(lambda x, t=t: x[t : t + 1], padded[0]) for t in alone]
    timers["embed"] = EmbedTimer(embed, bucketed)
    timers["embed_naive"] = EmbedTimer(naive, padded)
    timers["embed_loop"] = EmbedTimer(eager_loop(model), one_by_one)

    with tempfile.TemporaryDirectory() as folder:
        records = FILE_BATCHES * tasks
        pattern, encoder = task_files(Path(folder), rng, records, args.files, args.compressed)
        dataset = task_dataset(pattern, encoder, tasks, shuffle=True, seed=1)
        timers["input"] = lambda: _input_rate(dataset)
        fitted = work.model(
            "limaml_n1", steps_per_execution=STEPS_PER_EXECUTION
        )  # as `limaml train` does
        timers["step_beside_files"] = StepTimer(timers["limaml_n1"].function, 64)
        timers["fit_from_files"] = FitTimer(fitted, dataset, PASSES * FILE_BATCHES)
        for timer in timers.values():
            timer()
        seen = {name: [] for name in timers}
        for number in range(args.rounds):
            for name, timer in timers.items():
                if (
                    name
                    in (
                        "embed",
                        "embed_naive",
                        "embed_loop",
                        "input",
                        "step_beside_files",
                        "fit_from_files",
                    )
                    and number % EVERY
                ):
                    continue
                seen[name].append(timer())
            print(f"round {number + 1}/{args.rounds}", file=sys.stderr)
    return summarise(seen, gflop, tasks / COUNTED_TASKS)


def _input_rate(dataset):
    """Tasks per second from files to batches, once the pipeline runs."""
    batches = iter(dataset.repeat(PASSES))
    next(batches)
    started = time.perf_counter()
    tasks = sum(int(batch["support"]["label"].shape[0]) for batch in batches)
    return tasks / (time.perf_counter() - started)


def summarise(seen, gflop, scale):
    names = [name for name in NAMES if name in seen]
    middle = {name: statistics.median(values) for name, values in seen.items()}
    result = {
        f"{name}_ms": 1e3 * middle[name]
        for name in (*names, "fit_vanilla", "fit_limaml_n1", "keras_fit", "fit_from_files")
    }
    for name in names[1:]:
        plain = "vanilla_dot" if name == "closed_form" else "vanilla"
        result[f"{name}_ratio"] = statistics.median(
            a / b for a, b in zip(seen[name], seen[plain], strict=True)
        )
    result["fit_vanilla_over_keras_fit"] = statistics.median(
        a / b for a, b in zip(seen["fit_vanilla"], seen["keras_fit"], strict=True)
    )
    pairs = zip(seen["step_beside_files"], seen["fit_from_files"], strict=True)
    result["train_step_share_of_fit_from_files"] = statistics.median(a / b for a, b in pairs)
    for name in ("embed", "embed_naive", "embed_loop", "input"):
        result[f"{name}_tasks_per_s"] = middle[name]
    result["embed_over_naive"] = middle["embed"] / middle["embed_naive"]
    result["embed_over_loop"] = middle["embed"] / middle["embed_loop"]
    result["gemm_gflops"] = gflop / middle["gemm"]
    for name in GFLOP.keys() & set(names):
        share = scale * GFLOP[name] / middle[name] / result["gemm_gflops"]
        result[f"{name}_share_of_gemm"] = share
    return {name: round(value, 4) for name, value in result.items()}


def choose_device(kind):
    """Lets TensorFlow use the processor alone, or its first GPU too; returns the device's name."""
    gpus = tf.config.list_physical_devices("GPU")
    if kind == "cpu":
        tf.config.set_visible_devices([], "GPU")
        return f"cpu, {len(os.sched_getaffinity(0))} cores"
    if not gpus:
        raise SystemExit(
            "--device gpu: TensorFlow sees no GPU here; run it on a machine that has one, with "
            "tensorflow[and-cuda] installed, or with --device cpu"
        )
    tf.config.set_visible_devices(gpus[:1], "GPU")
    return str(tf.config.experimental.get_device_details(gpus[0]).get("device_name", "gpu"))


def main():
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=positive, default=9)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--tasks", type=positive, default=COUNTED_TASKS, help="of a batch")
    parser.add_argument(
        "--padding", type=up_to_half, default=0.0, help="share of padding in the step's batch"
    )
    parser.add_argument("--embed-tasks", type=positive, default=20_000)
    parser.add_argument("--files", type=positive, default=2, help="of task records")
    parser.add_argument("--compressed", action="store_true", help="compress the task records")
    parser.add_argument(
        "--algorithms",
        nargs="+",
        choices=NAMES,
        default=NAMES,
        metavar="NAME",
        help=f"of {', '.join(NAMES)}; the first two always, closed_form with vanilla_dot",
    )
    args = parser.parse_args()
    args.algorithms = [n for n in NAMES if n in {*NAMES[:2], *args.algorithms}]
    if "closed_form" in args.algorithms and "vanilla_dot" not in args.algorithms:
        parser.error("closed_form is compared with vanilla_dot: name both")
    device = choose_device(args.device)
    result = {"device": device, **measure(args)}
    print(
        json.dumps(result)
        if args.json
        else "\n".join(f"{name:40} {value}" for name, value in result.items())
    )


if __name__ == "__main__":
    main()
