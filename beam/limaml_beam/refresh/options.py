"""Settings of the daily job: one set of defaults for Python and the command line."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from limaml_beam.build_tasks.options import PrepareOptions
from limaml_beam.generate_embeddings.options import EmbedOptions
from limaml_beam.update.dead_letters import DEAD_LETTER_DAYS
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.store import EmbeddingStore

#: Ranges of `Thresholds` other than all numbers from 0. A loss may rise, and fall to 0.
_RANGES = {
    "min_finite": (0.0, 1.0, "between 0 and 1"),
    "min_loss_improvement": (-math.inf, 1.0, "at most 1"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Limits of the checks of a refresh; a run beyond one of them is not published.

    Attributes:
        min_count_ratio, max_count_ratio: Number of tasks, relative to the published run.
        min_finite: Share of adapted tasks whose embedding is finite.
        min_norm_ratio, max_norm_ratio: Mean length of the vectors, relative to the published run of
            the same model.
        max_drift: Root mean square change of a task's vector, relative to the published vectors'
            length; same model.
        min_loss_improvement: Share by which adaptation lowers the mean loss on the tasks' own rows.
        max_filled_increase: Increase of the share of rows in which a feature is filled, over the
            model's training data. The share of the feature's unreadable values on one day has the
            same limit.
        max_unknown_increase: Increase of the share of rows whose key a table lacks, over the
            training data.
        max_age_increase_days: Increase of the newest row's age in days, over the least age in the
            published runs so far.
        max_days_back: Days by which the window may end before the window of the published run, if
            the published run has rows after the end.
        min_rows_per_day_ratio, max_rows_per_day_ratio: Rows per day, relative to the published run.
        max_lost_days: Days (UTC) within the window that lost at least half of the rows that they
            had in the published run.

    Raises:
        LimamlError: A limit is out of range, or a minimum exceeds its maximum.
    """

    min_count_ratio: float = 0.8
    max_count_ratio: float = 1.5
    min_finite: float = 0.99
    min_norm_ratio: float = 0.5
    max_norm_ratio: float = 2.0
    max_drift: float = 1.0
    min_loss_improvement: float = 0.0
    max_filled_increase: float = 0.2
    max_unknown_increase: float = 0.2
    max_age_increase_days: float = 0.9
    max_days_back: float = 0.0
    min_rows_per_day_ratio: float = 0.5
    max_rows_per_day_ratio: float = 2.0
    max_lost_days: float = 0.0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            low, high, text = _RANGES.get(name, (0.0, math.inf, "at least 0"))
            if not low <= value <= high:
                raise LimamlError(f"{name} must be {text}, received {value}")
        for name in ("count_ratio", "norm_ratio", "rows_per_day_ratio"):
            low, high = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if low > high:
                raise LimamlError(
                    f"min_{name} must not exceed max_{name}, received {low} and {high}"
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refresh:
    """Settings of one refresh.

    Examples:
        >>> settings = Refresh(work=Path("work"), adapter=newest_adapter("export"), store=store,
        ...     prepare=PrepareOptions(raw="raw", window_days=28.0))      # doctest: +SKIP
        >>> with session(settings.work):                                  # doctest: +SKIP
        ...     report = refresh(settings)

    Attributes:
        work: Local folder for the state, one per model and store.
        adapter: The exported adapter ``EXPORT/adapter/<version>``, local or on any Beam filesystem.
        store: The store to publish to.
        prepare: Options of the task records. Their `tasks`, `recent_only` and `history_prior` are
            ignored: these come from the adapter's manifest.
        embed: Options of the embedding job.
        limits: Thresholds of the checks.
        full: Adapt every task again, changed or not (always done for models of two definitions).
        keep_rows: Keep each task's rows beside its record, for `limaml update`.
        dead_letter_days: Dead letters of updates are removed after this number of days.
        flags: Beam options (``--runner=...``).

    Raises:
        LimamlError: `dead_letter_days` is negative.
    """

    work: Path
    adapter: str
    store: EmbeddingStore
    prepare: PrepareOptions
    embed: EmbedOptions = dataclasses.field(default_factory=EmbedOptions)
    limits: Thresholds = dataclasses.field(default_factory=Thresholds)
    full: bool = False
    keep_rows: bool = False
    dead_letter_days: float = DEAD_LETTER_DAYS
    flags: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.dead_letter_days >= 0:
            raise LimamlError(
                f"dead_letter_days must not be negative, received {self.dead_letter_days}"
            )
