"""What is scored, adapted and served, and the file of `limaml evaluate`."""

from __future__ import annotations

import json
import types
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from graphs import without_graphs

from tfrec_limaml import LiMAML, Vanilla
from tfrec_limaml.commands import evaluate as command
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.evaluation import (
    adaptation_losses,
    score_tasks,
    served_rows,
    task_keys,
)
from tfrec_limaml.export.adapter import adapter_module
from tfrec_limaml.export.ranker import ranker_module
from tfrec_limaml.tasks.parsing import parse_tasks


def test_the_tasks_are_those_that_the_models_were_trained_for():
    schema = types.SimpleNamespace(
        fingerprint=lambda: "f", default_task="member", task_columns=lambda name: (name,)
    )

    def trained(task, nested=()):
        encoder = types.SimpleNamespace(schema=schema, task=task, nested=nested)
        return types.SimpleNamespace(encoder=encoder, meta_block=None)

    assert command._definition(trained("item"), schema, None, "a.keras") == "item"
    assert command._definition(trained(None), schema, None, "a.keras") == "member"
    assert command._definition(trained("item"), schema, "member", "a.keras") == "member"
    assert command._definition(trained("item", ("item_tab",)), schema, None, "a.keras") == "item"
    with pytest.raises(LimamlError, match=r"leave out --task, or pass item, not member"):
        command._definition(trained("item", ("item_tab",)), schema, "member", "a.keras")
    command._refuse_other("item", None, "a.keras")
    with pytest.raises(LimamlError, match=r"b.keras was trained for tasks of 'item'.*'member'"):
        command._refuse_other("item", "member", "b.keras")


def test_served_scores_are_those_of_the_exported_adapter_and_ranker(
    make_model, tasks_folder, test_tasks
):
    model = make_model()
    with without_graphs():
        served = served_rows(model, test_tasks)
    records = list(
        tf.data.TFRecordDataset(
            str(tasks_folder / "member" / "test-00000-of-00001.tfrecord.gz"), "GZIP"
        ).as_numpy_iterator()
    )
    signatures = adapter_module(model).signatures
    made = signatures["serving_default"](task_records=tf.constant(records))
    embeddings = dict(
        zip(made["task_key"].numpy()[:, 0], made["meta_embedding"].numpy(), strict=True)
    )
    counts = dict(
        zip(made["task_key"].numpy()[:, 0], made["sample_count"].numpy()[:, 0], strict=True)
    )
    tasks = parse_tasks(tf.constant(records), model.encoder.schema)
    query = np.concatenate(
        [
            np.arange(n) >= s
            for n, s in zip(tasks.counts.numpy(), tasks.query_start.numpy(), strict=True)
        ]
    )
    signatures = ranker_module(model).signatures
    scores = signatures["serving_default"](
        signal=tasks.columns["signal"][query],
        kind=tasks.columns["kind"][query],
        meta_embedding=np.stack([embeddings[key] for key in served["task_key"]]),
        has_meta_embedding=np.array([counts[key] > 0 for key in served["task_key"]]),
    )
    np.testing.assert_allclose(served["probability"], scores["probability"], rtol=1e-5)
    assert (served["history"] == 0).sum() == 15


@pytest.mark.usefixtures("no_graphs")
def test_served_and_adapted_scores_agree_without_history_and_differ_with_it(make_model, test_tasks):
    model = make_model()
    served, adapted = served_rows(model, test_tasks), model.predict(test_tasks, verbose=0)
    new = served["history"] == 0
    np.testing.assert_allclose(served["probability"][new], adapted["probability"][new], rtol=1e-5)
    assert np.abs(served["probability"] - adapted["probability"])[~new].max() > 1e-4


@pytest.mark.usefixtures("no_graphs")
@pytest.mark.parametrize("kwargs", [{}, {"cls": Vanilla}])
def test_adaptation_lowers_the_support_loss_at_a_small_rate(
    make_model, test_tasks, kwargs, recwarn
):
    actual = adaptation_losses(make_model(**kwargs), test_tasks)
    assert actual["support_loss_after"] < actual["support_loss_before"]
    assert not [w for w in recwarn if "inner_learning_rate" in str(w.message)]


