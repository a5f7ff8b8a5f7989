"""Latency and throughput of ranking 1 member x 100 candidates, with client and embedded server.

    python benchmarks/serving.py --json

The server runs in another process of this machine. Four measurements alternate, so that all see the
same machine: a request with the member's meta embedding, the same one for an unknown member (no
look-up), and the SavedModel in this process, called as a function (`in_process_ms`) and run in a
session, as servers do (`session_ms`). A function that computes nothing takes half of
`in_process_ms` for as many inputs, because Python checks them.

Then requests alone are measured, from a process without TensorFlow: `client_share_of_p50` is the
CPU time of the calling thread (look-up, checks, request building, gRPC, parsing, ordering) over
their p50; `grpc_client_ms` is the part of gRPC for the finished bytes of such a request;
`client_process_ms` adds gRPC's own threads, which read from the socket. Weights are random: they do
not change the time.

Keys: `candidates`, `cores`, `p50_ms_with_embedding`, `p50_ms_without_embedding`,
`embedding_cost_share_of_p50`, `p99_ms`, `in_process_ms`, `session_ms`, `serving_overhead_ms` (over
`in_process_ms`), `p50_ms_alone`, `client_ms`, `client_process_ms`, `client_share_of_p50`,
`grpc_client_ms`; `requests_per_s` and `latency_ms` (`p50_ms` and `p99_ms`) by number of clients;
`look_up_ms` of `lmdb` and `redis`.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import grpc
import numpy as np
import serving_world as world
from command_line import parser_of, positive, print_measured
from servers import redis_server
from serving_world import timed

from limaml_serving import Ranker
from limaml_serving.client import wire
from limaml_serving.client.channel import channel_options
from limaml_serving.client.versions import KnownVersions
from tfrec_limaml.store import open_store

LOOK_UPS = 5000  # of one member each


def latency(ranker: Ranker, ranker_folder: Path, requests: list[Any], pairs: int) -> dict[str, Any]:
    """p50 with and without the embedding and in this process, in turns of random order.

    One request is open at a time.
    """
    import tensorflow as tf

    signature = tf.saved_model.load(str(ranker_folder)).signatures["rank"]
    unknown = [({**member, "user_id": None}, candidates) for member, candidates in requests]
    calls = {
        "adapted": [functools.partial(ranker.rank, *request) for request in requests],
        "plain": [functools.partial(ranker.rank, *request) for request in unknown],
        "in_process": in_process(signature, requests),
        "session": in_session(ranker_folder, requests),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    order = np.random.default_rng(5)
    for n in range(-100, pairs):
        for name in order.permutation(list(calls)):
            spent = timed(calls[name][n % len(requests)])
            if n >= 0:
                times[name].append(spent)
    wall = [spent for spent, _ in times["adapted"]]
    p50 = {name: float(np.median([spent for spent, _ in each])) for name, each in times.items()}
    return {
        "p50_ms_with_embedding": p50["adapted"],
        "p50_ms_without_embedding": p50["plain"],
        "embedding_cost_share_of_p50": p50["adapted"] / p50["plain"] - 1,
        "p99_ms": float(np.percentile(wall, 99)),
        "in_process_ms": p50["in_process"],
        "session_ms": p50["session"],
        "serving_overhead_ms": p50["adapted"] - p50["in_process"],
    }


def client_share(
    target: str, store: str, export: Path, candidates: int, calls: int
) -> dict[str, float]:
    """The client's share of a request; to be run in a separate process, as in applications."""
    requests = world.requests(200, candidates)
    with Ranker(target, open_store(store), manifest=export, timeout=30.0) as ranker:
        wall, thread, process = _spent(ranker, requests, calls)
    return {
        "p50_ms_alone": wall,
        "client_ms": thread,
        "client_process_ms": process,
        "client_share_of_p50": thread / wall,
        "grpc_client_ms": grpc_client_ms(target, requests, export, calls),
    }


def _spent(ranker: Ranker, requests: list[Any], calls: int) -> list[float]:
    """Medians in milliseconds: wall-clock time, CPU time of this thread, and of the process."""
    spent = []
    for n in range(-100, calls):
        process = time.process_time()
        wall, thread = timed(functools.partial(ranker.rank, *requests[n % len(requests)]))
        spent.append((wall, thread, 1000 * (time.process_time() - process)))
    return [float(np.median(times)) for times in zip(*spent[100:], strict=True)]


