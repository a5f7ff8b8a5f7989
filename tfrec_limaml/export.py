"""Export: one version number, two SavedModels, one manifest.

``ranker/<version>/`` scores rows in TensorFlow Serving; ``adapter/<version>/`` turns task records into meta embeddings in the
embedding job. Both hold all preprocessing and load without any Python class of this package.
"""

from __future__ import annotations

import datetime as dt
import keyword
import re
import shutil
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tfrec_limaml import batch_shapes, records
from tfrec_limaml import manifest as names
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.manifest import Manifest
from tfrec_limaml.models import LiMAML
from tfrec_limaml.parsing import encode_rows, padding_index, parse_tasks, sample_weights
from tfrec_limaml.preprocessing import DTYPES
from tfrec_limaml.schema import Feature, Schema

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
        task_definition: What the embeddings are keyed by; the schema's first definition by default.
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
            module, signatures = build(model)
            tf.saved_model.save(module, str(aside[kind]), signatures=signatures)
            _rename_inputs(aside[kind], _arguments(model.encoder.schema))
            manifest.write(aside[kind])
        for hook in entry_points(group=EXPORT_HOOKS):
            hook.load()(aside["ranker"], manifest)
        for kind in ("adapter", "ranker"):
            aside[kind].rename(final[kind])
    finally:
        for path in aside.values():
            shutil.rmtree(path, ignore_errors=True)
    return manifest


def adapter_module(model: LiMAML) -> tuple[tf.Module, dict[str, Any]]:
    """The adapter and its signature: serialized task records to meta embeddings, ``fine_tune_steps`` in the graph."""

    def adapt(task_records: tf.Tensor) -> dict[str, tf.Tensor]:
        tasks = parse_tasks(task_records, model.encoder.schema)
        counts = tf.where(tasks.query_start >= 0, tasks.query_start, tasks.counts)
        width, order = _batch_shape(counts)
        first, padded = tf.gather(tasks.splits, order), tf.gather(counts, order)
        index = padding_index(first, padded, first, width)
        rows = tasks._replace(columns={name: tf.gather(column, tf.reshape(index, [-1])) for name, column in tasks.columns.items()})
        support = {
            # Encoded after padding: the arithmetic of a column depends on its length as well.
            "features": {name: _per_task(value, index) for name, value in encode_rows(rows, model.encoder).items()},
            "label": _per_task(rows.columns[records.LABEL], index),
            "weight": sample_weights(tasks.columns[records.WEIGHT], index, padded),
        }
        embeddings, before, after = model.task_embeddings(support)
        outputs = {
            "task_key": tasks.task_key,
            "sample_count": counts,
            "last_timestamp": tf.where(padded > 0, tf.reduce_max(_per_task(rows.columns[records.TIMESTAMP], index), -1), 0),
            "loss_before": tf.cast(before, tf.float32),
            "loss_after": tf.cast(after, tf.float32),
        }
        outputs = {names.META_EMBEDDING: tf.cast(embeddings, tf.float32), **{name: value[:, None] for name, value in outputs.items()}}
        return {name: value[: tf.shape(task_records)[0]] for name, value in outputs.items()}

    return _module(model, {names.SERVING_SIGNATURE: (adapt, {names.ADAPTER_INPUT: tf.TensorSpec([None], tf.string)})})