@pytest.mark.usefixtures("no_graphs")
def test_a_rate_that_diverges_is_reported_with_the_loss_before_and_after(make_model, test_tasks):
    with pytest.warns(
        UserWarning,
        match=r"loss: 0\.\d+ before and .* after 2 steps at inner_learning_rate=300; lower",
    ):
        actual = adaptation_losses(make_model(rate=300.0), test_tasks)
    assert actual["support_loss_rose"] > 0.3


@pytest.mark.usefixtures("no_graphs")
def test_a_loss_that_stays_where_it_was_has_not_risen(make_model, test_tasks):
    model = make_model()
    model.adaptation_strength = 0.0
    actual = adaptation_losses(model, test_tasks)
    assert actual["support_loss_after"] == actual["support_loss_before"]
    assert actual["support_loss_rose"] == 0.0


def test_the_summary_shows_the_two_blocks(make_model):
    lines = []
    make_model().summary(print_fn=lambda line, **_: lines.append(line))
    text = "\n".join(lines)
    assert "meta_block (MLPMetaBlock)" in text
    assert "global_block (MLPGlobalBlock)" in text


def test_limaml_evaluate_writes_every_variant_with_its_cohorts(
    make_model, tasks_folder, tmp_path, run_limaml
):
    for cls, name in ((None, "limaml"), (Vanilla, "vanilla")):
        (make_model(cls) if cls else make_model()).save(tmp_path / f"{name}.keras")
    printed = run_limaml("evaluate", tasks_folder, "--run", tmp_path)
    written = json.loads(
        (tmp_path / "evaluation.json").read_text(),
        parse_constant=lambda name: pytest.fail(f"{name} is not JSON"),
    )
    assert printed == written
    assert written["gain_over"] == "vanilla"
    variants = [
        (r["algorithm"], r["fine_tune"], r.get("served", False)) for r in written["results"]
    ]
    assert variants == [
        ("vanilla", False, False),
        ("vanilla", True, False),
        ("limaml", False, False),
        ("limaml", True, False),
        ("limaml", True, True),
    ]
    assert written["results"][0]["gain"] == 0
    tasks = {part["slice"]: part["tasks"] for part in written["results"][0]["cohorts"]}
    assert tasks == {
        "cold": 5,
        "dormant": 5,
        "active": 50,
        "under 25 rows": 59,
        "25 rows or more": 1,
    }
    assert (
        written["results"][3]["support_loss_after"] < written["results"][3]["support_loss_before"]
    )


def test_task_keys_are_read_from_records(tasks_folder):
    assert task_keys([str(tasks_folder / "member" / "train-00000-of-00001.tfrecord.gz")]) == {
        f"m{i}".encode() for i in range(5, 60)
    }


def test_a_loaded_model_finds_its_blocks_by_name(make_model, tmp_path):
    make_model().save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras")
    assert model.get_layer("meta_block") is model.meta_block


def test_a_model_with_an_encoder_trains_under_jit_compile_with_keras_warning(
    make_model, test_tasks
):
    losses = []
    for jit_compile in (False, True):
        keras.utils.set_random_seed(3)
        model = make_model()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.compile("adam", jit_compile=jit_compile, run_eagerly=not jit_compile)
        warned = [w for w in caught if "Proceeding with `jit_compile=False`" in str(w.message)]
        assert bool(warned) == jit_compile
        losses.append(model.evaluate(test_tasks, verbose=0))
    assert losses[1] == pytest.approx(losses[0])


@pytest.mark.parametrize("cls", [LiMAML, Vanilla])
def test_one_pass_scores_as_every_pass_alone(cls, make_model, test_tasks):
    model = make_model(cls)
    actual = score_tasks(model, test_tasks)
    for fine_tune, rows in ((False, actual.unadapted), (True, actual.adapted)):
        model.fine_tune = fine_tune
        with without_graphs():
            expected = model.predict(test_tasks, verbose=0)
        assert set(rows) == set(expected)
        for name, values in expected.items():
            if name == "probability":
                np.testing.assert_allclose(rows[name], values, atol=1e-6)
            else:
                np.testing.assert_array_equal(rows[name], values, name)
    assert np.abs(actual.adapted["probability"] - actual.unadapted["probability"]).max() > 1e-4
    with without_graphs():
        assert actual.losses == pytest.approx(adaptation_losses(model, test_tasks), abs=1e-6)
    if cls is Vanilla:
        assert actual.served is None
    else:
        with without_graphs():
            served = served_rows(model, test_tasks)["probability"]
        np.testing.assert_allclose(actual.served["probability"], served, atol=1e-6)
