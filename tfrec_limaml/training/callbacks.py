"""Keras callbacks for TensorBoard: scalars, the graph, and meta embeddings for its projector."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfrec_limaml.arrays import Array
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.features import Features, feature_specs
from tfrec_limaml.models import LiMAML, TaskModel

_CONFIG = "projector_config.pbtxt"
_VECTORS, _METADATA = "meta_embeddings.tsv", "meta_embeddings_metadata.tsv"


def tensorboard(log_dir: str | Path, **options: Any) -> keras.callbacks.TensorBoard:
    """`keras.callbacks.TensorBoard`, which also writes the graph if the model has an encoder.

    Raises:
        LimamlError: The TensorBoard package, which Keras needs for writing, is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise LimamlError(
            "TensorBoard is not installed; install it with: pip install 'tfrec-limaml[tensorboard]'"
        )
    return _TensorBoard(str(log_dir), **options)


class _TensorBoard(keras.callbacks.TensorBoard):
    """Also writes the graph, which Keras 3 does not."""

    def on_train_begin(self, logs: Any = None) -> None:
        """Writes the graph before Keras opens a file: TensorBoard reads a run's newest file."""
        if self.write_graph and self.model.encoder is not None:
            write_graph(self.model, Path(self.log_dir) / "train")
        super().on_train_begin(logs)


def write_graph(model: TaskModel, folder: str | Path) -> None:
    """Writes the graph of the un-adapted forward pass of both blocks, from rows to logits."""
    rows = {
        name: tf.TensorSpec(spec.shape, spec.dtype, name)
        for name, spec in feature_specs(model.encoder.output_shapes).items()
    }

    def forward(features: Features) -> tf.Tensor:
        with tf.name_scope("meta_block"):
            embedding = model.meta_block(features)
        with tf.name_scope("global_block"):
            return model.global_block(features, embedding)

    graph = tf.function(forward, autograph=False).get_concrete_function(rows).graph
    with tf.summary.create_file_writer(str(folder)).as_default():
        tf.summary.graph(graph)


class EmbeddingProjector(keras.callbacks.Callback):
    """Writes meta embeddings for TensorBoard's Embedding Projector when training ends.

    The callback writes plain files: vectors, labels and the projector's configuration. Training
    does not need the TensorBoard package; ``tensorboard --logdir logs`` shows the files.

    Examples:
        >>> projector = EmbeddingProjector(recent, "logs", {b"17": "CH"})      # doctest: +SKIP
        >>> model.fit(train_tasks, callbacks=[projector])                      # doctest: +SKIP

    Args:
        dataset: Batches of tasks with keys (``task_dataset(..., with_keys=True)``); embeddings are
            computed from their support sets.
        log_dir: Folder that TensorBoard reads; created if missing.
        labels: Task key to the label that the task is shown and coloured by; None for keys only.
        max_tasks: Maximum number of tasks; the projector shows about ten thousand points.

    Raises:
        LimamlError: The dataset has no task keys, or `max_tasks` is below 1. At the end of
            training: the model is not a `LiMAML` model.
    """

    def __init__(
        self,
        dataset: tf.data.Dataset,
        log_dir: str | Path,
        labels: Mapping[bytes, str] | None = None,
        max_tasks: int = 10_000,
    ) -> None:
        super().__init__()
        if "task_key" not in dataset.element_spec:
            raise LimamlError(
                "EmbeddingProjector needs a dataset with task keys: task_dataset(..., "
                "with_keys=True)"
            )
        if max_tasks < 1:
            raise LimamlError(f"max_tasks must be at least 1, received {max_tasks}")
        self.dataset = dataset
        self.log_dir = Path(log_dir)
        self.labels = labels
        self.max_tasks = max_tasks

    def on_train_end(self, logs: Any = None) -> None:
        """Computes the embeddings and writes them."""
        if not isinstance(self.model, LiMAML):
            raise LimamlError(
                "only LiMAML models have meta embeddings to project, received "
                f"{type(self.model).__name__}"
            )
        keys, vectors = task_embeddings(self.model, self.dataset, self.max_tasks)
        write_projector(self.log_dir, keys, vectors, self.labels)


def task_embeddings(
    model: LiMAML, dataset: tf.data.Dataset, max_tasks: int
) -> tuple[list[bytes], Array]:
    """Task keys and meta embeddings ``[T, D]`` of the first tasks that have support."""

    def step(batch: Mapping[str, Any]) -> tuple[tf.Tensor, tf.Tensor]:
        support = batch["support"]
        has_support = tf.reduce_any(support["weight"] > 0, -1)
        embeddings = tf.cast(model.task_embeddings(support)[0], tf.float32)
        return tf.boolean_mask(batch["task_key"], has_support), tf.boolean_mask(
            embeddings, has_support
        )

    traced_step = tf.function(step, input_signature=[dataset.element_spec], autograph=False)
    keys: list[bytes] = []
    parts = []
    for batch in dataset:
        key, embedding = traced_step(batch)
        keys += list(key.numpy())
        parts.append(embedding.numpy())
        if len(keys) >= max_tasks:
            break
    vectors = np.concatenate(parts) if parts else np.zeros((0, model.meta_block.embedding_dim), "f")
    return keys[:max_tasks], vectors[:max_tasks]


def write_projector(
    log_dir: str | Path,
    keys: Sequence[bytes],
    vectors: Array,
    labels: Mapping[bytes, str] | None = None,
) -> None:
    """Writes vectors ``[T, D]`` with their keys and labels, and TensorBoard's configuration.

    File formats: https://www.tensorflow.org/tensorboard/tensorboard_projector_plugin and, for the
    configuration, ``tensorboard/plugins/projector/projector_config.proto`` in text form.
    """
    folder = Path(log_dir)
    folder.mkdir(parents=True, exist_ok=True)
    names = [_cell(key.decode("utf-8", "replace")) for key in keys]
    if labels is None:  # a single column has no header
        metadata = names
    else:
        metadata = [
            "task\tlabel",
            *(
                f"{name}\t{_cell(labels.get(key, ''))}"
                for name, key in zip(names, keys, strict=True)
            ),
        ]
    np.savetxt(folder / _VECTORS, vectors, fmt="%.6g", delimiter="\t")
    (folder / _METADATA).write_text("".join(f"{line}\n" for line in metadata), encoding="utf-8")
    entry = f'embeddings {{\n  tensor_name: "meta_embeddings"\n  tensor_path: "{_VECTORS}"\n  metadata_path: "{_METADATA}"\n}}\n'  # noqa: E501
    (folder / _CONFIG).write_text(entry, encoding="utf-8")


def _cell(text: str) -> str:
    return " ".join(text.split()) or "-"
