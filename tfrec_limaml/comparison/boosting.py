"""Gradient-boosted trees on the same rows and features.

Source: Ke et al., "LightGBM: A Highly Efficient Gradient Boosting Decision Tree", NeurIPS 2017.
"""

from __future__ import annotations

from typing import Any

from tfrec_limaml.comparison.rivals import Data, Outcome
from tfrec_limaml.comparison.rows import NO_FEATURE, Rows, table
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.evaluation.metrics import auc

#: Candidates; the best by validation AUC is kept.
SETTINGS: tuple[dict[str, Any], ...] = (
    {"num_leaves": 31, "learning_rate": 0.05, "min_data_in_leaf": 20},
    {"num_leaves": 15, "learning_rate": 0.05, "min_data_in_leaf": 100, "lambda_l2": 10.0},
    {"num_leaves": 63, "learning_rate": 0.03, "min_data_in_leaf": 100, "lambda_l2": 10.0},
    {"num_leaves": 7, "learning_rate": 0.03, "min_data_in_leaf": 50},
)
FIXED_OPTIONS = {
    "objective": "binary",
    "metric": "auc",
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "feature_fraction": 0.8,
    "cat_smooth": 20.0,
    "verbosity": -1,
}
ROUNDS, PATIENCE = 2000, 50


def lightgbm(data: Data, seed: int) -> Outcome:
    """LightGBM with early stopping and without IDs: the best of four settings."""
    return _best(data, seed, ids=False)


def lightgbm_ids(data: Data, seed: int) -> Outcome:
    """LightGBM with IDs as categorical features.

    It is a separate rival, because the validation rows often choose wrongly between the two.

    Raises:
        LimamlError: The schema declares no IDs.
    """
    if not data.encoder.embeddings():
        raise LimamlError(
            "the schema declares no IDs: give the column of an ID an embedding_width, with "
            "encoding vocabulary or hash"
        )
    return _best(data, seed, ids=True)


def lightgbm_as_served(data: Data, seed: int) -> Outcome:
    """LightGBM without IDs on training rows whose history features are as old as served ones."""
    return _best(data, seed, ids=False, as_served=True)


def _best(data: Data, seed: int, ids: bool, as_served: bool = False) -> Outcome:
    try:
        import lightgbm as lgb
    except ImportError as error:
        raise LimamlError("needs LightGBM; run `pip install tfrec-limaml[compare]`") from error
    train = data.as_served if as_served else data.train
    outcomes = [_fit(lgb, data, train, seed, settings, ids) for settings in SETTINGS]
    return max(outcomes, key=lambda outcome: outcome.val_auc)


def _fit(
    lgb: Any, data: Data, rows: Rows, seed: int, settings: dict[str, Any], ids: bool
) -> Outcome:
    train, validation, test = (
        _features(part, data, ids) for part in (rows, data.validation, data.test)
    )
    train_set = lgb.Dataset(train, rows.label, weight=rows.weight)
    validation_set = lgb.Dataset(validation, data.validation.label, reference=train_set)
    options = {**FIXED_OPTIONS, **settings, "seed": seed}
    stopping = lgb.early_stopping(PATIENCE, verbose=False)
    model = lgb.train(options, train_set, ROUNDS, valid_sets=[validation_set], callbacks=[stopping])
    return Outcome(
        model.predict(test),
        auc(data.validation.label, model.predict(validation)),
        settings={**settings, "ids": ids, "trees": model.best_iteration},
    )


def _features(rows: Rows, data: Data, ids: bool) -> Any:
    """The table of the rows; its columns are numbered, because LightGBM refuses some names."""
    frame = table(rows, data.encoder, ids)
    if not len(frame.columns):
        raise LimamlError(NO_FEATURE)
    return frame.set_axis(range(len(frame.columns)), axis=1)
