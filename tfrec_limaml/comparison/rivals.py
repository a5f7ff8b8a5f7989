"""The compared models.

Each is trained on the training rows, tuned on the validation rows, and scores the test rows.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfrec_limaml.arrays import Floats
from tfrec_limaml.comparison.rows import Rows, dense, read_rows
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.evaluation.metrics import auc
from tfrec_limaml.tasks.feature_encoder import FeatureEncoder
from tfrec_limaml.tasks.folder import episodes_in
from tfrec_limaml.tasks.record_files import record_files
from tfrec_limaml.training.recipes import load_encoder, split_pattern

#: Number of pseudo-rows that smooth a task's label rate towards the mean.
SMOOTHING = 10.0


@dataclasses.dataclass(frozen=True)
class Data:
    """The data for all rivals.

    Attributes:
        tasks: Folder written by ``limaml prepare``.
        task: Task definition; None for the schema's first.
        encoder: Encoder of that folder.
        epochs: Epochs of networks; None for those of each recipe.
    """

    tasks: Path
    task: str | None
    encoder: FeatureEncoder
    epochs: int | None = None

    @classmethod
    def of(cls, tasks: str | Path, task: str | None = None, epochs: int | None = None) -> Data:
        """Reads the encoder; rows are read on first use."""
        return cls(Path(tasks), task, load_encoder(tasks, task), epochs)

    def pattern(self, split: str) -> str:
        """The files of a split."""
        return split_pattern(self.tasks, self.task, split, self.encoder.schema)

    @functools.cached_property
    def origin(self) -> dict[str, Any]:
        """Schema and records, on which the results of a rival depend besides the test rows."""
        splits = ("train", "validation", *self._episodes)
        return {
            "schema": self.encoder.schema.fingerprint(),
            "records": _digest([self.pattern(split) for split in splits]),
        }

    @functools.cached_property
    def _episodes(self) -> tuple[str, ...]:
        return episodes_in(self.tasks / (self.task or self.encoder.schema.default_task))

    @functools.cached_property
    def train(self) -> Rows:
        """All training rows."""
        return read_rows(self.pattern("train"), self.encoder.schema)

    @functools.cached_property
    def as_served(self) -> Rows:
        """The query rows of all episodes: their history features are as old as in serving.

        Copies of one row share its weight.

        Raises:
            LimamlError: There are no episodes.
        """
        if not self._episodes:
            definition = self.task or self.encoder.schema.default_task
            raise LimamlError(
                f"{self.tasks / definition} holds no episodes; run `limaml prepare --episodes 8`"
            )
        rows = read_rows([self.pattern(name) for name in self._episodes], self.encoder.schema)
        _, row, copies = np.unique(rows.identity(), return_inverse=True, return_counts=True)
        return dataclasses.replace(rows, weight=rows.weight / copies[row])

    @functools.cached_property
    def validation(self) -> Rows:
        """The validation rows."""
        return read_rows(self.pattern("validation"), self.encoder.schema)

    @functools.cached_property
    def test(self) -> Rows:
        """The test rows."""
        return read_rows(self.pattern("test"), self.encoder.schema)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A trained rival's scores of the test rows, arrays ``[N]``.

    Attributes:
        served: Probabilities as production would serve them.
        val_auc: Validation AUC by which the settings were chosen.
        unadapted: Probabilities without adaptation, if different.
        settings: The chosen settings.
        served_form: False if the adaptation cannot be stored and served.
    """

    served: Floats
    val_auc: float
    unadapted: Floats | None = None
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    served_form: bool = True


Rival = Callable[[Data, int], Outcome]


def constant(data: Data, seed: int) -> Outcome:
    """The training rows' mean label."""
    mean = float(np.average(data.train.label, weights=data.train.weight))
    return Outcome(np.full(len(data.test.label), mean), 0.5)


def task_rate(data: Data, seed: int) -> Outcome:
    """Each task's label rate before the test rows, smoothed towards the mean."""
    train = (data.train,)
    val = _rates(train, data.validation)
    test = _rates((data.train, data.validation), data.test)
    return Outcome(test, auc(data.validation.label, val))


def history_rate(data: Data, seed: int) -> Outcome:
    """The schema's history rate with the best validation AUC, as the score.

    Raises:
        LimamlError: The schema declares no history features.
    """
    names = [name for name in data.validation.columns if name.endswith("_rate")]
    names = [name for name in names if name.startswith("history_")]
    if not names:
        raise LimamlError("the schema declares no history features")
    label = data.validation.label
    best = max(names, key=lambda name: auc(label, data.validation.columns[name]))
    score = data.test.columns[best].astype(np.float64)
    value = auc(label, data.validation.columns[best])
    return Outcome(score, value, settings={"feature": best})


def logistic_regression(data: Data, seed: int) -> Outcome:
    """Logistic regression with an L2 penalty, on the dense features of networks.

    The penalty is the one with the best validation AUC.

    Raises:
        LimamlError: scikit-learn is not installed, or all training rows have the same label.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise LimamlError("needs scikit-learn; run `pip install tfrec-limaml[compare]`") from error
    if len(np.unique(data.train.label)) < 2:
        raise LimamlError("all training rows have the same label")
    train, validation, test = (
        dense(rows, data.encoder) for rows in (data.train, data.validation, data.test)
    )
    best: tuple[float, float, Any] = (-1.0, 0.0, None)
    for strength in (0.001, 0.01, 0.1):
        model = LogisticRegression(C=strength, max_iter=200)
        model.fit(train, data.train.label, sample_weight=data.train.weight)
        value = auc(data.validation.label, model.predict_proba(validation)[:, 1])
        best = max(best, (value, strength, model), key=lambda entry: entry[0])
    return Outcome(best[2].predict_proba(test)[:, 1], best[0], settings={"C": best[1]})


def _digest(patterns: Sequence[str]) -> str:
    """A digest of the contents of record files."""
    result = hashlib.sha256()
    for file in record_files(patterns):
        with open(file, "rb") as handle:
            result.update(hashlib.file_digest(handle, "sha256").digest())
    return result.hexdigest()[:16]


def _rates(earlier: tuple[Rows, ...], later: Rows) -> Floats:
    label = np.concatenate([rows.label for rows in earlier])
    keys = np.concatenate([rows.task_key for rows in earlier])
    weight = np.concatenate([rows.weight for rows in earlier])
    distinct_keys, codes = np.unique(keys, return_inverse=True)
    count, total = np.bincount(codes, weight), np.bincount(codes, weight * label)
    mean = np.average(label, weights=weight)
    rates = (total + SMOOTHING * mean) / (count + SMOOTHING)
    positions = np.minimum(np.searchsorted(distinct_keys, later.task_key), len(distinct_keys) - 1)
    smoothed: Floats = np.where(distinct_keys[positions] == later.task_key, rates[positions], mean)
    return smoothed