def grpc_client_ms(target: str, requests: list[Any], export: Path, calls: int) -> float:
    """CPU time of the calling thread in gRPC for one request's finished bytes, in milliseconds.

    Retries and deadline are those of the client.
    """
    known = KnownVersions(export).newest
    rows = known.reader.read(*requests[0])
    content = known.writer.write(
        "ranker",
        known.version,
        [rows],
        [[np.zeros((1, known.embedding_dim), np.float32)]],
        [[np.array([True])]],
    )
    with grpc.insecure_channel(target, channel_options(2, None)) as channel:
        call = channel.unary_unary(wire.PREDICT_METHOD)
        return float(
            np.median([timed(lambda: call(content, timeout=30.0))[1] for _ in range(calls)])
        )


def in_process(signature: Callable[..., Any], requests: list[Any]) -> list[Callable[[], Any]]:
    """Calls of the same SavedModel in this process, tensors made beforehand."""
    import tensorflow as tf

    dtypes = {f.name: tf.dtypes.as_dtype(f.dtype) for f in world.schema().all_features}
    calls = []
    for member, candidates in requests:
        inputs = {
            name: tf.constant(candidates.get(name, [member.get(name)]), dtype)
            for name, dtype in dtypes.items()
        }
        inputs |= {"meta_embedding": tf.zeros([1, 32]), "has_meta_embedding": tf.constant([True])}
        calls.append(lambda inputs=inputs: signature(**inputs)["logit"].numpy())
    return calls


def in_session(ranker_folder: Path, requests: list[Any]) -> list[Callable[[], Any]]:
    """Runs of the same SavedModel in a session in this process, arrays made beforehand."""
    from limaml_serving.server.runner import SavedModelRunner

    runner = SavedModelRunner(ranker_folder)
    signature = runner.signature("rank")
    kinds = {"string": object, "int64": np.int64, "float32": np.float32}
    calls = []
    for member, candidates in requests:
        arrays = {
            f.name: np.asarray(candidates.get(f.name, [member.get(f.name)]), kinds[f.dtype])
            for f in world.schema().all_features
        }
        arrays |= {"meta_embedding": np.zeros((1, 32), np.float32)}
        arrays |= {"has_meta_embedding": np.array([True])}
        calls.append(functools.partial(runner.run, signature, arrays, ("logit",)))
    return calls


def throughput(
    ranker: Ranker, requests: list[Any], threads: int, seconds: float
) -> dict[str, float]:
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
    return {
        "requests_per_s": len(wall) / spent,
        "p50_ms": float(np.median(wall)),
        "p99_ms": float(np.percentile(wall, 99)),
    }


def look_up_ms(address: str) -> float:
    """p50 of one member's look-up."""
    store = open_store(address)
    try:
        keys = [str(n) for n in np.random.default_rng(3).integers(0, world.MEMBERS, LOOK_UPS)]
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
    with (
        world.served(ranker=export / "ranker") as (target, _),
        Ranker(target, store, manifest=export, timeout=30.0) as ranker,
    ):
        say("latency")
        result |= latency(ranker, export / "ranker" / "1", requests, arguments.pairs)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as apart:
            result |= apart.submit(
                client_share, target, address, export, arguments.candidates, arguments.pairs
            ).result()
        loads = {}
        for threads in (1, 8, 32):
            say(f"throughput at {threads}")
            loads[str(threads)] = throughput(ranker, requests, threads, arguments.seconds)
        result["requests_per_s"] = {name: load["requests_per_s"] for name, load in loads.items()}
        result["latency_ms"] = {
            name: {key: load[key] for key in ("p50_ms", "p99_ms")} for name, load in loads.items()
        }
        counters = ranker.counters.snapshot()
    assert counters["failed"] == counters["unavailable"] == counters["missing"] == 0, counters
    say("look-ups")
    result["look_up_ms"] = {"lmdb": look_up_ms(address), "redis": None}
    if shutil.which("redis-server") is not None:
        with redis_server(folder) as redis:
            result["look_up_ms"]["redis"] = look_up_ms(redis)
    store.close()
    return result


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--candidates", type=positive, default=100)
    parser.add_argument(
        "--pairs", type=positive, default=1500, help="rounds of the latency measurements"
    )
    parser.add_argument("--seconds", type=float, default=8.0, help="of load at each concurrency")
    print_measured(parser, measure)


if __name__ == "__main__":
    main()