def ranker_module(model: LiMAML) -> tuple[tf.Module, dict[str, Any]]:
    """The ranker and its three signatures; see `tfrec_limaml.manifest` for their names and shapes."""
    schema: Schema = model.encoder.schema
    dim = model.meta_block.embedding_dim

    def score(inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        features = model.encoder({f.name: inputs[f.name] for f in schema.all_features})
        own = model.meta_block(features)
        stored = tf.cast(inputs[names.META_EMBEDDING], own.dtype)
        embedding = tf.where(inputs[names.HAS_META_EMBEDDING][:, None], stored, own)
        outputs = tf.cast(model.global_block(features, embedding), tf.float32)
        return {names.PROBABILITY: model.predictions(outputs), names.LOGIT: outputs}

    def rank(inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        rows = tf.reduce_max([tf.shape(value)[0] for value in inputs.values()])
        return score({name: _repeat(name, value, rows) for name, value in inputs.items()})

    def parsed(inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        examples = inputs[names.EXAMPLES]
        columns = tf.io.parse_example(examples, {f.name: _example_feature(f) for f in schema.all_features})
        stored = tf.io.parse_example(examples, {names.META_EMBEDDING: tf.io.RaggedFeature(tf.float32)})[names.META_EMBEDDING]
        has = stored.row_lengths() > 0
        width = tf.where(has, stored.row_lengths(), dim)
        tf.debugging.assert_equal(width, tf.cast(dim, width.dtype), f"{names.META_EMBEDDING} must hold {dim} values or none")
        return score({**columns, names.META_EMBEDDING: stored.to_tensor(shape=[None, dim]), names.HAS_META_EMBEDDING: has})

    rows = {f.name: tf.TensorSpec([None] if f.width == 1 else [None, f.width], DTYPES[f.dtype]) for f in schema.all_features}
    rows[names.META_EMBEDDING] = tf.TensorSpec([None, dim], tf.float32)
    rows[names.HAS_META_EMBEDDING] = tf.TensorSpec([None], tf.bool)
    serialized = {names.EXAMPLES: tf.TensorSpec([None], tf.string)}
    return _module(
        model,
        {
            names.SERVING_SIGNATURE: (lambda **inputs: score(inputs), rows),
            names.RANK_SIGNATURE: (lambda **inputs: rank(inputs), rows),
            names.EXAMPLES_SIGNATURE: (lambda **inputs: parsed(inputs), serialized),
        },
    )


def _module(
    model: LiMAML, functions: Mapping[str, tuple[Callable[..., Any], Mapping[str, tf.TensorSpec]]]
) -> tuple[tf.Module, dict[str, Any]]:
    """A module that holds what the functions need, and their traced signatures."""
    module = tf.Module()
    module.encoder = model.encoder
    # The TensorFlow variables inside Keras's own: tracked through their layers, a graph session (TensorFlow Serving) restores
    # copies of them that no signature reads.
    rates = model.rates if getattr(model, "learn_inner_rates", False) else []
    module.weights = [variable.value for variable in (*model.network.weights, *rates)]
    arguments = _arguments(model.encoder.schema)
    signatures: dict[str, Any] = {}
    for name, (function, specs) in functions.items():
        taken = {key: arguments.get(key, key) for key in specs}
        named = {taken[key]: tf.TensorSpec(spec.shape, spec.dtype, name=taken[key]) for key, spec in specs.items()}
        signatures[name] = tf.function(_renamed(function, taken), autograph=False).get_concrete_function(**named)
    return module, signatures


def _renamed(function: Callable[..., Any], arguments: Mapping[str, str]) -> Callable[..., Any]:
    return lambda **given: function(**{key: given[argument] for key, argument in arguments.items()})


def _arguments(schema: Schema) -> dict[str, str]:
    """Stand-ins for column names that `tf.saved_model.save` refuses or changes: those that are no plain argument names."""
    plain = re.compile(r"[a-zA-Z]\w*", re.ASCII)
    odd = [f.name for f in schema.all_features if not plain.fullmatch(f.name) or keyword.iskeyword(f.name)]
    return {name: f"limaml_input_{i}" for i, name in enumerate(odd)}


def _rename_inputs(directory: Path, arguments: Mapping[str, str]) -> None:
    """Gives a SavedModel's inputs their columns' names, in its signatures (TensorFlow Serving) and functions (`tf.saved_model.load`)."""
    if not arguments:
        return
    path = directory / "saved_model.pb"
    columns = {argument: column for column, argument in arguments.items()}
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    (graph,) = saved.meta_graphs
    for signature in graph.signature_def.values():
        for argument in columns.keys() & signature.inputs.keys():
            signature.inputs[columns[argument]].CopyFrom(signature.inputs.pop(argument))
    for node in graph.object_graph_def.nodes:
        if node.WhichOneof("kind") == "bare_concrete_function":
            taken = node.bare_concrete_function.argument_keywords
            taken[:] = [columns.get(argument, argument) for argument in taken]
    path.write_bytes(saved.SerializeToString(deterministic=True))


def _batch_shape(counts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The width in samples, and which task ``[T']`` stands where: all of them and, up to a full multiple, the last one again."""
    longest = tf.maximum(tf.reduce_max(counts), 1)
    widths = tf.constant(batch_shapes.SAMPLE_WIDTHS, counts.dtype)
    place = tf.searchsorted(widths, longest[None])[0]
    width = tf.maximum(longest, tf.gather(widths, tf.minimum(place, len(batch_shapes.SAMPLE_WIDTHS) - 1)))
    multiple = tf.clip_by_value(batch_shapes.ROWS // width, 1, batch_shapes.TASK_MULTIPLE)
    number = tf.size(counts, counts.dtype)
    return width, tf.minimum(tf.range(-(-number // multiple) * multiple), number - 1)


def _per_task(rows: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """Rows ``[T * S, ...]`` as ``[T, S, ...]``."""
    return tf.reshape(rows, tf.concat([tf.shape(index), tf.shape(rows)[1:]], 0))


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
    definition = schema.default_task if task_definition is None else task_definition
    schema.task_columns(definition)
    return Manifest(
        model_version=model_version,
        schema=schema.to_dict(),
        schema_fingerprint=schema.fingerprint(),
        task_definition=definition,
        embedding_dim=model.meta_block.embedding_dim,
        inner_loop={
            "inner_learning_rate": model.inner_learning_rate,
            "inner_steps": model.inner_steps,
            "fine_tune_steps": model.fine_tune_steps,
            "pooling": model.pooling,
        },
        training_window=dict(model.encoder.statistics.window),
        metrics=dict(metrics),
        libraries={name: version(name) for name in ("tensorflow", "keras", "tfrec-limaml")},
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    )


def _next_version(base: Path) -> int:
    taken = [int(p.name) for kind in ("ranker", "adapter") for p in (base / kind).glob("[0-9]*") if p.name.isdigit()]
    return max(taken, default=0) + 1
