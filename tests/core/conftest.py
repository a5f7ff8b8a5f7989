"""Fixtures of the learning core's tests."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tfrec_limaml.schema.schema import Feature, Label, Schema
from tfrec_limaml.tasks.statistics import Statistics


@pytest.fixture(scope="session")
def golden():
    """Reference arrays by name, from ``golden/limaml_golden.npz`` beside the data folder."""
    data = Path(
        os.environ.get("LIMAML_DATA_DIR", Path(__file__).parents[2].parent / "shared" / "data")
    )
    path = data.parent / "golden" / "limaml_golden.npz"
    if not path.is_file():
        pytest.skip(
            f"no reference numbers at {path}; set LIMAML_DATA_DIR to the folder beside `golden`"
        )
    with np.load(path) as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def every_kind():
    """A schema with every kind of feature, and its statistics.

    Some names are not identifiers.
    """
    schema = Schema(
        name="every-kind",
        label=Label(name="opened"),
        timestamp="time",
        tasks={"member": ("member",), "member_tab": ("member", "tab")},
        weight="importance",
        carry=("dwell",),
        features=(
            Feature(name="age", role="meta"),
            Feature(name="Größe in cm", normalise="log", on_invalid="skip"),
            Feature(name="look", role="meta", width=3),
            Feature(name="visits", dtype="int64", normalise="none"),
            Feature(
                name="land.code",
                role="meta",
                dtype="string",
                encoding="vocabulary",
                max_vocabulary=3,
            ),
            Feature(name="tab", dtype="int64", encoding="vocabulary"),
            Feature(
                name="page/kind", dtype="string", encoding="hash", buckets=5, fill_value="none"
            ),
            Feature(name="item", dtype="int64", encoding="hash", buckets=7, embedding_width=2),
            Feature(
                name="class", role="meta", dtype="string", encoding="vocabulary", embedding_width=2
            ),
            Feature(name="tags", role="meta", dtype="string", encoding="vocabulary", separator=","),
            Feature(
                name="words",
                dtype="string",
                encoding="hash",
                buckets=6,
                separator="|",
                embedding_width=2,
            ),
        ),
    )
    features = {
        "age": {"mean": [40.0], "variance": [25.0]},
        "Größe in cm": {"mean": [1.5], "variance": [0.25]},
        "look": {"mean": [0.0, 1.0, -1.0], "variance": [1.0, 4.0, 0.25]},
        "land.code": {"vocabulary": ["de", "[UNK]", "fr", "at", "ch"], "counts": [5, 4, 3, 2, 1]},
        "tab": {"vocabulary": [1, -1, 0], "counts": [5, 4, 3]},
        "class": {"vocabulary": ["a", "ü b"], "counts": [2, 1]},
        "tags": {"vocabulary": ["x", "", "y"], "counts": [5, 4, 3]},
    }
    return schema, Statistics(
        rows=100, label_mean=0.5, window={"start": 1, "end": 9_000_000}, features=features
    )


@pytest.fixture(scope="session")
def make_rows():
    """``make_rows(count, seed)``: random rows of `every_kind` in time order, for `encode_task`."""

    def make(count, seed=0, start=0):
        draw = np.random.default_rng(seed)

        def several(tokens, separator):
            return separator.join(draw.choice(tokens, draw.integers(0, 4)))

        return [
            {
                "age": draw.normal(40, 5),
                "Größe in cm": draw.normal(0, 50),
                "look": draw.normal(size=3).tolist(),
                "visits": int(draw.integers(-3, 4)),
                "land.code": str(draw.choice(["de", "fr", "at", "ch", "[UNK]", "", "us"])),
                "tab": int(draw.choice([-1, 0, 1, 2, 2**40])),
                "page/kind": str(draw.choice(["home", "ça", ""])),
                "item": int(draw.integers(-(2**62), 2**62)),
                "class": str(draw.choice(["a", "ü b", "c"])),
                "tags": several(["x", "y", "z"], ","),
                "words": several(["p", "q", "r"], "|"),
                "label": float(draw.integers(2)),
                "timestamp": start + 1000 * i,
                "weight": float(draw.choice([0.5, 1.0])),
                "dwell": draw.random(),
            }
            for i in range(count)
        ]

    return make


@pytest.fixture(scope="session")
def as_columns(every_kind):
    """``as_columns(rows)``: the raw columns that the encoder and the ranker take."""
    kinds = {"string": object, "int64": np.int64, "float32": np.float32}

    def convert(rows):
        return {
            f.name: np.array([r[f.name] for r in rows], kinds[f.dtype])
            for f in every_kind[0].all_features
        }

    return convert


@pytest.fixture(scope="session")
def encoder(every_kind):
    """The encoder of `every_kind`."""
    from tfrec_limaml.tasks.feature_encoder import FeatureEncoder

    return FeatureEncoder(*every_kind)


@pytest.fixture(scope="session")
def make_model(encoder):
    """``make_model()``: a small untrained LiMAML model of `every_kind`.

    Its biases and embeddings are not zero.
    """
    import keras

    from tfrec_limaml import LiMAML, MLPGlobalBlock, MLPMetaBlock

    def make(**kwargs):
        keras.utils.set_random_seed(7)
        meta = MLPMetaBlock((4,), 3, activation="tanh", embeddings=encoder.embeddings("meta"))
        head = MLPGlobalBlock((5,), embeddings=encoder.embeddings())
        model = LiMAML(
            meta,
            head,
            encoder=encoder,
            **{"inner_learning_rate": 0.5, "fine_tune_steps": 2, **kwargs},
        )
        draw = np.random.default_rng(1)
        model.set_weights(
            [
                w + 0.3 * draw.normal(size=w.shape) if w.dtype == np.float32 else w
                for w in model.get_weights()
            ]
        )
        return model

    return make
