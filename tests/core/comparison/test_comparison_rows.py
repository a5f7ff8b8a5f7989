"""The rows of records as tables for tabular models, in the order in which networks score them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from toys import toy_schema, toy_statistics, write_description, write_split

from tfrec_limaml.comparison.networks import in_order_of, scores
from tfrec_limaml.comparison.rivals import Data
from tfrec_limaml.comparison.rows import Rows, dense, read_rows, table
from tfrec_limaml.diagnosis import scored_rows
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.schema.schema import Feature
from tfrec_limaml.tasks.feature_encoder import FeatureEncoder
from tfrec_limaml.tasks.input_pipeline import task_dataset
from tfrec_limaml.tasks.record_format import encode_task
from tfrec_limaml.training.model_options import ModelOptions
from tfrec_limaml.training.recipes import build_model


@pytest.fixture(scope="module")
def data(tasks_folder):
    return Data.of(tasks_folder, epochs=1)


def test_rows_are_the_query_rows_in_the_order_that_networks_score_them(data):
    dataset = task_dataset(data.pattern("test"), data.encoder, 16, with_keys=True)
    label, key = [], []
    for batch in dataset:
        real = batch["query"]["weight"] > 0
        label.append(tf.boolean_mask(batch["query"]["label"], real))
        keys = tf.repeat(batch["task_key"][:, None], tf.shape(real)[1], 1)
        key.append(tf.boolean_mask(keys, real))
    np.testing.assert_array_equal(data.test.label, tf.concat(label, 0))
    np.testing.assert_array_equal(data.test.task_key, tf.concat(key, 0))
    assert data.test.history.max() == 6
    assert (data.train.history == 0).all()


def test_scores_are_in_the_order_of_the_files_though_tasks_are_read_by_length(data):
    model = build_model("limaml", data.encoder, ModelOptions(global_units=(4,), meta_units=(4,)))
    model.compile()
    dataset = task_dataset(data.pattern("test"), data.encoder, 16, with_keys=True)
    model.fine_tune = True
    expected = model.predict(dataset, verbose=0)["probability"]
    scored = scores(model, data, "test", adapted=True, in_place=True, batch=4)
    np.testing.assert_allclose(scored, expected, atol=1e-6)
    assert len(np.unique(scored)) > 20


def test_rows_of_weight_0_are_neither_in_the_table_nor_scored(tmp_path):
    schema = toy_schema(
        Feature(name="signal", role="meta", normalise="none"),
        label="clicked",
        weight="w",
        tasks={"member": ("member",)},
    )
    rows = [
        {"signal": float(i), "label": i % 2, "weight": float(i % 3), "timestamp": 86_400_000 * i}
        for i in range(12)
    ]
    for split, start in (("train", -1), ("validation", 6), ("test", 6)):
        records = [encode_task(schema, f"m{member}", rows, start) for member in range(3)]
        write_split(tmp_path, "member", split, records)
    write_description(tmp_path, schema, toy_statistics({}))
    world = Data.of(tmp_path)
    assert len(world.train.label) == 3 * 8
    assert sorted(world.test.columns["signal"][:4]) == [7, 8, 10, 11]
    model = build_model("vanilla", world.encoder, ModelOptions(global_units=(4,)))
    model.compile()
    assert len(scores(model, world, "test", adapted=False)) == len(world.test.label) == 3 * 4
    scored = scored_rows.score_rows(model, [*map(str, (tmp_path / "member").glob("test-*"))], [])
    assert np.bincount(scored.task, scored.query).tolist() == [4, 4, 4]
    assert len(scored.label) == 3 * 8


@pytest.mark.parametrize("change", [lambda v: v[1:], lambda v: 1 - v])
def test_a_network_that_scored_other_rows_is_refused(data, change):
    test = data.test
    rows = {"label": change(test.label), "task_key": test.task_key, "probability": test.label}
    with pytest.raises(LimamlError, match="scored other test rows than the table holds"):
        in_order_of(test, rows, "test")


def test_the_identity_of_a_row_is_its_own_and_survives_another_order(data):
    identity = data.test.identity()
    assert len(np.unique(identity)) == len(identity)
    again = read_rows(data.pattern("test"), data.encoder.schema).identity()
    np.testing.assert_array_equal(identity, again)


def test_the_table_holds_numbers_and_codes_and_the_dense_form_what_networks_read(data):
    frame = table(data.train, data.encoder, ids=True)
    assert list(frame.columns) == ["signal", "kind"]
    assert isinstance(frame["kind"].dtype, pd.CategoricalDtype)
    assert dense(data.train, data.encoder).shape == (len(frame), 5)


def test_a_feature_named_like_a_token_of_another_one_keeps_its_column():
    schema = toy_schema(
        Feature(name="tag", role="meta", dtype="string", encoding="vocabulary", separator="|"),
        Feature(name="tag_1", normalise="none"),
        Feature(name="vector", width=2, normalise="none"),
        label="clicked",
        tasks={"member": ("member",)},
    )
    statistics = toy_statistics({"tag": {"vocabulary": ["a", "b"], "counts": [2, 2]}})
    rows = Rows(
        **dict.fromkeys(
            ("label", "weight", "timestamp", "task_key", "task", "history", "last_seen"),
            np.zeros(2),
        ),
        columns={
            "tag": np.array([b"a", b"b"]),
            "tag_1": np.array([7.0, 8.0]),
            "vector": np.array([[1.0, 2.0], [3.0, 4.0]]),
        },
    )
    frame = table(rows, FeatureEncoder(schema, statistics), ids=True)
    names = list(frame.columns)
    assert names.count("tag_1") == 2
    assert frame.iloc[:, names.index("vector_0") - 1].tolist() == [7.0, 8.0]
    assert frame["vector_1"].tolist() == [2.0, 4.0]


def test_rows_are_told_apart_by_keys_and_texts_of_any_language():
    def rows(keys, texts):
        zeros = np.zeros(3, np.int64)
        columns = {"word": np.array([text.encode() for text in texts], object)}
        names = np.array([key.encode() for key in keys], object)
        return Rows(zeros, np.ones(3), zeros, names, zeros, zeros, zeros, columns)

    first = rows(["ü|0%", "日本", "a"], ["é", "", "x"]).identity()
    assert len(set(first)) == 3
    np.testing.assert_array_equal(first, rows(["ü|0%", "日本", "a"], ["é", "", "x"]).identity())
    assert (first != rows(["u|0%", "日本", "a"], ["é", "é", "y"]).identity()).all()
