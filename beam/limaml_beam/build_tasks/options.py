"""Options of ``limaml prepare``, shared by Python, the command line and the daily job."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tfrec_limaml.datasets.limits import MAX_INVALID
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.paths import path_text, path_texts


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """The input of task records, and how they are built.

    Paths may be strings or `pathlib.Path`s.

    Examples:
        >>> options = PrepareOptions(raw="raw", tasks=["user"])           # doctest: +SKIP
        >>> card = prepare(options, "tasks")                              # doctest: +SKIP

    Attributes:
        raw: Folder from ``limaml datasets prepare``, or None if `schema` and `interactions` name
            the files.
        schema: Schema file; None for ``schema.yaml`` in `raw`.
        interactions: Patterns of interaction files; empty for those in `raw`.
        tables: Patterns of the files of feature tables, by table; other tables are read from `raw`.
        delimiter: Character between the cells of text files, or an escape such as ``\\t``; None for
            the most frequent one of comma, tab and semicolon in the header.
        null_words: Cells of text files that mean a missing value, as empty cells do; None for
            ``NULL`` and ``null``.
        quotes: Whether cells of text files may be in quotation marks.
        all_partitions: Open partitions of days outside the dates too.
        tasks: Task definitions; empty for all of the schema.
        max_samples: Maximum number of support rows per task; the most recent rows are kept.
        max_query: Maximum number of query rows per task; the most recent rows are kept.
        episodes: Number of episodes: further support/query splits of each training task, with
            history features frozen at the split (see `limaml_beam.build_tasks.episodes`). None
            means 8 for a schema with history features and a split within tasks, otherwise 0.
        train_start, validation_start, test_start, test_end: ISO 8601 dates; None for those of the
            schema's split.
        split_per_task: Shares of each task's own rows, in time order, that are train, validation
            and test rows; takes the place of dates.
        no_validation: Whether all rows before `test_start` are training rows. This is for the model
            that is deployed, whose settings are known (`train(refit=...)`).
        window_days: Number of days before a split from which support rows come; None for all rows.
        recent_only: Whether to write only the records that embeddings are computed from, without
            evaluation splits.
        window_end: End of the window with `recent_only`, ISO 8601; None for now.
        history_prior: With `recent_only` and history features: the mean label towards which history
            rates are smoothed, or the folder of task records that the model was trained on, whose
            data card has it. None for the mean label of this run's rows, which differs from that in
            training.
        shards: Files per split; None to choose the number by the size of the input.
        max_bad_fraction: Share of invalid rows, from 0 to 1, above which the run fails.
        erased: Digests of erased task keys (`EmbeddingStore.erased`): rows of these tasks are left
            out, and do not become dead letters.
        keep_rows: With `recent_only`: keep each task's rows beside its record, uncompressed, for
            `limaml update`.

    Raises:
        LimamlError: The input is not named, a path is not a path, or settings contradict each other
            or are out of range.
    """

    raw: str | None = None
    schema: str | None = None
    interactions: Sequence[str] = ()
    tables: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    delimiter: str | None = None
    null_words: Sequence[str] | None = None
    quotes: bool = True
    all_partitions: bool = False
    tasks: Sequence[str] = ()
    max_samples: int = 100
    max_query: int = 1000
    episodes: int | None = None
    train_start: str | None = None
    validation_start: str | None = None
    test_start: str | None = None
    test_end: str | None = None
    split_per_task: tuple[float, float, float] | None = None
    no_validation: bool = False
    window_days: float | None = None
    recent_only: bool = False
    window_end: str | None = None
    history_prior: float | str | None = None
    shards: int | None = None
    max_bad_fraction: float = MAX_INVALID
    erased: frozenset[bytes] = frozenset()
    keep_rows: bool = False

    def __post_init__(self) -> None:
        self._convert_paths()
        if not 0 <= self.max_bad_fraction <= 1:
            raise LimamlError(
                "max_bad_fraction (--max-bad-fraction of limaml prepare, --max-bad-rows of limaml "
                f"refresh) must lie between 0 and 1, received {self.max_bad_fraction}"
            )
        if self.raw is None and not (self.schema and self.interactions):
            raise LimamlError(
                "give the folder raw, or both schema and interactions, received "
                f"schema={self.schema!r} and interactions={self.interactions!r}"
            )
        if self.history_prior is not None and not self.recent_only:
            raise LimamlError(
                f"history_prior={self.history_prior!r} needs recent_only=True; with evaluation "
                "splits the prior comes from the training rows"
            )

    def _convert_paths(self) -> None:
        """Converts paths to strings; raises `LimamlError` naming what is not a path."""
        texts: dict[str, Any] = {
            "interactions": path_texts(self.interactions, "interactions"),
            "tables": {n: path_texts(paths, f"table {n!r}") for n, paths in self.tables.items()},
        }
        for name in ("raw", "schema"):
            path = getattr(self, name)
            texts[name] = None if path is None else path_text(path, name)
        for name, value in texts.items():
            object.__setattr__(self, name, value)

    def replace(self, **changes: Any) -> PrepareOptions:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)
