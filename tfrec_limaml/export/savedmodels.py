"""Export: one version number, two SavedModels, one manifest.

``ranker/<version>/`` scores rows in TensorFlow Serving; ``adapter/<version>/`` turns task records into meta embeddings in the
embedding job. Both hold all preprocessing and load without any Python class of this package.
"""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfrec_limaml import manifest as names
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.export.signatures import Exported, rename_inputs, traced
from tfrec_limaml.manifest import Manifest
from tfrec_limaml.models import LiMAML
from tfrec_limaml.models.limaml import SubtaskEmbeddings
from tfrec_limaml.schema.schema import Feature, Schema
from tfrec_limaml.tasks import record_format
from tfrec_limaml.tasks.feature_encoder import DTYPES
from tfrec_limaml.tasks.parsing import encode_rows, padding_index, parse_tasks, sample_weights

#: Entry points of this group are called as ``hook(ranker_directory, manifest)`` before a version becomes visible.
EXPORT_HOOKS = "limaml.export_hooks"


def export_for_serving(
    model: LiMAML,
    base_directory: str | Path,
    *,
    model_version: int | None = None,
    task_definition: str | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Manifest:
    """Writes ``ranker/<version>/`` and ``adapter/<version>/`` below `base_directory`.

    Both are written aside and renamed when complete, the adapter first, so that a server never loads half a model.

    Args:
        model: A trained `LiMAML` model with an encoder.
        base_directory: Gets the folders ``ranker`` and ``adapter``.
        model_version: Positive integer; one more than the highest exported one by default.
        task_definition: What the embeddings are keyed by; the schema's first definition, or the one that the encoder was made for, by
            default.
        metrics: Evaluation results to record.

    Returns:
        The manifest, of which either SavedModel holds a copy.

    Raises:
        LimamlError: The model has no encoder or is no LiMAML model, or the version exists.
    """
    if not isinstance(model, LiMAML):
        raise LimamlError(f"only LiMAML models have a meta embedding to export, received {type(model).__name__}")
    if model.encoder is None:
        raise LimamlError("the model has no encoder; build it as LiMAML(..., encoder=FeatureEncoder(schema, statistics)) to export it")
    base = Path(base_directory)
    chosen = _next_version(base) if model_version is None else int(model_version)
    if chosen < 1:
        raise LimamlError(f"model_version must be a positive integer, received {chosen}")
    final = {kind: base / kind / str(chosen) for kind in ("adapter", "ranker")}
    existing = [str(path) for path in final.values() if path.exists()]
    if existing:
        raise LimamlError(f"version {chosen} exists at {existing[0]}; choose another version, or remove it first")
    manifest = _manifest(model, chosen, task_definition, metrics or {})
    aside = {kind: path.with_name(f".writing-{chosen}") for kind, path in final.items()}
    try:
        for kind, build in (("adapter", adapter_module), ("ranker", ranker_module)):
            shutil.rmtree(aside[kind], ignore_errors=True)
            module, signatures, arguments = build(model)
            tf.saved_model.save(module, str(aside[kind]), signatures=signatures)
            rename_inputs(aside[kind], arguments)
            manifest.write(aside[kind])
        for hook in entry_points(group=EXPORT_HOOKS):
            hook.load()(aside["ranker"], manifest)
        for kind in ("adapter", "ranker"):
            aside[kind].rename(final[kind])
    finally:
        for path in aside.values():
            shutil.rmtree(path, ignore_errors=True)
    return manifest


def adapter_module(model: LiMAML) -> Exported:
    """The adapter and its signature: serialized task records to meta embeddings, ``fine_tune_steps`` in the graph."""

    def adapt(task_records: tf.Tensor) -> dict[str, tf.Tensor]:
        tasks = parse_tasks(task_records, model.encoder.schema)
        counts = tf.where(tasks.query_start >= 0, tasks.query_start, tasks.counts)
        first = tasks.splits[:-1]
        index = padding_index(first, counts, first)
        support = {
            "features": {name: tf.gather(value, index) for name, value in encode_rows(tasks, model.encoder).items()},
            "label": tf.gather(tasks.columns[record_format.LABEL], index),
            "weight": sample_weights(tasks.columns[record_format.WEIGHT], index, counts),
        }
        stored = model.task_embeddings(support)
        times = tf.gather(tasks.columns[record_format.TIMESTAMP], index)
        outputs = {
            "task_key": tasks.task_key,
            "sample_count": counts,
            "last_timestamp": tf.where(counts > 0, tf.reduce_max(times, -1), 0),
            "loss_before": tf.cast(stored.loss_before, tf.float32),
            "loss_after": tf.cast(stored.loss_after, tf.float32),
        }
        outputs = {names.META_EMBEDDING: tf.cast(stored.embedding, tf.float32), **{name: value[:, None] for name, value in outputs.items()}}
        if stored.nested:
            further = [tf.gather(model.encoder.further_key(name, tasks.columns), index) for name in model.meta_block.nested_definitions]
            outputs.update(_nested_outputs(stored.nested, further, tasks.task_key, times))
        return outputs

    return traced(model, {names.SERVING_SIGNATURE: (adapt, {names.ADAPTER_INPUT: tf.TensorSpec([None], tf.string)})})


def ranker_module(model: LiMAML) -> Exported:
    """The ranker and its three signatures; see `tfrec_limaml.manifest` for their names and shapes."""
    schema: Schema = model.encoder.schema
    dim = model.meta_block.stored_dim
    embedding_inputs = names.embedding_inputs(model.meta_block.nested_definitions)

    def score(inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        features = model.encoder({f.name: inputs[f.name] for f in schema.all_features})
        own = tf.split(model.meta_block(features), len(embedding_inputs), -1)
        parts = [
            tf.where(inputs[has][:, None], tf.cast(inputs[stored], unadapted.dtype), unadapted)
            for (stored, has), unadapted in zip(embedding_inputs, own, strict=True)
        ]
        outputs = tf.cast(model.global_block(features, tf.concat(parts, -1)), tf.float32)
        return {names.PROBABILITY: model.predictions(outputs), names.LOGIT: outputs}

    def rank(inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        rows = tf.reduce_max([tf.shape(value)[0] for value in inputs.values()])
        return score({name: _repeat(name, value, rows) for name, value in inputs.items()})

    def parsed(inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        examples = inputs[names.EXAMPLES]
        columns = tf.io.parse_example(examples, {f.name: _example_feature(f) for f in schema.all_features})
        found = tf.io.parse_example(examples, {name: tf.io.RaggedFeature(tf.float32) for name, _ in embedding_inputs})
        for name, has in embedding_inputs:
            lengths = found[name].row_lengths()
            columns[has] = lengths > 0
            width = tf.where(columns[has], lengths, dim)
            tf.debugging.assert_equal(width, tf.cast(dim, width.dtype), f"{name} must hold {dim} values or none")
            columns[name] = found[name].to_tensor(shape=[None, dim])
        return score(columns)

    rows = {f.name: tf.TensorSpec([None] if f.width == 1 else [None, f.width], DTYPES[f.dtype]) for f in schema.all_features}
    for stored, has in embedding_inputs:
        rows[stored], rows[has] = tf.TensorSpec([None, dim], tf.float32), tf.TensorSpec([None], tf.bool)
    serialized = {names.EXAMPLES: tf.TensorSpec([None], tf.string)}
    return traced(
        model,
        {
            names.SERVING_SIGNATURE: (lambda **inputs: score(inputs), rows),
            names.RANK_SIGNATURE: (lambda **inputs: rank(inputs), rows),
            names.EXAMPLES_SIGNATURE: (lambda **inputs: parsed(inputs), serialized),
        },
    )


def _nested_outputs(
    nested: Sequence[SubtaskEmbeddings], further: Sequence[tf.Tensor], task_key: tf.Tensor, times: tf.Tensor
) -> dict[str, tf.Tensor]:
    """`manifest.NESTED_OUTPUTS`: the subtasks of each task ``[T]`` side by side, those of one definition behind those of the other.

    Args:
        nested: The subtasks and their embeddings, by definition.
        further: What each row ``[T, S]`` adds to its task's key, by definition.
        task_key: Of each task ``[T]``.
        times: Of each row ``[T, S]``.
    """
    parts: dict[str, list[tf.Tensor]] = {name: [] for name in names.NESTED_OUTPUTS}
    for position, ((subtasks, embedding), texts) in enumerate(zip(nested, further, strict=True)):
        members = subtasks.members()
        opening = tf.gather_nd(texts, tf.stack([subtasks.owner, subtasks.opener], -1))
        values = {
            "nested_definition": tf.fill(tf.shape(subtasks.owner), tf.constant(position, tf.int64)),
            "nested_task_key": tf.strings.join([tf.gather(task_key, subtasks.owner), opening], "|"),
            "nested_meta_embedding": tf.cast(embedding, tf.float32),
            "nested_sample_count": tf.math.count_nonzero(members, -1),
            "nested_last_timestamp": tf.reduce_max(tf.where(members, tf.gather(times, subtasks.owner), 0), -1),
        }
        for name, value in values.items():
            by_task = tf.RaggedTensor.from_value_rowids(value[: subtasks.count], subtasks.owner[: subtasks.count], tf.shape(task_key)[0])
            parts[name].append(by_task.to_tensor(-1 if name == "nested_definition" else None))
    return {name: tf.concat(values, 1) for name, values in parts.items()}


def _repeat(name: str, value: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    own = tf.shape(value)[0]
    allowed = tf.logical_or(tf.equal(own, rows), tf.equal(own, 1))
    check = tf.debugging.Assert(allowed, [f"input {name} must have 1 row or as many as the longest input; rows:", own, rows])
    with tf.control_dependencies([check]):  # or an operation that fails on its own may be first
        return tf.broadcast_to(value, tf.concat([[rows], tf.shape(value)[1:]], 0))


def _example_feature(feature: Feature) -> tf.io.FixedLenFeature:
    default = None if feature.on_invalid != "fill" or feature.width > 1 else feature.filler
    return tf.io.FixedLenFeature([] if feature.width == 1 else [feature.width], DTYPES[feature.dtype], default)


def _manifest(model: LiMAML, model_version: int, task_definition: str | None, metrics: Mapping[str, Any]) -> Manifest:
    schema: Schema = model.encoder.schema
    own = model.encoder.task
    definition = task_definition or own or schema.default_task
    schema.task_columns(definition)
    nested = model.meta_block.nested_definitions
    if nested and definition != (own or schema.default_task):
        raise LimamlError(f"{nested} of this model refine the task definition {own or schema.default_task!r}, received {definition!r}")
    taken = {name for pair in names.embedding_inputs(nested) for name in pair} & {f.name for f in schema.all_features}
    if taken:
        raise LimamlError(f"the features {sorted(taken)} are named like the ranker's inputs for embeddings; rename them in the schema")
    return Manifest(
        model_version=model_version,
        schema=schema.to_dict(),
        schema_fingerprint=schema.fingerprint(),
        task_definition=definition,
        nested_definitions=nested,
        embedding_dim=model.meta_block.stored_dim,
        inner_loop={
            "inner_learning_rate": model.inner_learning_rate,
            "inner_steps": model.inner_steps,
            "fine_tune_steps": model.fine_tune_steps,
            "pooling": model.pooling,
        },
        training_window=dict(model.encoder.statistics.window),
        training_label_mean=model.encoder.statistics.label_mean,
        metrics=dict(metrics),
        libraries={name: version(name) for name in ("tensorflow", "keras", "tfrec-limaml")},
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    )


def _next_version(base: Path) -> int:
    taken = [int(p.name) for kind in ("ranker", "adapter") for p in (base / kind).glob("[0-9]*") if p.name.isdigit()]
    return max(taken, default=0) + 1
