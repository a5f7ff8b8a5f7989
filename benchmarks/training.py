"""Times the learning core on the reference work: 128 tasks x (24 support + 8 query), float32, Adam.

    python benchmarks/training.py [--json] [--rounds 9] [--device cpu|gpu]

Compared measurements alternate, round by round; each figure is a median. Ratios are medians of the
rounds' ratios. `--device gpu` fails if TensorFlow sees no GPU; `device` in the result names the
device of the measurement.
"""

from __future__ import annotations

import argparse
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
from tfrec_limaml.tasks.record_format import encode_task
from tfrec_limaml.tasks.statistics import Statistics
from tfrec_limaml.training.train import STEPS_PER_EXECUTION

TASKS, SUPPORT, QUERY = 128, 24, 8
FILE_TASKS, PASSES = 4096, 4  # tasks on disk, and how often one measurement goes through them
EMBED_TASKS = 20_000
EVERY = 3  # rounds between two measurements of what takes long
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
    rows = TASKS * (SUPPORT + QUERY)
    parts = [batch["support"], batch["query"]]
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


def task_files(folder, rng, tasks):
    """Task records of the reference sizes, and their encoder."""
    schema = work.schema()
    encoder = FeatureEncoder(schema, Statistics(rows=1, label_mean=0.5, window={}, features={}))
    with tf.io.TFRecordWriter(str(folder / "train-00000-of-00001.tfrecord")) as writer:
        for task in range(tasks):
            writer.write(encode_task(schema, f"t{task}", work.random_rows(rng, SUPPORT + QUERY)))
    return str(folder / "train-*"), encoder


def measure(rounds):
    rng = np.random.default_rng(0)
    batch = {
        "support": work.random_samples(rng, TASKS, SUPPORT),
        "query": work.random_samples(rng, TASKS, QUERY),
    }
    timers = {}
    for name in NAMES:
        step = tf.function(work.model(name).train_step)
        timers[name] = StepTimer(lambda s=step: s(batch)["loss"], 3 if "n5" in name else 6)
    timers["fit_vanilla"] = FitTimer(*ours_fit_step("vanilla", batch), 12)
    timers["fit_limaml_n1"] = FitTimer(*ours_fit_step("limaml_n1", batch), 8)
    timers["keras_fit"] = FitTimer(*keras_fit_step(batch), 12)
    timers["gemm"], gflop = gemm()

    counts = rng.integers(1, EMBED_MAX + 1, EMBED_TASKS)
    bucketed = list(embedding_batches(counts, rng, bucketed=True))
    model = work.model("limaml_n1", fine_tune_steps=EMBED_STEPS)
    embed = tf.function(lambda s: model.task_embeddings(s)[0], reduce_retracing=True)
    naive = naive_embedder()
    padded = list(embedding_batches(counts[: 8 * EMBED_BATCH], rng, bucketed=False))
    one_by_one = [tf.nest.map_structure(lambda x, t=t: x[t : t + 1], padded[0]) for t in range(100)]
    timers["embed"] = EmbedTimer(embed, bucketed)
    timers["embed_naive"] = EmbedTimer(naive, padded)
    timers["embed_loop"] = EmbedTimer(eager_loop(model), one_by_one[:20])

    with tempfile.TemporaryDirectory() as folder:
        pattern, encoder = task_files(Path(folder), rng, FILE_TASKS)
        dataset = task_dataset(pattern, encoder, TASKS, shuffle=True, seed=1)
        timers["input"] = lambda: _input_rate(dataset)
        fitted = work.model(
            "limaml_n1", steps_per_execution=STEPS_PER_EXECUTION
        )  # as `limaml train` does
        timers["step_beside_files"] = StepTimer(timers["limaml_n1"].function, 64)
        timers["fit_from_files"] = FitTimer(fitted, dataset, PASSES * FILE_TASKS // TASKS)
        for timer in timers.values():
            timer()
        seen = {name: [] for name in timers}
        for number in range(rounds):
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
            print(f"round {number + 1}/{rounds}", file=sys.stderr)
    return summarise(seen, gflop)


def _input_rate(dataset):
    """Tasks per second from files to batches, once the pipeline runs."""
    batches = iter(dataset.repeat(PASSES))
    next(batches)
    started = time.perf_counter()
    tasks = sum(int(batch["support"]["label"].shape[0]) for batch in batches)
    return tasks / (time.perf_counter() - started)


def summarise(seen, gflop):
    middle = {name: statistics.median(values) for name, values in seen.items()}
    result = {
        f"{name}_ms": 1e3 * middle[name]
        for name in (*NAMES, "fit_vanilla", "fit_limaml_n1", "keras_fit", "fit_from_files")
    }
    for name in NAMES[1:]:
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
    for name, work_gflop in (
        ("vanilla", 2.050),
        ("limaml_n1", 3.059),
        ("limaml_n5", 10.829),
        ("limaml_n1_first_order", 1.496),
    ):
        result[f"{name}_share_of_gemm"] = work_gflop / middle[name] / result["gemm_gflops"]
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    args = parser.parse_args()
    device = choose_device(args.device)
    result = {"device": device, **measure(args.rounds)}
    print(
        json.dumps(result)
        if args.json
        else "\n".join(f"{name:40} {value}" for name, value in result.items())
    )


if __name__ == "__main__":
    main()
