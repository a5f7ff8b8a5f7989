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
    trained.fine_tune = False
    rows = rows_by_strength(trained, test_tasks, STRENGTHS)
    assert trained.fine_tune is False
    assert trained.adaptation_strength == 1.0
    trained.fine_tune = True
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


def test_positive_strengths_share_a_trace_and_the_caller_is_told_of_each(
    trained, test_tasks, monkeypatch
):
    traced, told = [], []
    outputs = trained.task_outputs
    monkeypatch.setattr(trained, "task_outputs", lambda *batch: traced.append(1) or outputs(*batch))
    rows_by_strength(
        trained, test_tasks, STRENGTHS, lambda: told.append(trained.adaptation_strength)
    )
    assert len(traced) == 2, "without adaptation, and with"
    assert told == list(STRENGTHS)
