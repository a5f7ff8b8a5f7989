"""Diagnoses how much personalisation can gain, before LiMAML is trained.

A plain network is trained on the training rows with all features, history features included. On
later rows, the diagnostic estimates how much tasks still differ
(`tfrec_limaml.diagnosis.random_intercept`), overall and for each category (a topic, a tab), and
measures how much AUC each task's history gains: by an effect of the task or of one category
(`tfrec_limaml.diagnosis.history_gain`), and by an offset to the meta embedding, which can express
tastes across all features (`tfrec_limaml.diagnosis.offset_gain`). The verdict uses the second
number: later rows of a task may resemble each other without any relation to its history.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfrec_limaml.diagnosis.history_gain import HistoryGain, history_gain
from tfrec_limaml.diagnosis.random_intercept import (
    Deviation,
    group_deviation,
    oracle_gain,
    task_deviation,
)
from tfrec_limaml.diagnosis.scored_rows import ScoredRows
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.evaluation.evaluate import MIN_TASKS
from tfrec_limaml.schema.schema import Feature, Schema
from tfrec_limaml.wording import counted

#: Gains in AUC from which adaptation is worth the effort, and below which it is not.
WORTH, SMALL = 0.005, 0.001
_NO_INTERVAL = {"history_low": None, "history_high": None}


def diagnose_definition(
    rows: ScoredRows,
    definition: str,
    offsets: Callable[[float], HistoryGain | None] | None = None,
) -> dict[str, Any]:
    """Diagnoses one task definition.

    Args:
        rows: From `tfrec_limaml.diagnosis.scored_rows.score_rows`.
        definition: Name of the task definition.
        offsets: A function of a confidence level that measures `offset_gain` on the same tasks;
            None to leave out the source ``task x all features``.

    Returns:
        A dictionary:

        - ``definition``; ``tasks`` and ``rows``: numbers of tasks and of later rows;
        - ``median_history``: the median number of earlier rows per task;
        - ``sources``: a list of dictionaries, for the ``task`` itself, then for ``task x all
          features`` (`offsets`), then for each category, as ``task x <feature>``. Each has the name
          ``source``; the standard deviation between tasks in logits, ``deviation`` with ``low`` and
          ``high``; the simulated gain in AUC of an ``oracle`` that knows every effect (these four
          are None for all features); and the measured gain in AUC of effects estimated from each
          task's ``history``, with ``history_low`` and ``history_high`` (None with fewer than 30
          tasks). Confidence intervals are at 95 %, with the Bonferroni correction for the number of
          sources;
        - ``verdict``: see `verdict`.

    Raises:
        LimamlError: All later rows have one label, or the tasks have no history to learn from.
    """
    label, task = rows.label[rows.query], rows.task[rows.query]
    earlier = rows.label[~rows.query]
    if len(np.unique(label)) < 2:
        remedy = (
            "choose other split dates"
            if len(np.unique(earlier)) > 1
            else "so have the earlier rows of these tasks: is it the right label?"
        )
        raise LimamlError(
            f"task definition {definition!r}: all {len(label)} validation rows have the same "
            f"label, so nothing can be estimated; {remedy}"
        )
    if len(np.unique(earlier)) < 2:
        raise LimamlError(
            f"task definition {definition!r}: the validation tasks have a history of "
            f"{counted(len(earlier), 'row')}{' of one label' if len(earlier) else ''}, from "
            "which nothing can be predicted; choose a later validation_start or a coarser "
            "definition"
        )
    intervals = 1 + len(rows.categories) + (offsets is not None)
    confidence = 1 - 0.05 / intervals  # corrects for their number
    sources = _sources(rows, confidence)
    if offsets is not None and (gain := offsets(confidence)) is not None:
        sources.insert(1, _source("task x all features", gain))
    tested = np.unique(task)
    history = np.bincount(rows.task[~rows.query], minlength=int(task.max()) + 1)[tested]
    enough = len(tested) >= MIN_TASKS
    return {
        "definition": definition,
        "tasks": len(tested),
        "rows": len(label),
        "median_history": float(np.median(history)),
        "sources": sources if enough else [{**each, **_NO_INTERVAL} for each in sources],
        "verdict": verdict(sources) if enough else "cannot tell",
    }


def _sources(rows: ScoredRows, confidence: float) -> list[dict[str, Any]]:
    """The task itself, then every category on top of it; see `diagnose_definition`."""
    calibrated, sample = rows.calibrated(), rows.sample()
    label, offset, task = calibrated.label, calibrated.offset, calibrated.task
    between = task_deviation(label[sample], offset[sample], task[sample], confidence)
    gain = history_gain(calibrated, confidence=confidence)
    oracle = oracle_gain(offset[sample], task[sample], between.value)
    sources = [_source("task", gain, between, oracle)]
    with_task_effects = calibrated.with_effect(gain.effect)
    for name, category in rows.categories.items():
        pairs = np.stack([task[category.row], category.code])
        group = np.unique(pairs, axis=1, return_inverse=True)[1].reshape(-1)
        in_sample = sample[category.row]
        row, code = category.row[in_sample], category.code[in_sample]
        deviation = group_deviation(
            label[row],
            offset[row],
            task[row],
            code,
            between.value,
            confidence,
            len(row) / int(sample.sum()),
        )
        oracle = oracle_gain(
            offset[row], task[row], between.value, group[in_sample], deviation.value
        )
        gain = history_gain(with_task_effects, category.row, group, confidence)
        sources.append(_source(f"task x {name}", gain, deviation, oracle))
    return sources


def verdict(sources: Sequence[dict[str, Any]]) -> str:
    """Whether adaptation is worth the effort, by the gains of `diagnose_definition`'s sources.

    Returns:
        ``"worth it"`` or ``"small"`` if a gain is at least `WORTH` or `SMALL` and its interval is
        above 0; otherwise ``"nothing left"``, or ``"cannot tell"`` if the intervals are too wide to
        exclude a gain of twice `WORTH`.
    """
    sure = max((s["history"] for s in sources if s["history_low"] > 0), default=0.0)
    if sure >= WORTH:
        return "worth it"
    if sure >= SMALL:
        return "small"
    highest = max(s["history_high"] for s in sources)
    return "cannot tell" if highest >= 2 * WORTH else "nothing left"


def categories(schema: Schema, definition: str) -> list[Feature]:
    """Categorical features outside the task key and the meta features.

    They vary within tasks, so that a task may prefer some of their values.
    """
    keys = schema.task_columns(definition)
    return [
        f for f in schema.all_features if f.categorical and f.role == "other" and f.name not in keys
    ]


def _source(
    name: str, gain: HistoryGain, between: Deviation | None = None, oracle: float | None = None
) -> dict[str, Any]:
    values: dict[str, float | None] = {
        "deviation": None if between is None else between.value,
        "low": None if between is None else between.low,
        "high": None if between is None else between.high,
        "oracle": oracle,
        "history": gain.value,
        "history_low": gain.low,
        "history_high": gain.high,
    }
    rounded = {k: None if v is None else round(float(v), 5) for k, v in values.items()}
    return {"source": name, **rounded}
