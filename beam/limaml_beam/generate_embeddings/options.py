"""Options of ``limaml embed``, shared by Python, the command line and the daily job."""

from __future__ import annotations

import dataclasses
import math
import os

from tfrec_limaml.errors import LimamlError
from tfrec_limaml.store.base import KEEP


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedOptions:
    """Settings of the embedding job, except for its paths.

    Attributes:
        max_age_days: In an incremental run: days for which the embedding of a task without a record
            is kept, from the task's last interaction to the newest interaction of the previous run;
            0 drops it at once.
        keep_generations: Number of generations that stay in the store after a publication, besides
            those published in the last hour. Condemned generations do not count.
        batch_size: Maximum number of tasks in one call of the adapter.
        max_bad_fraction: Share of dead letters, from 0 to 1, above which the run fails.
        workers: Worker processes on this machine; other engines have their own flags.
        intra_op_threads: TensorFlow threads per worker; 0 lets TensorFlow choose. None means 0 for
            one worker, and an equal share of the cores for several.

    Raises:
        LimamlError: A setting is out of range.
    """

    max_age_days: float = 0.0
    keep_generations: int = KEEP
    batch_size: int = 256
    max_bad_fraction: float = 0.01
    workers: int = 1
    intra_op_threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "workers", "keep_generations"):
            if getattr(self, name) < 1:
                raise LimamlError(f"{name} must be at least 1, received {getattr(self, name)}")
        if not 0.0 <= self.max_bad_fraction <= 1.0:
            raise LimamlError(
                f"max_bad_fraction must lie between 0 and 1, received {self.max_bad_fraction}"
            )
        if not 0 <= self.max_age_days < math.inf:
            raise LimamlError(
                f"max_age_days must not be negative, received {self.max_age_days}; use a finite "
                "number of days"
            )

    @property
    def worker_flags(self) -> list[str]:
        """Beam options that start `workers` processes."""
        if self.workers == 1:
            return []
        return [
            f"--direct_num_workers={self.workers}",
            "--direct_running_mode=multi_processing",
        ]

    @property
    def threads_per_worker(self) -> int:
        """`intra_op_threads`, or a number that fits `workers` if it is None."""
        if self.intra_op_threads is not None:
            return self.intra_op_threads
        return 0 if self.workers == 1 else max(1, (os.cpu_count() or 1) // self.workers)
