"""Statistics of a run's embeddings, and the drift between two runs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from limaml_beam.generate_embeddings import tables
from tfrec_limaml.store.erasure import key_digest

#: Most tasks of each run that are compared.
SAMPLED_TASKS = 50_000


def describe(folder: str) -> dict[str, float | None]:
    """Mean and largest norm of the embeddings, norm of the mean, mean losses and improvement."""
    count, norms, largest = 0, 0.0, 0.0
    total: npt.NDArray[np.float64] | float = 0.0
    losses = np.zeros(3)
    for batch in tables.read_batches(
        tables.embedding_files(folder), ["embedding", "loss_before", "loss_after"]
    ):
        if not len(batch):
            continue
        matrix = tables.embedding_matrix(batch["embedding"]).astype(np.float64)
        lengths = np.linalg.norm(matrix, axis=1)
        count += len(matrix)
        norms += float(lengths.sum())
        largest = max(largest, float(lengths.max()))
        total = total + matrix.sum(axis=0)
        pair = np.stack(
            [batch[name].to_numpy(zero_copy_only=False) for name in ("loss_before", "loss_after")]
        ).astype(np.float64)
        finite = np.isfinite(pair).all(axis=0)
        losses += [*pair[:, finite].sum(axis=1), finite.sum()]
    before, after, finite_count = losses.tolist()
    return {
        "mean_norm": norms / max(count, 1),
        "max_norm": largest,
        "norm_of_mean": float(np.linalg.norm(np.atleast_1d(total))) / max(count, 1),
        "mean_loss_before": before / finite_count if finite_count else None,
        "mean_loss_after": after / finite_count if finite_count else None,
        "loss_improvement": 1.0 - after / before if finite_count and before > 0 else None,
    }


def drift(previous: str, folder: str) -> float:
    """Root mean square change of the vectors between two runs, relative to their length.

    The length is the root mean square length of the previous vectors. Measured on tasks chosen by a
    hash of their key, the same in every run; 0 if no task is in both.
    """
    share = min(1.0, SAMPLED_TASKS / max(1, _rows(previous), _rows(folder)))
    old, new = _sample(previous, share), _sample(folder, share)
    common = sorted(old.keys() & new.keys())
    if not common:
        return 0.0
    before, after = (
        np.stack([run[key] for key in common]).astype(np.float64) for run in (old, new)
    )
    scale = float(np.square(before).sum())
    return float(np.sqrt(np.square(after - before).sum() / scale)) if scale else float("inf")


def _sample(folder: str, share: float) -> dict[str, npt.NDArray[np.float32]]:
    limit = int(share * 2**32)
    vectors: dict[str, npt.NDArray[np.float32]] = {}
    for batch in tables.read_batches(tables.embedding_files(folder), ["task_key", "embedding"]):
        keys = batch["task_key"].to_pylist()
        matrix = tables.embedding_matrix(batch["embedding"])
        vectors.update(
            (key, row)
            for key, row in zip(keys, matrix, strict=True)
            if int.from_bytes(key_digest(key)[:4], "little") < limit
        )
    return vectors


def _rows(folder: str) -> int:
    return sum(tables.row_count(file) for file in tables.embedding_files(folder))
