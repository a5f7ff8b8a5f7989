"""Measures how soon a click changes a score, and the cost of an update.

    python benchmarks/freshness.py --members 20000 --share 0.01 --json
    python benchmarks/freshness.py --members 1000000 --rows 5 --stores lmdb --no-reconcile --json

A world of members is refreshed (``limaml refresh --keep-rows``); then micro-batches of clicks, each
of a share of the members, go through an updater that stays loaded, as in ``limaml stream``. The
time of a click is that from writing its file until the ranker has scored its member with the new
embedding from the store. A last refresh over all rows reports how many records agree with the
batch's. The model is the toolkit's default, untrained: weights do not change its cost.

Keys: `members`, `share`, and for each store (`lmdb`, `redis`), the first one's at the top too:
`refresh_s`, `first_update_s`, `click_to_score_p50_s`, `click_to_score_p99_s`,
`clicks_that_changed_a_score`, `update_tasks_per_s`, `reconciled_share` and `overlay_lookup_ratio`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from command_line import parser_of, positive, print_result
from servers import redis_server
from store import measure_overlay

from limaml_beam.build_tasks.options import PrepareOptions
from limaml_beam.commands.beam_flags import quiet_beam
from limaml_beam.io.folder_lock import UPDATE, exclusive
from limaml_beam.io.pipeline_options import use_options
from limaml_beam.refresh.job import refresh
from limaml_beam.refresh.options import Refresh, Thresholds
from limaml_beam.refresh.session import session
from limaml_beam.update.job import Update, Updater
from tfrec_limaml import export_for_serving
from tfrec_limaml.manifest import HAS_META_EMBEDDING, META_EMBEDDING, PROBABILITY, RANK_SIGNATURE
from tfrec_limaml.schema.columns import DAY_MS
from tfrec_limaml.schema.schema import Feature, Label, Schema
from tfrec_limaml.store import EmbeddingStore, open_store
from tfrec_limaml.tasks.statistics import Statistics
from tfrec_limaml.training.model_options import ModelOptions
from tfrec_limaml.training.recipes import build_model

WIDTH, ROWS_AT_ONCE = 16, 500_000
SCHEMA = Schema(
    name="freshness",
    label=Label(name="click"),
    timestamp="time",
    tasks={"user": ("user_id",)},
    features=(
        Feature(name="m", role="meta", width=WIDTH, normalise="none"),
        Feature(name="o", width=WIDTH, normalise="none"),
    ),
)


def make_export(folder: Path) -> tuple[str, Any, int]:
    """Exports a model; returns the adapter's path, the ranker's signature and the version."""
    import tensorflow as tf

    from tfrec_limaml.tasks.feature_encoder import FeatureEncoder

    statistics = Statistics(rows=1, label_mean=0.5, window={"start": 0, "end": 1}, features={})
    encoder = FeatureEncoder(SCHEMA, statistics)
    model = build_model("limaml", encoder, ModelOptions())
    version = export_for_serving(model, folder, model_version=1).model_version
    ranker = tf.saved_model.load(f"{folder}/ranker/{version}")
    return f"{folder}/adapter/{version}", (ranker, ranker.signatures[RANK_SIGNATURE]), version


def rows_of(members: np.ndarray, times: np.ndarray, random: np.random.Generator) -> pa.Table:
    vectors = random.standard_normal((2, len(members) * WIDTH), np.float32)
    features = [pa.FixedSizeListArray.from_arrays(pa.array(v), WIDTH) for v in vectors]
    return pa.table(
        {
            "user_id": pa.array([f"member-{n:08d}" for n in members]),
            "m": features[0],
            "o": features[1],
            "click": pa.array(random.integers(0, 2, len(members))),
            "time": pa.array(times),
        }
    )


class World:
    """Raw rows, a work folder, a store and a ranker."""

    def __init__(self, folder: Path, store: EmbeddingStore, members: int, rows: int) -> None:
        self.folder, self.store, self.members = folder, store, members
        self.adapter, (self._keep, self._rank), self.version = make_export(folder / "export")
        self.random = np.random.default_rng(7)
        (folder / "raw").mkdir()
        SCHEMA.save(folder / "raw" / "schema.yaml")
        now = round(time.time() * 1000)
        who = np.repeat(np.arange(members), rows)
        times = now - self.random.integers(DAY_MS // 24, 10 * DAY_MS, len(who))
        writer = None
        for start in range(0, len(who), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            table = rows_of(who[part], times[part], self.random)
            path = folder / "raw" / "interactions.parquet"
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
        writer.close()

    def refresh(self) -> dict[str, Any]:
        """The nightly run over all rows."""
        wide = dict.fromkeys(("max_drift", "max_norm_ratio", "max_rows_per_day_ratio"), 1e9)
        settings = Refresh(
            work=self.folder / "work",
            adapter=self.adapter,
            store=self.store,
            prepare=PrepareOptions(
                raw=str(self.folder / "raw"),
                interactions=(str(self.folder / "raw" / "interactions*.parquet"),),
                window_days=28.0,
            ),
            limits=Thresholds(min_loss_improvement=-1e9, min_norm_ratio=0.0, **wide),
            keep_rows=True,
        )
        with session(settings.work):
            return refresh(settings)

    def scores(self, keys: list[str]) -> np.ndarray:
        """The ranker's score of one candidate for each member."""
        import tensorflow as tf

        embeddings, found = self.store.get_many(keys, self.version)
        ones = np.ones((len(keys), WIDTH), np.float32)
        inputs = {"m": ones, "o": ones, META_EMBEDDING: embeddings, HAS_META_EMBEDDING: found}
        answer = self._rank(**{name: tf.constant(value) for name, value in inputs.items()})
        return np.asarray(answer[PROBABILITY]).reshape(-1)


