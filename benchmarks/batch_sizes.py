"""Times training steps of the reference work at growing batch sizes, up to a saturated device.

    python benchmarks/batch_sizes.py [--json] [--device cpu|gpu] [--rounds 5]
        [--tasks 128 512 2048 8192] [--algorithms vanilla limaml_n1 ...]
        [--policies float32 mixed_bfloat16] [--xla-tasks 128 2048] [--fit-tasks 128 2048]

The algorithms take turns, round by round; each figure is a median, and ratios to vanilla of the
same batch, dtype policy and compiler are medians of the rounds' ratios. A batch is in the device's
memory before the clock starts. `busy_percent` is what `nvidia-smi` reports while one algorithm
repeats its step for a second: the share of the time in which the GPU computes anything at all; null
without a GPU. With `--xla-tasks` the step is also measured as compiled by XLA, for these batches.
With `--fit-tasks` steps inside `fit` are timed for these batches, which are in the processor's
memory: of the algorithms, and of Keras on the same network and rows.

Keys: `device` and `steps`, a list with `tasks`, `policy`, `xla`, `algorithm`, `ms`, `tasks_per_s`,
`ratio` to vanilla and `busy_percent`; `saturates_at`, by algorithm in float32 without XLA: the
smallest batch with nine tenths of the highest rate; `fits`, a list with `tasks`, `algorithm`, `ms`,
`prefetched_ms` where batches are copied to the GPU ahead, and their ratios to Keras, `ratio` and
`prefetched_ratio`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import reference_work as work
import tensorflow as tf
from command_line import parser_of, positive
from timers import StepTimer, repeated, seconds_of_fit
from training import NAMES, QUERY, SUPPORT, choose_device, keras_fit_step, ours_fit_step

from tfrec_limaml.training.device_prefetch import prefetch_to_gpu

ALGORITHMS = ("vanilla", "limaml_n1", "limaml_n5", "limaml_n1_first_order", "closed_form")
BUSY_SECONDS, SATURATED = 1.0, 0.9
FIT_STEPS = 10, 60  # the difference of two calls excludes what `fit` does once


def signature(size):
    """Shapes with any number of tasks, so that one trace serves all batches."""
    number = tf.TensorSpec([None, size])
    columns = {"meta": work.META, "other": work.OTHER}
    features = {name: tf.TensorSpec([None, size, width]) for name, width in columns.items()}
    return {"features": features, "label": number, "weight": number}


def training_steps(names, policy, xla):
    """Compiled training steps under a dtype policy, by algorithm."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        models = {name: work.model(name) for name in names}
    finally:
        keras.config.set_dtype_policy(before)
    inputs = [{"support": signature(SUPPORT), "query": signature(QUERY)}]
    return {
        name: tf.function(
            model.train_step,
            autograph=False,
            jit_compile=xla or None,
            input_signature=None if xla else inputs,  # XLA compiles one shape
        )
        for name, model in models.items()
    }


def random_batch(tasks):
    rng = np.random.default_rng(0)
    sizes = {"support": SUPPORT, "query": QUERY}
    return {name: work.random_samples(rng, tasks, size) for name, size in sizes.items()}


