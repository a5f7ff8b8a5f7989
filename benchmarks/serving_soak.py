"""Load on a server whose model version and embeddings are replaced in every period.

    python benchmarks/serving_soak.py --json                              # ten minutes, ten swaps
    python benchmarks/serving_soak.py --json --periods 30 --seconds 5    # does memory keep growing?

Every score is compared with the same model called in this process with the embedding of the version
that answered, to detect scores of mixed versions. Memory is anonymous resident memory, noted at the
end of each period, before the next version appears; `growth_mb_per_swap` is its slope from the 10th
swap on, when all threads have done all kinds of work.

Keys: `ranked`, `failed`, `mixed` and `unadapted` requests, `version_changes`, `memory`, a list with
`server_mb` and `client_mb`, and `growth_mb_per_swap` of the same two (null with few periods); the
messages of failed requests, if any.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import serving_world as world
from command_line import parser_of, positive, print_measured

from limaml_serving import Ranker
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.store import open_store

REQUESTS = 20


def anonymous_mb(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


class Expected:
    """The logits of each request under each version, from the SavedModel itself."""

    def __init__(self, export: Path, requests: list[Any]) -> None:
        import tensorflow as tf

        self._signature = tf.saved_model.load(str(export / "ranker" / "1")).signatures["rank"]
        dtypes = {f.name: tf.dtypes.as_dtype(f.dtype) for f in world.schema().all_features}
        self._members = [member["user_id"] for member, _ in requests]
        self._inputs = [
            {n: tf.constant(c.get(n, [m.get(n)]), dtype) for n, dtype in dtypes.items()}
            for m, c in requests
        ]
        self._known: dict[int, list[np.ndarray]] = {}

    def learn(self, store: Any, version: int) -> None:
        import tensorflow as tf

        embeddings, _ = store.get_many([str(member) for member in self._members], version)
        has = tf.constant([True])
        self._known[version] = [
            self._signature(
                **inputs, meta_embedding=tf.constant(embedding[None]), has_meta_embedding=has
            )["logit"].numpy()
            for inputs, embedding in zip(self._inputs, embeddings, strict=True)
        ]

    def matches(self, index: int, ranked: Any) -> bool:
        return bool(
            np.allclose(
                self._known[ranked.model_version][index][ranked.order],
                ranked.logit,
                rtol=1e-3,
                atol=1e-4,
            )
        )


def load(
    ranker: Ranker,
    requests: list[Any],
    expected: Expected,
    stop: threading.Event,
    tally: dict[str, int],
) -> None:
    n = 0
    while not stop.is_set():
        index = n % len(requests)
        n += 1
        try:
            ranked = ranker.rank(*requests[index])
        except LimamlError as error:
            tally["failed"] += 1
            tally[str(error)] = tally.get(str(error), 0) + 1
        else:
            tally["ranked"] += 1
            tally["mixed"] += not expected.matches(index, ranked)
            tally["unadapted"] += not ranked.used_embedding.all()


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    export = world.export(folder / "export")
    store = open_store(f"lmdb:{folder / 'store'}")
    requests = world.requests(REQUESTS, 100)
    expected = Expected(export, requests)
    world.publish(store, 1)
    expected.learn(store, 1)
    memory: list[dict[str, float]] = []
    tallies = [
        {"ranked": 0, "failed": 0, "mixed": 0, "unadapted": 0} for _ in range(arguments.threads)
    ]
    stop = threading.Event()
    with (
        world.served(ranker=export / "ranker") as (target, server),
        Ranker(target, store, manifest=export, timeout=30.0) as ranker,
    ):
        workers = [
            threading.Thread(target=load, args=(ranker, requests, expected, stop, tally))
            for tally in tallies
        ]
        for worker in workers:
            worker.start()
        for version in range(2, arguments.periods + 2):
            time.sleep(arguments.seconds / 2)
            world.publish(store, version - 1)  # the daily refresh of the version that serves
            time.sleep(arguments.seconds / 2)
            world.publish(store, version)
            expected.learn(store, version)
            memory.append(
                {"server_mb": anonymous_mb(server), "client_mb": anonymous_mb(os.getpid())}
            )
            world.add_version(export, version)
            store.prune(version - 1, keep=1, grace_seconds=0.0)
        time.sleep(arguments.seconds / 2)
        stop.set()
        for worker in workers:
            worker.join()
        counters = ranker.counters.snapshot()
    store.close()
    totals = {
        key: sum(tally.get(key, 0) for tally in tallies)
        for key in {key for tally in tallies for key in tally}
    }
    return {
        **totals,
        "version_changes": counters["version_changes"],
        "memory": memory,
        "growth_mb_per_swap": growth(memory),
    }


def growth(memory: list[dict[str, float]]) -> dict[str, float] | None:
    """Slope of each process's memory from the 10th swap on; None with fewer than 5 later ones."""
    late = memory[10:]  # memory[n] is noted after n swaps
    if len(late) < 5:
        return None
    return {
        name: float(np.polyfit(range(len(late)), [each[name] for each in late], 1)[0])
        for name in late[0]
    }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--periods", type=positive, default=10)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each period")
    parser.add_argument("--threads", type=positive, default=4)
    print_measured(parser, measure)


if __name__ == "__main__":
    main()
