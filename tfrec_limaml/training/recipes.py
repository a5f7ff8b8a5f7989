"""Builds the model and datasets of a folder of task records, as the command line does."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfrec_limaml.blocks import JointMetaBlocks, MetaBlock, NestedMetaBlocks
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.models import EntireNetworkMAML, JointLiMAML, LiMAML, TaskModel, Vanilla
from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.tasks.feature_encoder import FeatureEncoder
from tfrec_limaml.tasks.folder import EPISODE, SCHEMA_FILE, SPLITS, STATISTICS_FILE, shard_pattern
from tfrec_limaml.tasks.statistics import Statistics
from tfrec_limaml.training.block_catalogue import (
    GLOBAL_BLOCKS,
    META_BLOCKS,
    key_feature,
    second_offset,
)
from tfrec_limaml.training.model_options import ModelOptions


def configure_tensorflow() -> None:
    """Switches off TensorFlow's remapping of graphs and its warnings, in the whole process.

    Remapping fails on these graphs and writes errors to stderr. The warnings are about retracing,
    which is intended: functions are traced once per setting.
    """
    tf.get_logger().setLevel("ERROR")
    tf.config.optimizer.set_experimental_options({"remapping": False})


def require_binary(schema: Schema, subject: str) -> None:
    """Raises `LimamlError` if the label is not binary; `subject` names what needs such a label."""
    label = schema.label
    if label.kind != "binary":
        raise LimamlError(
            f"{subject} needs a binary label, received the {label.kind} label {label.name!r}: "
            "declare a label of 0 and 1, such as whether a rating is at least 4, or fit a model "
            "that you compile with another loss"
        )


def load_encoder(
    tasks: str | Path, task: str | None = None, nested: Sequence[str] = ()
) -> FeatureEncoder:
    """The feature encoder of a folder written by ``limaml prepare``.

    Args:
        tasks: The folder.
        task: Task definition whose records are read; the schema's first by default.
        nested: Definitions that refine it, for a model that adapts to nested tasks.

    Raises:
        SchemaError: The folder's files are missing, or a nested definition does not refine the
            other one.
    """
    folder = Path(tasks)
    return FeatureEncoder(
        Schema.load(folder / SCHEMA_FILE),
        Statistics.load(folder / STATISTICS_FILE),
        task,
        nested,
    )


def split_pattern(tasks: str | Path, definition: str | None, split: str, schema: Schema) -> str:
    """File pattern of one split of one task definition.

    Raises:
        LimamlError: `split` is not the name of a split.
    """
    if split not in SPLITS and not split.startswith(f"{EPISODE}-"):
        raise LimamlError(f"split must be one of {list(SPLITS)}, received {split!r}")
    schema.task_columns(definition)
    folder = Path(tasks) / (definition or schema.default_task)
    return f"{glob.escape(str(folder))}/{shard_pattern(split)}"


def split_files(
    tasks: str | Path,
    definition: str | None,
    split: str,
    schema: Schema,
    missing_ok: bool = False,
) -> list[str]:
    """The files of one split of one task definition, sorted.

    Raises:
        LimamlError: There is no such file, unless `missing_ok`.
    """
    files = sorted(glob.glob(split_pattern(tasks, definition, split, schema)))
    if not files and not missing_ok:
        raise LimamlError(
            f"no {split} records of task definition {definition or schema.default_task!r} in "
            f"{tasks}; `limaml prepare` writes them"
        )
    return files


def _meta_block(encoder: FeatureEncoder, options: ModelOptions) -> MetaBlock:
    """The block of that name; if the encoder has nested definitions, one for each of them too."""
    make = META_BLOCKS[options.meta_block]
    first = encoder.task or encoder.schema.default_task
    if options.joint_task is not None:
        blocks = {
            first: make(encoder, options, first),
            options.joint_task: second_offset(encoder, options),
        }
        return JointMetaBlocks(blocks, name="meta_block")
    if not encoder.nested:
        return make(encoder, options, first)
    if options.prior != "zero":
        raise LimamlError(
            f"nested task definitions {list(encoder.nested)} need the prior 'zero', received "
            f"{options.prior!r}; leave --prior out"
        )
    if options.support_reduction != "mean":
        raise LimamlError(
            f"nested task definitions {list(encoder.nested)} need the support_reduction 'mean', "
            f"received {options.support_reduction!r}; leave --support-reduction out"
        )
    blocks = {name: make(encoder, options, name) for name in (first, *encoder.nested)}
    return NestedMetaBlocks(blocks, name="meta_block")


def _own_ids(algorithm: str, encoder: FeatureEncoder, options: ModelOptions) -> set[str]:
    """The task's ID, if the meta block has a vector of each task's own.

    A second embedding would learn what that vector should learn.
    """
    key = key_feature(encoder, encoder.task or encoder.schema.default_task)
    is_adapted = algorithm == "limaml" and options.meta_block == "offset"
    has_vector = is_adapted or options.meta_block in ("id", "features+id")
    return {key.name} if key is not None and has_vector else set()


def build_model(algorithm: str, encoder: FeatureEncoder, options: ModelOptions) -> TaskModel:
    """Builds the model of an algorithm, with a meta block and a global block.

    Args:
        algorithm: ``"limaml"``, ``"vanilla"`` or ``"maml"``.
        encoder: Encodes the features; determines the blocks' inputs, and whether there are further
            meta blocks for nested definitions (its `nested`).
        options: Settings of the model.

    Raises:
        LimamlError: Nested definitions with a prior that reads the support set.
    """
    if algorithm != "limaml":  # other algorithms neither read the support set nor have two sides
        options = options.replace(prior="zero", joint_task=None)
    meta_block = _meta_block(encoder, options)
    own_ids = _own_ids(algorithm, encoder, options)
    global_block = GLOBAL_BLOCKS[options.global_block](encoder, options, own_ids)
    steps = options.chosen_inner_steps
    tune = steps if options.fine_tune_steps is None else options.fine_tune_steps
    shared: dict[str, Any] = {
        "encoder": encoder,
        "inner_learning_rate": options.inner_learning_rate,
        "fine_tune_steps": tune,
        "averaging": options.averaging,
        "name": algorithm,
    }
    if algorithm == "vanilla":
        return Vanilla(meta_block, global_block, **{**shared, "averaging": "sample"})
    shared |= {
        "inner_steps": steps,
        "first_order": options.first_order,
        "second_order_steps": options.second_order_steps,
        "learn_inner_rates": options.learn_inner_rates,
        "support_reduction": options.support_reduction,
        "unadapted_loss_weight": options.unadapted_loss_weight,
    }
    if algorithm == "maml":
        return EntireNetworkMAML(meta_block, global_block, **shared)
    shared |= {
        "adaptation": options.chosen_adaptation,
        "prior_precision": options.chosen_prior_precision,
        "pooling": options.pooling,
    }
    if options.joint_task is not None:
        return JointLiMAML(meta_block, global_block, sweeps=options.sweeps, **shared)
    return LiMAML(meta_block, global_block, **shared)
