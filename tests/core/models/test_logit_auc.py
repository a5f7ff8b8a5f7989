"""The AUC of training and validation is that of the ranks, at any share of positive labels."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from small_models import small_model, task_batch

from tfrec_limaml.evaluation import auc
from tfrec_limaml.models.logit_auc import LogitAUC


@pytest.mark.parametrize("mean", [-9.0, -5.0, 0.0, 4.0])
@pytest.mark.parametrize("deviation", [0.1, 1.0])
def test_it_is_the_exact_auc_at_any_share_of_positive_labels(mean, deviation):
    draw = np.random.default_rng(0)
    logits = mean + deviation * draw.normal(size=40_000)
    probability = (1 / (1 + np.exp(-logits))).astype("f")
    label = (draw.random(len(logits)) < np.maximum(probability, 1e-3)).astype("f")
    metric = LogitAUC()
    for part in np.split(np.arange(len(logits)), 4):
        metric.update_state(label[part, None], probability[part, None])
    assert float(metric.result()) == pytest.approx(auc(label, probability), abs=1.5e-3)


def test_the_auc_of_keras_is_too_low_where_few_labels_are_positive():
    draw = np.random.default_rng(0)
    probability = 1 / (1 + np.exp(6 - draw.normal(size=200_000)))
    label = (draw.random(len(probability)) < probability).astype("f")
    areas = []
    for metric in (LogitAUC(), keras.metrics.AUC()):
        metric.update_state(label[:, None], probability[:, None])
        areas.append(round(float(metric.result()), 3))
    assert round(float(label.mean()), 3) == 0.004
    assert [round(auc(label, probability), 3), *areas] == [0.751, 0.751, 0.706]


def test_certain_predictions_are_ranked_too():
    metric = LogitAUC()
    metric.update_state([0, 1, 0, 1], [0.0, 1.0, 1e-30, 0.5])
    assert float(metric.result()) == 1.0


def test_it_is_restored_from_its_configuration_and_refuses_what_it_chooses_itself():
    metric = LogitAUC(num_thresholds=100, name="area")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert (type(again), again.get_config()) == (LogitAUC, metric.get_config())
    for argument in ({"from_logits": True}, {"thresholds": [0.5]}):
        with pytest.raises(ValueError, match="takes probabilities and chooses its thresholds"):
            LogitAUC(**argument)


def test_models_report_it_before_and_after_adaptation():
    model, batch = small_model(), task_batch(np.random.default_rng(0), tasks=60)
    batch["query"]["label"] = (np.random.default_rng(1).random((60, 3)) < 0.04).astype("f")
    reported = model.test_on_batch(batch, return_dict=True)
    rows = model.predict_on_batch(batch)
    assert reported["auc"] == pytest.approx(auc(rows["label"], rows["probability"]), abs=5e-3)
    model.fine_tune = False
    rows = model.predict_on_batch(batch)
    assert reported["unadapted_auc"] == pytest.approx(
        auc(rows["label"], rows["probability"]), abs=5e-3
    )


def test_labels_of_one_class_have_the_area_0_which_the_auc_of_ranks_does_not_know():
    metric = LogitAUC()
    metric.update_state([1.0, 1.0], [0.2, 0.7])
    assert float(metric.result()) == 0.0
    assert np.isnan(auc(np.ones(2), np.array([0.2, 0.7])))
