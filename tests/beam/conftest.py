"""Raw data folders for the Beam jobs' tests, and the fixtures of `embedding_fixtures`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import quick_beam
from embedding_fixtures import (  # noqa: F401
    encode,
    export,
    make_rows,
    object_store,
    schema,
    upload,
    write_tasks,
)

from limaml_beam.generate_embeddings import adapter
from limaml_beam.update import adapting
from tfrec_limaml.schema.schema import Feature, History, Label, Schema, Split, parse_time

DAY = 86_400_000


@pytest.fixture(scope="session", autouse=True)
def _quick_beam() -> None:
    quick_beam.use()


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders of the models that jobs load from now on; jobs do not share them here."""
    import tensorflow as tf

    folders: list[str] = []
    load = tf.saved_model.load

    def counted(folder: str, **named: object) -> object:
        folders.append(folder)
        return load(folder, **named)

    monkeypatch.setattr(tf.saved_model, "load", counted)
    load_model = adapter.load_model.__wrapped__
    for module in (adapter, adapting):
        monkeypatch.setattr(module, "load_model", load_model)
    return folders


@pytest.fixture(scope="session")
def shop_schema() -> Schema:
    """Members open notifications: two task definitions, two joined tables, history on two keys."""
    return Schema(
        name="shop",
        label=Label(name="opened"),
        timestamp="time",
        tasks={"member": ("member",), "member_kind": ("member", "kind")},
        tables={"members": "member", "items": "item"},
        carry=("dwell",),
        weight="importance",
        features=(
            Feature(
                name="country", role="meta", dtype="string", encoding="vocabulary", table="members"
            ),
            Feature(name="age", role="meta", table="members"),
            Feature(name="kind", dtype="string", encoding="vocabulary"),
            Feature(name="item", dtype="int64", encoding="hash", buckets=16),
            Feature(name="price", normalise="log"),
            Feature(
                name="tags",
                dtype="string",
                encoding="vocabulary",
                separator=",",
                max_vocabulary=3,
                table="items",
            ),
            Feature(name="look", width=2, table="items"),
        ),
        history=(
            History(keys=("member",), smoothing=2.0),
            History(keys=("kind", "tags"), smoothing=0.0),
        ),
        split=Split(validation_start="2024-01-07", test_start="2024-01-09", test_end="2024-01-11"),
    )


@pytest.fixture(scope="session")
def shop_frames() -> Callable[..., dict[str, pd.DataFrame]]:
    """Random interactions (distinct rows, some at equal times) and their feature tables."""

    def make(rows: int = 400, members: int = 12, seed: int = 0) -> dict[str, pd.DataFrame]:
        draw = np.random.default_rng(seed)
        start = parse_time("2024-01-01")
        log = pd.DataFrame(
            {
                "member": draw.integers(0, members, rows),
                "kind": draw.choice(["mail", "push|now", "sms 100%", "ça"], rows),
                "item": draw.integers(0, 9, rows),
                "time": start + draw.integers(0, 10 * 24, rows) * (DAY // 24),
                "opened": draw.integers(0, 2, rows),
                "price": draw.lognormal(1.0, 1.0, rows).round(3),
                "dwell": draw.random(rows).round(3),
                "importance": draw.choice([0.5, 1.0], rows),
            }
        )
        people = pd.DataFrame(
            {
                "member": range(members),
                "country": draw.choice(["de", "fr"], members),
                "age": draw.integers(18, 80, members),
            }
        )
        items = pd.DataFrame(
            {"item": range(9), "tags": ["a,b", "b", "c", "", "a", "d,a", "b,c", "e", "a"]}
        )
        items["look"] = [draw.random(2).tolist() for _ in range(9)]
        return {
            "interactions": log.sort_values("time", kind="stable"),
            "members": people,
            "items": items,
        }

    return make


@pytest.fixture(scope="session")
def write_raw() -> Callable[[Path, Schema, dict[str, pd.DataFrame]], Path]:
    """Writes a folder in the layout of `limaml datasets prepare`."""

    def write(folder: Path, schema: Schema, frames: dict[str, pd.DataFrame]) -> Path:  # noqa: F811
        folder.mkdir(parents=True, exist_ok=True)
        schema.save(folder / "schema.yaml")
        for name, frame in frames.items():
            frame.to_parquet(folder / f"{name}.parquet", index=False)
        return folder

    return write


@pytest.fixture(scope="session")
def read_tasks() -> Callable[[Path, str, str], dict[str, tuple[int, list[dict[str, object]]]]]:
    """Decodes the records of one split: task key to (query_start, rows)."""

    def read(
        tasks: Path, definition: str, split: str
    ) -> dict[str, tuple[int, list[dict[str, object]]]]:
        import tensorflow as tf

        found: dict[str, tuple[int, list[dict[str, object]]]] = {}
        files = sorted(str(path) for path in (tasks / definition).glob(f"{split}-*.tfrecord.gz"))
        for serialized in tf.data.TFRecordDataset(
            files, compression_type="GZIP"
        ).as_numpy_iterator():
            record = tf.train.SequenceExample.FromString(serialized)
            context = record.context.feature
            rows: list[dict[str, object]] = [
                {} for _ in range(context["sample_count"].int64_list.value[0])
            ]
            for name, steps in record.feature_lists.feature_list.items():
                assert len(steps.feature) == len(rows)
                for row, step in zip(rows, steps.feature, strict=True):
                    values = getattr(step, step.WhichOneof("kind")).value
                    row[name] = list(values) if len(values) > 1 else values[0]
            key = context["task_key"].bytes_list.value[0].decode()
            assert key not in found
            found[key] = (context["query_start"].int64_list.value[0], rows)
        return found

    return read