def busy_percent(timer):
    """Median utilization that nvidia-smi reports while the step repeats; None without a GPU."""
    if not tf.config.get_visible_devices("GPU"):
        return None
    command = "nvidia-smi --query-gpu=utilization.gpu --format=csv,noheader,nounits -i 0 -lms 100"
    with subprocess.Popen(command.split(), stdout=subprocess.PIPE, text=True) as process:
        stop = time.perf_counter() + BUSY_SECONDS
        while time.perf_counter() < stop:
            timer()
        process.terminate()
        lines, _ = process.communicate()
    values = [int(line) for line in lines.split() if line.isdigit()]
    return statistics.median(values[len(values) // 3 :]) if values else None


def time_steps(functions, tasks, rounds):
    """Milliseconds and ratios of each algorithm for a batch."""
    batch = random_batch(tasks)
    timers = {
        name: StepTimer(lambda f=function: f(batch)["loss"], 1)
        for name, function in functions.items()
    }
    for timer in timers.values():
        timer()
        timer.calls = max(1, round(0.1 / timer()))
    seen = {name: [] for name in timers}
    for _ in range(rounds):
        for name, timer in timers.items():
            seen[name].append(timer())
    return [
        {
            "algorithm": name,
            "ms": round(1e3 * statistics.median(values), 3),
            "tasks_per_s": round(tasks / statistics.median(values)),
            "ratio": round(
                statistics.median(a / b for a, b in zip(values, seen["vanilla"], strict=True)), 3
            ),
            "busy_percent": busy_percent(timers[name]),
        }
        for name, values in seen.items()
    ]


def time_fits(names, tasks, rounds):
    """Milliseconds of a step inside `fit`, with and without copies ahead, and ratios to Keras."""
    with tf.device("/cpu:0"):
        batch = random_batch(tasks)
        fits = {"keras": keras_fit_step(batch)}
        fits |= {name: ours_fit_step(name, batch) for name in names}
        fits = {name: (model, repeated(dataset)) for name, (model, dataset) in fits.items()}
    seen = {}
    for turn in range(rounds + 1):
        for name, (model, dataset) in fits.items():
            for key, data in (("ms", dataset), ("prefetched_ms", prefetch_to_gpu(dataset))):
                short, long = (seconds_of_fit(model, data, steps) for steps in FIT_STEPS)
                if turn:  # the first is traced
                    step = 1e3 * (long - short) / (FIT_STEPS[1] - FIT_STEPS[0])
                    seen.setdefault((name, key), []).append(step)

    def ratio(name, key):
        pairs = zip(seen[name, key], seen["keras", key], strict=True)
        return round(statistics.median(a / b for a, b in pairs), 3)

    return [
        {
            "tasks": tasks,
            "algorithm": name,
            **{k: round(statistics.median(seen[name, k]), 3) for k in ("ms", "prefetched_ms")},
            "ratio": ratio(name, "ms"),
            "prefetched_ratio": ratio(name, "prefetched_ms"),
        }
        for name in fits
    ]


def measure(args):
    steps = []
    variants = [(policy, False, args.tasks) for policy in args.policies]
    variants += [(policy, True, args.xla_tasks) for policy in args.policies if args.xla_tasks]
    for policy, xla, sizes in variants:
        functions = training_steps(args.algorithms, policy, xla)
        for tasks in sizes:
            for row in time_steps(functions, tasks, args.rounds):
                steps.append({"tasks": tasks, "policy": policy, "xla": xla, **row})
                print(json.dumps(steps[-1]), file=sys.stderr, flush=True)
    fits = [
        row for tasks in args.fit_tasks for row in time_fits(args.algorithms, tasks, args.rounds)
    ]
    return {"steps": steps, "saturates_at": saturation(steps), "fits": fits}


def saturation(steps):
    """The smallest batch with nearly the highest rate, by algorithm."""
    rates = {}
    for row in steps:
        if row["policy"] == "float32" and not row["xla"]:
            rates.setdefault(row["algorithm"], {})[row["tasks"]] = row["tasks_per_s"]
    return {
        name: min(tasks for tasks, rate in of.items() if rate >= SATURATED * max(of.values()))
        for name, of in rates.items()
    }


def main():
    parser = parser_of(__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--tasks", type=positive, nargs="+", default=[128, 512, 2048, 8192])
    parser.add_argument("--xla-tasks", type=positive, nargs="*", default=[])
    parser.add_argument("--fit-tasks", type=positive, nargs="*", default=[])
    parser.add_argument("--policies", nargs="+", default=["float32"])
    parser.add_argument(
        "--algorithms", nargs="+", choices=NAMES, default=ALGORITHMS, metavar="NAME"
    )
    args = parser.parse_args()
    if "vanilla" not in args.algorithms:
        parser.error("--algorithms: name vanilla too, the others are compared with it")
    device = choose_device(args.device)
    result = {"device": device, **measure(args)}
    rows = (
        " ".join(f"{value!s:>22}" for value in row.values())
        for row in (*result["steps"], *result["fits"])
    )
    print(json.dumps(result) if args.json else "\n".join(rows))


if __name__ == "__main__":
    main()
