"""The adaptation strength is chosen on validation tasks."""

from __future__ import annotations

import numpy as np
import pytest

from tfrec_limaml.errors import LimamlError
from tfrec_limaml.evaluation.metrics import auc_difference
from tfrec_limaml.training import strength as module
from tfrec_limaml.training.strength import choose_adaptation_strength


class _Model:
    """Scores rows so well as `quality` says for each strength."""

    def __init__(self, quality, tasks=60):
        random = np.random.default_rng(0)
        self.label = (random.random(tasks * 10) < 0.5).astype(np.float32)
        self.noise, self.quality, self.tasks = random.normal(size=tasks * 10), quality, tasks
        self.fine_tune, self.adaptation_strength = False, 1.0

    def predict(self):
        signal = self.quality[self.adaptation_strength] * self.label
        keys = np.repeat(np.arange(self.tasks), 10).astype("S")
        return {"probability": signal + self.noise, "label": self.label, "task_key": keys}


class _Dataset:
    element_spec = {"task_key": None}


@pytest.fixture(autouse=True)
def _toy_predictions(monkeypatch):
    """The toy model's rows instead of those of a real one."""

    def rows_by_strength(model, dataset, strengths, changed):
        rows = {}
        for model.adaptation_strength in strengths:
            rows[model.adaptation_strength] = model.predict()
        return rows

    monkeypatch.setattr(module, "rows_by_strength", rows_by_strength)


def _choose(quality, **options):
    model = _Model(quality, **options)
    result = choose_adaptation_strength(model, _Dataset(), list(quality))
    assert result["adaptation_strength"] == model.adaptation_strength
    return result


def test_a_strength_that_is_clearly_better_is_taken():
    result = _choose({0.0: 0.2, 1.0: 0.5, 2.0: 2.0})
    assert result["adaptation_strength"] == 2.0
    assert list(result["val_auc_by_strength"]) == ["0", "1", "2"]


def test_the_strength_of_training_is_kept_where_the_difference_is_noise():
    assert _choose({0.0: 0.2, 1.0: 1.0, 2.0: 1.0001})["adaptation_strength"] == 1.0


def _add_noise(model, scale, seed=6):
    """Adds noise to the toy model's scores; ``scale(strength)`` is its deviation."""
    plain = model.predict

    def predict():
        rows = plain()
        change = np.random.default_rng(seed).normal(size=len(model.label))
        rows["probability"] += scale(model.adaptation_strength) * change
        return rows

    model.predict = predict


@pytest.mark.parametrize(("gain", "chosen"), [(0.005, 1.0), (0.05, 2.0)])
def test_a_better_strength_is_taken_if_it_is_better_by_a_standard_error(gain, chosen):
    quality = {0.0: 0.2, 1.0: 1.0, 2.0: 1.0 + gain}
    model = _Model(quality)
    _add_noise(model, lambda strength: 0.03 * (strength == 2.0), seed=2)
    result = choose_adaptation_strength(model, _Dataset(), list(quality))
    assert result["val_auc_by_strength"]["2"] > result["val_auc_by_strength"]["1"]
    assert result["adaptation_strength"] == chosen


def test_adaptation_that_hurts_is_switched_off():
    assert _choose({0.0: 1.001, 1.0: 1.0, 2.0: 0.5})["adaptation_strength"] == 0.0


def test_a_small_gain_that_may_be_chance_does_not_switch_adaptation_on():
    model = _Model({0.0: 1.0, 1.0: 1.0}, tasks=2000)
    _add_noise(model, lambda strength: 0.02 * strength)
    result = choose_adaptation_strength(model, _Dataset(), [0.0])
    by_strength = result["val_auc_by_strength"]
    assert 0 < by_strength["1"] - by_strength["0"] < 0.001
    assert result["adaptation_strength"] == model.adaptation_strength == 0.0
    assert "contains zero and ends below 0.002 AUC" in result["strength_note"]


def test_the_note_is_given_where_another_strength_than_that_of_training_is_best():
    quality = {0.0: 1.0, 0.25: 1.00001, 1.0: 0.9999}
    model = _Model(quality, tasks=2000)
    # The best strength differs from none by noise.
    _add_noise(model, lambda strength: 0.01 * (strength == 0.25))
    result = choose_adaptation_strength(model, _Dataset(), list(quality))
    aucs = result["val_auc_by_strength"]
    assert aucs["0.25"] > aucs["0"] > aucs["1"]
    assert result["adaptation_strength"] == 0.0
    assert "contains zero and ends below 0.002 AUC" in result["strength_note"]


def test_there_is_no_note_where_not_adapting_is_best():
    result = _choose({0.0: 1.0, 0.25: 0.9999, 1.0: 0.9998}, tasks=2000)
    assert result["adaptation_strength"] == 0.0
    assert "strength_note" not in result


def test_a_small_gain_that_is_no_chance_is_taken():
    result = _choose({0.0: 1.0, 1.0: 1.0003}, tasks=2000)
    by_strength = result["val_auc_by_strength"]
    assert 0 < by_strength["1"] - by_strength["0"] < module.SMALL_GAIN
    assert result["adaptation_strength"] == 1.0
    assert "strength_note" not in result


def test_a_gain_that_few_rows_cannot_confirm_is_kept():
    model = _Model({0.0: 1.0, 1.0: 1.0}, tasks=31)

    def predict():  # independent scores: a wide interval
        noise = np.random.default_rng(11 + int(model.adaptation_strength)).normal(size=310)
        keys = np.repeat(np.arange(31), 10).astype("S")
        return {"probability": noise + model.label, "label": model.label, "task_key": keys}

    model.predict = predict
    result = choose_adaptation_strength(model, _Dataset(), [0.0])
    scores = {}
    for strength in (0.0, 1.0):
        model.adaptation_strength = strength
        scores[strength] = predict()
    rows = scores[1.0]
    tasks = np.unique(rows["task_key"], return_inverse=True)[1]
    value, low, high = auc_difference(
        rows["label"], rows["probability"], scores[0.0]["probability"], tasks
    )
    assert low < 0 < value < high
    assert high > module.SMALL_GAIN
    assert result["adaptation_strength"] == 1.0


def test_too_few_tasks_to_choose_by_keep_the_strength_and_say_so():
    result = _choose({0.0: 5.0, 1.0: 0.1}, tasks=module.MIN_VALIDATION_TASKS - 1)
    assert result["adaptation_strength"] == 1.0
    assert "fewer than 30 validation tasks" in result["strength_note"]


def test_a_dataset_without_keys_is_refused():
    class Plain:
        element_spec = {}

    with pytest.raises(LimamlError, match="with_keys=True"):
        choose_adaptation_strength(_Model({1.0: 1.0}), Plain())


def test_a_strength_with_scores_that_are_not_numbers_is_not_chosen():
    result = _choose({0.0: 0.0, 1.0: 1.0, 2.0: np.nan})
    assert result["adaptation_strength"] == 1.0
    assert result["val_auc_by_strength"].keys() == {"0", "1"}
