"""Latency and throughput of ranking 1 member x 100 candidates: client, embedded server in another process, loopback.

    python benchmarks/serving.py --json

Every second request carries the member's meta embedding, every other is the same request of someone unknown (no look-up), so that
both see the same machine. `client_share_of_p50` is the CPU time of the calling thread (look-up, checks, request building,
serialisation, parsing, ordering) over the p50. Weights are random: they do not change the time.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import serving_world as world
from limaml_serving import Ranker

from tfrec_limaml.store import open_store


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall and thread CPU time in milliseconds."""
    cpu, wall = time.thread_time(), time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - wall), 1000 * (time.thread_time() - cpu)


def latency(ranker: Ranker, requests: list[Any], pairs: int) -> dict[str, Any]:
    """p50 with and without the embedding, measured in turns at concurrency 1."""
    unknown = [({**member, "user_id": None}, candidates) for member, candidates in requests]
    for member, candidates in requests[:100]:
        ranker.rank(member, candidates)
    adapted, plain = [], []
    for n in range(pairs):
        i = n % len(requests)
        order = ((adapted, requests), (plain, unknown)) if n % 2 else ((plain, unknown), (adapted, requests))
        for times, source in order:
            times.append(timed(functools.partial(ranker.rank, *source[i])))
    (wall, cpu), (other, _) = np.array(adapted).T, np.array(plain).T
    p50, p50_plain = float(np.median(wall)), float(np.median(other))
    return {
        "p50_ms_with_embedding": p50,
        "p50_ms_without_embedding": p50_plain,
        "embedding_cost_share_of_p50": p50 / p50_plain - 1,
        "p99_ms": float(np.percentile(wall, 99)),
        "client_ms": float(np.median(cpu)),
        "client_share_of_p50": float(np.median(cpu)) / p50,
    }


def in_process(export: Path, requests: list[Any], calls: int) -> float:
    """p50 of the same SavedModel called in this process, tensors made beforehand."""
    import tensorflow as tf

    signature = tf.saved_model.load(str(export / "ranker" / "1")).signatures["rank"]
    dtypes = {f.name: tf.dtypes.as_dtype(f.dtype) for f in world.schema().all_features}
    inputs = []
    for member, candidates in requests[:50]:
        values = {f.name: candidates.get(f.name, [member.get(f.name)]) for f in world.schema().all_features}
        tensors = {name: tf.constant(value, dtypes[name]) for name, value in values.items()}
        inputs.append({**tensors, "meta_embedding": tf.zeros([1, 32]), "has_meta_embedding": tf.constant([True])})
    times = [timed(lambda n=n: signature(**inputs[n % len(inputs)])["logit"].numpy())[0] for n in range(calls + 50)]
    return float(np.median(times[50:]))


def throughput(ranker: Ranker, requests: list[Any], threads: int, seconds: float) -> dict[str, float]:
    """Requests per second and latency with `threads` callers that share one client."""
    times: list[list[float]] = [[] for _ in range(threads)]
    stop = time.perf_counter() + seconds

    def work(mine: list[float], n: int) -> None:
        while time.perf_counter() < stop:
            mine.append(timed(functools.partial(ranker.rank, *requests[n % len(requests)]))[0])
            n += 1

    workers = [threading.Thread(target=work, args=(mine, 17 * n)) for n, mine in enumerate(times)]
    began = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    wall = np.concatenate([np.array(mine) for mine in times])
    spent = time.perf_counter() - began
    return {"requests_per_s": len(wall) / spent, "p50_ms": float(np.median(wall)), "p99_ms": float(np.percentile(wall, 99))}


def look_up_ms(address: str, calls: int) -> float:
    """p50 of one member's look-up."""
    store = open_store(address)
    try:
        keys = [str(n) for n in np.random.default_rng(3).integers(0, world.MEMBERS, calls)]
        if store.current(1) is None:
            world.publish(store, 1)
        times = [timed(lambda key=key: store.get_many([key], 1))[0] for key in keys]
        return float(np.median(times))
    finally:
        store.close()


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    say("exporting")
    export = world.export(folder / "export")
    address = f"lmdb:{folder / 'store'}"
    store = open_store(address)
    world.publish(store, 1)
    requests = world.requests(200, arguments.candidates)
    result: dict[str, Any] = {"candidates": arguments.candidates, "cores": os.cpu_count()}
    with world.served(export / "ranker") as (target, _), Ranker(target, store, manifest=export, timeout=30.0) as ranker:
        say("latency")
        result |= latency(ranker, requests, arguments.pairs)
        loads = {}
        for threads in (1, 8, 32):
            say(f"throughput at {threads}")
            loads[str(threads)] = throughput(ranker, requests, threads, arguments.seconds)
        result["requests_per_s"] = {name: load["requests_per_s"] for name, load in loads.items()}
        result["latency_ms"] = {name: {key: load[key] for key in ("p50_ms", "p99_ms")} for name, load in loads.items()}
        counters = ranker.counters.snapshot()
    assert counters["failed"] == counters["unavailable"] == counters["missing"] == 0, counters
    say("in process")
    result["in_process_ms"] = in_process(export, requests, arguments.pairs)
    result["serving_overhead_ms"] = result["p50_ms_with_embedding"] - result["in_process_ms"]
    say("look-ups")
    with world.redis_address(folder) as redis:
        result["look_up_ms"] = {
            "lmdb": look_up_ms(address, 5000),
            "redis": None if redis is None else look_up_ms(redis, 5000),
        }
    store.close()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=2000, help="requests with and as many without an embedding")
    parser.add_argument("--seconds", type=float, default=8.0, help="of load at each concurrency")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments, Path(folder))
    print(json.dumps(result, indent=2) if arguments.json else "\n".join(f"{key}: {value}" for key, value in result.items()))


if __name__ == "__main__":
    main()
