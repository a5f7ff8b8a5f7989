"""The cost at serving of one embedding per candidate, in addition to the member's.

    python benchmarks/serving_two_sided.py --json

Two models take turns at the embedded server: one with an embedding per member, and one with another
per item, so that 100 more keys are looked up and 100 more vectors travel. Weights are random: they
do not change the time.

Keys: `candidates`, `cores`, `one_sided_p50_ms`, `two_sided_p50_ms`, `two_sided_cost_share_of_p50`
and `two_sided_cost_interval`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import numpy.typing as npt
import serving_world as world
from command_line import parser_of, positive, print_measured

from limaml_serving import Ranker
from tfrec_limaml.store import open_store

#: Items with an embedding.
_ITEMS = 10_000


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """p50 of requests with the member's embedding alone, and with each candidate's own."""
    kinds = {"one_sided": world.ONE_SIDED, "two_sided": world.TWO_SIDED}
    requests = world.requests(200, arguments.candidates, items=_ITEMS)
    times: dict[str, list[float]] = {name: [] for name in kinds}
    exports = {name: world.export(folder / name, options) for name, options in kinds.items()}
    with contextlib.ExitStack() as stack:
        # One server for both: two processes differ by more than the models do.
        models = {name: export / "ranker" for name, export in exports.items()}
        target, _ = stack.enter_context(world.served(**models))
        store = stack.enter_context(contextlib.closing(open_store(f"lmdb:{folder / 'store'}")))
        world.publish(store, 1, items=_ITEMS)
        rankers = {
            name: stack.enter_context(
                Ranker(target, store, manifest=export, model_name=name, timeout=30.0)
            )
            for name, export in exports.items()
        }
        order = np.random.default_rng(5)
        for n in range(-100, arguments.pairs):
            request = requests[n % len(requests)]
            for name in order.permutation(list(rankers)):
                wall, _ = world.timed(functools.partial(rankers[name].rank, *request))
                if n >= 0:
                    times[name].append(wall)
        for ranker in rankers.values():
            counters = ranker.counters.snapshot()
            assert counters["failed"] == counters["missing"] == 0, counters
    one, two = (np.array(times[name]) for name in kinds)
    return {
        "candidates": arguments.candidates,
        "cores": os.cpu_count(),
        "one_sided_p50_ms": float(np.median(one)),
        "two_sided_p50_ms": float(np.median(two)),
        "two_sided_cost_share_of_p50": float(np.median(two) / np.median(one) - 1),
        "two_sided_cost_interval": interval_of_cost(one, two),
    }


def interval_of_cost(
    one: npt.NDArray[np.float64], two: npt.NDArray[np.float64]
) -> tuple[float, float]:
    """95 % interval of the medians' quotient less 1.

    By bootstrap over blocks of fifty rounds, because rounds close in time resemble each other.
    """
    draw = np.random.default_rng(11)
    blocks = [each[: len(each) // 50 * 50].reshape(-1, 50) for each in (one, two)]
    shares = []
    for _ in range(1000):
        chosen = draw.integers(0, len(blocks[0]), len(blocks[0]))
        medians = [np.median(each[chosen]) for each in blocks]
        shares.append(medians[1] / medians[0] - 1)
    low, high = np.quantile(shares, [0.025, 0.975])
    return float(low), float(high)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--candidates", type=positive, default=100)
    parser.add_argument("--pairs", type=positive, default=1500, help="rounds")
    print_measured(parser, measure)


if __name__ == "__main__":
    main()
