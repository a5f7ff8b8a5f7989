"""Statistics of training rows against NumPy over all rows at once."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from toys import toy_schema

from limaml_beam.build_tasks.settings import TaskSettings
from limaml_beam.build_tasks.statistics import StatisticsFn
from limaml_beam.rows.columnar import LABEL, TIME
from tfrec_limaml.schema.schema import Feature

SCHEMA = toy_schema(
    Feature(name="plain", role="meta"),
    Feature(name="log", normalise="log"),
    Feature(name="vector", width=2),
    Feature(name="word", dtype="string", encoding="vocabulary", max_vocabulary=2),
    Feature(name="words", dtype="string", encoding="vocabulary", separator=","),
    Feature(name="number", dtype="int64", encoding="vocabulary"),
    Feature(name="hashed", dtype="int64", encoding="hash", buckets=4),
    label="y",
    timestamp="t",
    tasks={"u": ("u",)},
)
HOW = TaskSettings(definitions=("u",), validation_start=100, test_start=200)


def columns(rows, seed=0):
    draw = np.random.default_rng(seed)
    return {
        TIME: draw.integers(0, 250, rows),
        LABEL: draw.integers(0, 2, rows).astype(np.float32),
        "plain": (1e6 + draw.normal(size=rows)).astype(np.float32),
        "log": draw.normal(scale=50, size=rows).astype(np.float32),
        "vector": draw.normal(size=(rows, 2)).astype(np.float32),
        "word": draw.choice(["b", "a", "c", "ä"], rows, p=[0.4, 0.3, 0.2, 0.1]),
        "words": draw.choice(["x,y", "y", "", "z,x,x"], rows),
        "number": draw.integers(-3, 3, rows),
        "hashed": draw.integers(0, 9, rows),
    }


def table(data, start, stop):
    part = {name: pa.array(values[start:stop]) for name, values in data.items() if name != "vector"}
    part["vector"] = pa.FixedSizeListArray.from_arrays(
        pa.array(data["vector"][start:stop].ravel()), 2
    )
    return pa.table(part)


@pytest.fixture
def found():
    data, combine = columns(1000), StatisticsFn(SCHEMA, HOW)
    bundles = []
    for start in range(0, 1000, 130):
        bundles.append(
            combine.add_input(
                combine.add_input({}, table(data, start, start + 50)),
                table(data, start + 50, start + 130),
            )
        )
    return data, combine.extract_output(combine.merge_accumulators(bundles))


def test_moments_equal_those_of_all_training_rows_after_the_transform(found):
    data, statistics = found
    train = data[TIME] < 100
    assert statistics.rows == train.sum()
    assert statistics.label_mean == pytest.approx(data[LABEL][train].mean())
    assert statistics.window == {"start": data[TIME][train].min(), "end": data[TIME][train].max()}
    logs = np.sign(data["log"]) * np.log1p(np.abs(data["log"].astype(np.float64)))
    for name, values in (("plain", data["plain"]), ("log", logs), ("vector", data["vector"])):
        rows = values[train].astype(np.float64).reshape(train.sum(), -1)
        assert statistics.features[name]["mean"] == pytest.approx(
            rows.mean(axis=0).tolist(), rel=1e-9
        )
        assert statistics.features[name]["variance"] == pytest.approx(
            rows.var(axis=0).tolist(), rel=1e-6
        )


def test_vocabularies_are_ordered_by_frequency_then_token_and_capped(found):
    data, statistics = found
    train = data[TIME] < 100
    assert statistics.features["word"]["vocabulary"] == ["b", "a"]
    assert statistics.features["word"]["counts"] == [
        int((data["word"][train] == w).sum()) for w in ("b", "a")
    ]
    tokens = [token for text in data["words"][train] for token in text.split(",") if token]
    counts = sorted((-tokens.count(t), t) for t in set(tokens))
    assert statistics.features["words"] == {
        "vocabulary": [t for _, t in counts],
        "counts": [-c for c, _ in counts],
    }
    assert sorted(statistics.features["number"]["vocabulary"]) == [-3, -2, -1, 0, 1, 2]
    assert all(isinstance(token, int) for token in statistics.features["number"]["vocabulary"])
    assert "hashed" not in statistics.features


def test_ties_are_broken_by_token():
    data = columns(4)
    data[TIME] = np.zeros(4, np.int64)
    data["word"] = np.array(["d", "c", "b", "a"])
    combine = StatisticsFn(SCHEMA, HOW)
    assert combine.extract_output(combine.add_input({}, table(data, 0, 4))).features["word"][
        "vocabulary"
    ] == ["a", "b"]
