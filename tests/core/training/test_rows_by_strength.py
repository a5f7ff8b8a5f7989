"""Predictions with several adaptation strengths are those of `predict`, from one trace."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from evaluation_fixtures import SCHEMA, STATISTICS

from tfrec_limaml.blocks import DotProductGlobalBlock, OffsetMetaBlock
from tfrec_limaml.models import EntireNetworkMAML, LiMAML, Vanilla
from tfrec_limaml.tasks.feature_encoder import FeatureEncoder
from tfrec_limaml.training.strength import rows_by_strength

STRENGTHS = (0.0, 0.5, 1.0, 4.0)


def closed_form():
    keras.utils.set_random_seed(3)
    model = LiMAML(
        OffsetMetaBlock((4,), 3, name="meta_block"),
        DotProductGlobalBlock((5,), name="global_block"),
        encoder=FeatureEncoder(SCHEMA, STATISTICS, name="feature_encoder"),
        prior_precision=2.0,
    )
    model.compile()
    return model


@pytest.fixture(params=["closed form", "gradient steps", "Meta-SGD", "MAML", "vanilla"])
def trained(request, make_model):
    return {
        "closed form": closed_form,
        "gradient steps": make_model,
        "Meta-SGD": lambda: make_model(learn_inner_rates=True),
        "MAML": lambda: make_model(EntireNetworkMAML),
        "vanilla": lambda: make_model(Vanilla),
    }[request.param]()


def test_they_are_those_of_predict_with_the_strength_set(trained, test_tasks):
    test_tasks = test_tasks.take(2)
    trained.fine_tune = False
    rows = rows_by_strength(trained, test_tasks, STRENGTHS)
    assert trained.fine_tune is False
    trained.fine_tune = True
    trained.compile(run_eagerly=True)  # `predict` would build a graph for each strength
    for strength in STRENGTHS:
        trained.adaptation_strength = strength
        expected = trained.predict(test_tasks, verbose=0)
        assert set(rows[strength]) == set(expected)
        for name, values in expected.items():
            if values.dtype.kind == "f":
                np.testing.assert_allclose(rows[strength][name], values, atol=1e-6)
            else:
                np.testing.assert_array_equal(rows[strength][name], values)
    moved = [np.abs(rows[s]["probability"] - rows[0.0]["probability"]).max() for s in STRENGTHS]
    assert moved == sorted(moved)
    assert moved[1] > 1e-4


class Counted:
    """A dataset that counts its passes."""

    def __init__(self, dataset):
        self.dataset, self.element_spec, self.passes = dataset, dataset.element_spec, 0

    def __iter__(self):
        self.passes += 1
        return iter(self.dataset)


def test_positive_strengths_share_a_trace_and_all_one_pass_over_the_records(
    trained, test_tasks, monkeypatch
):
    traced, adapt = [], trained.adapt_tasks
    monkeypatch.setattr(
        trained,
        "adapt_tasks",
        lambda support, steps: traced.append(steps) or adapt(support, steps),
    )
    dataset = Counted(test_tasks)
    rows_by_strength(trained, dataset, STRENGTHS)
    assert traced == [None, trained.fine_tune_steps]
    assert dataset.passes == 1


@pytest.mark.usefixtures("no_graphs")
def test_a_caller_is_told_of_each_strength_before_the_records_are_read_with_it(test_tasks):
    model, dataset, calls = closed_form(), Counted(test_tasks), []
    rows_by_strength(
        model,
        dataset,
        STRENGTHS,
        lambda: calls.append((model.adaptation_strength, dataset.passes)),
    )
    assert calls == [(strength, passes) for passes, strength in enumerate(STRENGTHS)]
    assert model.adaptation_strength == 1.0
