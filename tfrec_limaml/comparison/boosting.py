"""Gradient-boosted trees on the same rows and features."""

from __future__ import annotations

from typing import Any

from tfrec_limaml.comparison.rivals import Data, Outcome
from tfrec_limaml.comparison.rows import table
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.evaluation.metrics import auc

#: Tried in turn; the best by validation AUC is kept.
SETTINGS: tuple[dict[str, Any], ...] = (
    {"num_leaves": 31, "learning_rate": 0.05, "min_data_in_leaf": 20},
    {"num_leaves": 15, "learning_rate": 0.05, "min_data_in_leaf": 100, "lambda_l2": 10.0},
    {"num_leaves": 63, "learning_rate": 0.03, "min_data_in_leaf": 100, "lambda_l2": 10.0},
)
ROUNDS, PATIENCE = 2000, 50


def lightgbm(data: Data, seed: int) -> Outcome:
    """LightGBM with early stopping: three settings, each with and without IDs as categories."""
    try:
        import lightgbm as lgb
    except ImportError as error:
        raise LimamlError("needs LightGBM; run `pip install tfrec-limaml[compare]`") from error
    best: tuple[float, dict[str, Any], Any] = (-1.0, {}, None)
    for ids in (False, True):
        train, validation, test = (
            table(rows, data.encoder, ids) for rows in (data.train, data.validation, data.test)
        )
        known = lgb.Dataset(train, data.train.label, weight=data.train.weight, free_raw_data=False)
        held_out = lgb.Dataset(validation, data.validation.label, reference=known)
        for settings in SETTINGS:
            options = {
                **settings,
                "objective": "binary",
                "metric": "auc",
                "bagging_fraction": 0.8,
                "bagging_freq": 1,
                "feature_fraction": 0.8,
                "verbosity": -1,
                "seed": seed,
                "num_threads": 2,
            }
            model = lgb.train(
                options,
                known,
                ROUNDS,
                valid_sets=[held_out],
                callbacks=[lgb.early_stopping(PATIENCE, verbose=False)],
            )
            value = auc(data.validation.label, model.predict(validation))
            if value > best[0]:
                chosen = {**settings, "ids": ids, "trees": model.best_iteration}
                best = (value, chosen, model.predict(test))
    return Outcome(best[2], best[0], settings=best[1])
