"""Peak memory of a training step of the reference network, by inner steps n and tasks T.

    python benchmarks/memory.py [--json] [--svg docs/images/memory.svg] [--steps 1 5] [--tasks 128]
    python benchmarks/memory.py --long [--json]

With `--long` 32 tasks have 256 support rows, and n is 1 and 5. `step_ms` is the median time of a
step.

Each case runs in a separate process, which reports the increase of its peak resident memory over
the state with data and model ready.

Keys: `by_inner_steps` and `by_tasks` (with `--long` no such keys), each a list of cases with
`steps`, `tasks`, `support`, `step_ms`, `graph_mb` (building the graph) and `step_mb` (running it).
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from command_line import parser_of, positive

STEPS, TASKS = (1, 2, 3, 5, 10), (32, 64, 128, 256, 512)
BASE_STEPS, BASE_TASKS = 1, 128
LONG_TASKS, LONG_SUPPORT = 32, 256
LONG_STEPS = (1, 5)


def measure_here(steps, tasks, support=24):
    """Additional megabytes after three training steps in this process, and the time of five more.

    The time is a median.
    """
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import numpy as np
    import reference_work as work
    import tensorflow as tf

    rng = np.random.default_rng(0)
    batch = {
        "support": work.random_samples(rng, tasks, support),
        "query": work.random_samples(rng, tasks, 8),
    }
    step = tf.function(work.model("limaml_n1", inner_steps=steps).train_step, autograph=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    graph = step.get_concrete_function(batch)
    traced = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3):
        graph(batch)["loss"].numpy()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(5):
        started = time.perf_counter()
        graph(batch)["loss"].numpy()
        times.append(1e3 * (time.perf_counter() - started))
    return {
        "steps": steps,
        "tasks": tasks,
        "support": support,
        "step_ms": statistics.median(times),
        "graph_mb": (traced - before) / 1024,
        "step_mb": (after - traced) / 1024,
    }


@functools.cache
def measure(*case):
    command = [sys.executable, __file__, "--case", *map(str, case)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    print(done.stdout.strip(), file=sys.stderr)
    return {key: round(value, 1) for key, value in json.loads(done.stdout).items()}


def draw(by_steps, by_tasks):
    """Two charts side by side, as one standalone SVG."""
    from tfrec_limaml.report import svg

    style = (
        "text{font:12px "
        "sans-serif;fill:#444}.axis{font-weight:bold}.grid{stroke:#ddd}.base{stroke:#888}"
        ".s0{stroke:#0868ac;fill:#0868ac}.line{fill:none;stroke-width:2}"
    )
    parts = []
    for index, (rows, key, label) in enumerate(
        (
            (by_steps, "steps", "inner steps n (T = 128)"),
            (by_tasks, "tasks", "tasks per batch T (n = 1)"),
        )
    ):
        points = [(row[key], row["step_mb"]) for row in rows]
        marks = svg.ticks(0, max(y for _, y in points))
        frame = svg.Frame(x_range=(0, points[-1][0] * 1.05), y_range=(marks[0], marks[-1]))
        body = [
            frame.y_axis(marks, "peak memory of a step, MB"),
            frame.x_axis([(x, str(x)) for x, _ in points[-4:]], label),
            frame.line(0, points),
        ]
        body += [svg.marker(0, frame.x(x), frame.y(y)) for x, y in points]
        parts.append(svg.element("g", *body, transform=f"translate({index * 430},0)"))
    background = svg.element("rect", width=860, height=300, fill="#fff")
    head = svg.element("title", "Peak memory of a LiMAML training step")
    return svg.element(
        "svg",
        head,
        svg.element("style", style),
        background,
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox="0 0 860 300",
    )


def main():
    parser = parser_of(__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--svg", type=Path, help="draw both curves there")
    parser.add_argument(
        "--steps", type=positive, nargs="+", default=STEPS, help=f"with {BASE_TASKS} tasks"
    )
    parser.add_argument(
        "--tasks", type=positive, nargs="+", default=TASKS, help="with one inner step"
    )
    parser.add_argument("--long", action="store_true", help="tasks of 256 support rows")
    parser.add_argument("--case", type=int, nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure_here(*args.case)))
        return
    if args.long:
        rows = [measure(steps, LONG_TASKS, LONG_SUPPORT) for steps in LONG_STEPS]
        print(json.dumps(rows) if args.json else "\n".join(map(str, rows)))
        return
    by_steps = [measure(steps, BASE_TASKS) for steps in args.steps]
    by_tasks = [measure(BASE_STEPS, tasks) for tasks in args.tasks]
    if args.svg:
        args.svg.write_text(draw(by_steps, by_tasks) + "\n", encoding="utf-8")
    result = {"by_inner_steps": by_steps, "by_tasks": by_tasks}
    print(
        json.dumps(result)
        if args.json
        else "\n".join(str(row) for rows in result.values() for row in rows)
    )


if __name__ == "__main__":
    main()