def click_and_score(
    world: World, updater: Updater, number: int, share: float
) -> tuple[dict[str, Any], list[float]]:
    """One micro-batch; returns the report and each click's seconds until its score changed."""
    count = max(1, int(world.members * share))
    who = world.random.permutation(world.members)[:count]
    keys = [f"member-{n:08d}" for n in who]
    before = world.scores(keys)
    began = time.time()
    table = rows_of(who, np.full(count, round(began * 1000)), world.random)
    path = world.folder / "raw" / f"interactions-{number:03d}.parquet"
    pq.write_table(table, path)
    with exclusive(world.folder / "work", UPDATE):
        report = updater.update([str(path)])
    seconds = []
    for start in range(0, count, 100):
        after = world.scores(keys[start : start + 100])
        changed = int((after != before[start : start + 100]).sum())
        seconds += [time.time() - began] * changed
    return report, seconds


def measure(world: World, updates: int, share: float, reconcile: bool) -> dict[str, float]:
    began = time.time()
    world.refresh()
    refresh_s = time.time() - began
    updater = Updater(Update(work=world.folder / "work", store=world.store))
    first, _ = click_and_score(world, updater, 0, share)
    lags: list[float] = []
    tasks, spent = 0, 0.0
    for number in range(1, updates + 1):
        report, seconds = click_and_score(world, updater, number, share)
        lags += seconds
        tasks, spent = tasks + report["tasks"], spent + report["seconds"]
    updates = world.refresh()["updates"] if reconcile else {"reconciled_share": None}
    return {
        "refresh_s": refresh_s,
        "first_update_s": first["seconds"],
        "click_to_score_p50_s": float(np.quantile(lags, 0.5)),
        "click_to_score_p99_s": float(np.quantile(lags, 0.99)),
        "clicks_that_changed_a_score": len(lags) / max(tasks, 1),
        "update_tasks_per_s": tasks / spent,
        "reconciled_share": updates["reconciled_share"],
    }


@contextlib.contextmanager
def store_of(kind: str, folder: Path) -> Iterator[EmbeddingStore]:
    if kind == "lmdb":
        store = open_store(f"lmdb:{folder}/store")
        yield store
        store.close()
        return
    with redis_server(folder) as address:
        store = open_store(address)
        yield store
        store.close()


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--members", type=positive, default=20_000)
    parser.add_argument("--share", type=float, default=0.01, help="members in each update")
    parser.add_argument("--rows", type=positive, default=10, help="rows of each member")
    parser.add_argument("--stores", nargs="+", default=["lmdb", "redis"])
    parser.add_argument(
        "--no-reconcile", action="store_true", help="leave out the refresh at the end"
    )
    parser.add_argument("--updates", type=positive, default=5)
    parser.add_argument("--reads", type=positive, default=1000, help="timed look-ups of each kind")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    quiet_beam(use_options([]))
    report: dict[str, Any] = {"members": arguments.members, "share": arguments.share}
    for kind in arguments.stores:
        if kind == "redis" and shutil.which("redis-server") is None:
            continue
        with tempfile.TemporaryDirectory() as name, store_of(kind, Path(name)) as store:
            world = World(Path(name), store, arguments.members, arguments.rows)
            reconcile = not arguments.no_reconcile
            result = measure(world, arguments.updates, arguments.share, reconcile)
            rows = max(arguments.members, 1000)
            overlay = measure_overlay(store, rows, 32, arguments.reads, versions=(101, 102))
            result["overlay_lookup_ratio"] = overlay["overlay_lookup_ratio_500"]
            report[kind] = result
    report |= report[arguments.stores[0]]
    print_result(report, arguments.json)


if __name__ == "__main__":
    main()
