"""From the job's Parquet into the embedding store, as one generation."""

from __future__ import annotations

from tqdm import tqdm

from limaml_beam.generate_embeddings import tables
from limaml_beam.generate_embeddings.report import read_report
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.store import EmbeddingStore, Generation

#: Generations kept in the store besides those of the grace period.
KEEP_GENERATIONS = 2
GRACE_SECONDS = 3600.0


def publish(folder: str, store: EmbeddingStore, column: str = "embedding") -> Generation:
    """Loads a finished output folder into the store and makes it current.

    Args:
        folder: Output of `generate`.
        store: Where to.
        column: What to load: ``"embedding"``, or ``"variance"`` into a store of its own.

    Returns:
        The published generation. Publishing the one that is current already changes nothing.

    Raises:
        StoreError: The store refused, or holds another number of task keys than the report says.
            Readers keep what they had.
        LimamlError: The folder is no finished output, or a file does not hold what its report says.
    """
    report = read_report(folder)
    version, identifier, dim = (
        report["model_version"],
        report["generation"],
        report["embedding_dim"],
    )
    current = store.current(version)
    if current is not None and current.identifier == identifier and current.count == report["rows"]:
        return current
    progress = tqdm(
        total=report["rows"], desc="publish", unit=" embeddings", mininterval=1.0, disable=None
    )
    with progress, store.new_generation(version, dim, identifier) as writer:
        for batch in tables.read_batches(tables.embedding_files(folder), ["task_key", column]):
            matrix = tables.embedding_matrix(batch[column])
            if len(batch) and matrix.shape[1] != dim:
                raise LimamlError(
                    f"{folder} holds embeddings of width {matrix.shape[1]}, its report says {dim}"
                )
            writer.put(batch["task_key"].to_pylist(), matrix)
            progress.update(len(batch))
        generation = writer.publish(report["rows"])
    store.prune(version, KEEP_GENERATIONS, GRACE_SECONDS)
    return generation
