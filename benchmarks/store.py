"""Bulk rate, size and read latency of both embedding stores, with and without an overlay.

    python benchmarks/store.py --rows 1000000 --dim 32 --json

Keys: `rows`, `embedding_dim`, and for each store (`lmdb`, and `redis` where redis-server is
installed) `bulk_rows_per_s`, `bytes_per_row`, `get_1_us`, `get_1_p99_us`, `get_500_us`,
`get_500_p99_us`, `upsert_rows_per_s`, `overlay_get_1_us`, `overlay_get_500_us`,
`overlay_lookup_ratio_1` and `overlay_lookup_ratio_500`.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from command_line import parser_of, positive, print_result
from servers import redis_server

from tfrec_limaml.store import EmbeddingStore, open_store

BATCH = 50_000
#: Share of the members whose embedding is upserted for the look-ups with an overlay.
OVERLAY_SHARE = 0.05


def key_of(number: int) -> str:
    return f"member-{number * 2654435761 % 4294967296:010d}"


def write(store: EmbeddingStore, version: int, rows: int, dim: int) -> float:
    """Publishes one generation; returns its seconds in the store."""
    random = np.random.default_rng(7)
    seconds = 0.0
    with store.new_generation(version, dim) as writer:
        for start in range(0, rows, BATCH):
            keys = [key_of(n) for n in range(start, min(start + BATCH, rows))]
            matrix = random.standard_normal((len(keys), dim), np.float32)
            began = time.perf_counter()
            writer.put(keys, matrix)
            seconds += time.perf_counter() - began
        began = time.perf_counter()
        writer.publish(rows)
        return seconds + time.perf_counter() - began


def timed(store: EmbeddingStore, version: int, keys: list[str]) -> float:
    began = time.perf_counter()
    _, found = store.get_many(keys, version)
    seconds = time.perf_counter() - began
    assert found.all()
    return seconds


def measure(store: EmbeddingStore, rows: int, dim: int, reads: int) -> dict[str, float]:
    random = np.random.default_rng(8)
    result = {"bulk_rows_per_s": rows / write(store, 1, rows, dim)}
    for count in (1, 500):
        asked = [[key_of(n) for n in random.integers(0, rows, count)] for _ in range(reads)]
        store.get_many(asked[0], 1)
        times = [timed(store, 1, keys) for keys in asked]
        result[f"get_{count}_us"] = float(np.median(times)) * 1e6
        result[f"get_{count}_p99_us"] = float(np.quantile(times, 0.99)) * 1e6
    return result


def measure_overlay(
    store: EmbeddingStore, rows: int, dim: int, reads: int, versions: tuple[int, int] = (1, 2)
) -> dict[str, float]:
    """Alternating look-ups in a generation with an overlay and in one without.

    They belong to two model versions, which are published if they are missing.
    """
    plain_version, version = versions
    random = np.random.default_rng(9)
    for each in versions:
        if store.current(each) is None:
            write(store, each, rows, dim)
    current = store.current(version)
    assert current is not None
    touched = [key_of(n) for n in random.permutation(rows)[: max(1, int(rows * OVERLAY_SHARE))]]
    vectors = random.standard_normal((len(touched), dim), np.float32)
    began = time.perf_counter()
    for start in range(0, len(touched), BATCH):
        part = slice(start, start + BATCH)
        store.upsert(
            version, current.identifier, touched[part], vectors[part], [1] * len(touched[part])
        )
    result = {"upsert_rows_per_s": len(touched) / (time.perf_counter() - began)}
    for count in (1, 500):
        pairs = []
        for _ in range(reads):
            keys = [key_of(n) for n in random.integers(0, rows, count)]
            # Each is first in half of the turns: the second finds the keys in caches.
            order = versions if random.integers(2) else versions[::-1]
            times = {each: timed(store, each, keys) for each in order}
            pairs.append((times[plain_version], times[version]))
        plain, with_overlay = np.median(np.array(pairs), axis=0)
        result[f"overlay_get_{count}_us"] = float(with_overlay) * 1e6
        result[f"overlay_lookup_ratio_{count}"] = float(with_overlay / plain)
    return result


def measure_lmdb(folder: Path, rows: int, dim: int, reads: int) -> dict[str, float]:
    store = open_store(f"lmdb:{folder}/store")
    result = measure(store, rows, dim, reads)
    used = sum(p.stat().st_blocks * 512 for p in (folder / "store").rglob("*") if p.is_file())
    result |= {"bytes_per_row": used / rows, **measure_overlay(store, rows, dim, reads)}
    store.close()
    return result


def measure_redis(folder: Path, rows: int, dim: int, reads: int) -> dict[str, float]:
    with redis_server(folder) as address:
        store = open_store(address)
        before = store.client.info("memory")["used_memory"]  # type: ignore[attr-defined]
        result = measure(store, rows, dim, reads)
        used = store.client.info("memory")["used_memory"] - before  # type: ignore[attr-defined]
        result |= {"bytes_per_row": used / rows, **measure_overlay(store, rows, dim, reads)}
        store.close()
    return result


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--rows", type=positive, default=1_000_000)
    parser.add_argument("--dim", type=positive, default=32)
    parser.add_argument("--reads", type=positive, default=2_000, help="timed reads of each size")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    report: dict[str, object] = {"rows": arguments.rows, "embedding_dim": arguments.dim}
    for name, run in (("lmdb", measure_lmdb), ("redis", measure_redis)):
        if name == "redis" and shutil.which("redis-server") is None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            report[name] = run(Path(folder), arguments.rows, arguments.dim, arguments.reads)
    print_result(report, arguments.json)


if __name__ == "__main__":
    main()
