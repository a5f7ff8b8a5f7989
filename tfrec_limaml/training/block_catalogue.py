"""Blocks by name, for the command line: each is built from the encoder and a few options."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeAlias

from tfrec_limaml.blocks.base import GlobalBlock, MetaBlock
from tfrec_limaml.blocks.bilinear import BilinearGlobalBlock
from tfrec_limaml.blocks.dcn import DCNGlobalBlock
from tfrec_limaml.blocks.dlrm import DLRMGlobalBlock
from tfrec_limaml.blocks.dot_product import DotProductGlobalBlock
from tfrec_limaml.blocks.features_and_id import FeaturesAndIDMetaBlock
from tfrec_limaml.blocks.id_embedding import IDEmbeddingMetaBlock
from tfrec_limaml.blocks.mlp import MLPGlobalBlock, MLPMetaBlock
from tfrec_limaml.blocks.offset import OffsetMetaBlock
from tfrec_limaml.blocks.support_encoder import SupportEncoder
from tfrec_limaml.blocks.transformer import TransformerMetaBlock
from tfrec_limaml.blocks.wide_and_deep import WideAndDeepGlobalBlock
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.schema.schema import Feature
from tfrec_limaml.tasks.feature_encoder import FeatureEncoder
from tfrec_limaml.training.model_options import ModelOptions

#: Names of features that a global block does not embed.
Excluded: TypeAlias = Collection[str]

_L2 = {"class_name": "L2", "config": {"l2": 1e-5}}


def _mlp_meta(encoder: FeatureEncoder, options: ModelOptions, task: str) -> MetaBlock:
    return MLPMetaBlock(
        options.meta_units,
        options.embedding_dim,
        embeddings=encoder.embeddings("meta"),
        name="meta_block",
    )


def _offset(encoder: FeatureEncoder, options: ModelOptions, task: str) -> MetaBlock:
    support_encoder = None
    if options.prior == "encoder":
        support_encoder = SupportEncoder(
            options.embedding_dim,
            label_mean=encoder.statistics.label_mean,
            name="support_encoder",
        )
    # The offset is the task's own vector: an embedding of the key would memorise what it estimates.
    key = key_feature(encoder, task)
    embeddings = encoder.embeddings("meta")
    if key is not None:
        embeddings.pop(key.name, None)
    return OffsetMetaBlock(
        options.meta_units,
        options.embedding_dim,
        embeddings=embeddings,
        support_encoder=support_encoder,
        name="meta_block",
    )


def second_offset(encoder: FeatureEncoder, options: ModelOptions) -> OffsetMetaBlock:
    """The meta block of the second of two definitions.

    It reads the other features, except the definition's own key.
    """
    keys = _single_keys(encoder, options)
    embeddings = {n: size for n, size in encoder.embeddings("other").items() if n not in keys}
    return OffsetMetaBlock(
        options.meta_units, options.embedding_dim, embeddings=embeddings, name="second_meta_block"
    )


def _single_keys(encoder: FeatureEncoder, options: ModelOptions) -> set[str]:
    """Features that are the whole key of the second of two definitions."""
    if options.joint_task is None:
        return set()
    columns = encoder.schema.task_columns(options.joint_task)
    return set(columns) if len(columns) == 1 else set()


def _id(encoder: FeatureEncoder, options: ModelOptions, task: str) -> MetaBlock:
    return IDEmbeddingMetaBlock(
        **_task_id(encoder, task),
        embedding_dim=options.embedding_dim,
        embeddings_regularizer=_L2,
        name="meta_block",
    )


def _features_and_id(encoder: FeatureEncoder, options: ModelOptions, task: str) -> MetaBlock:
    task_id = _task_id(encoder, task)
    embeddings = {
        name: size
        for name, size in encoder.embeddings("meta").items()
        if name != task_id["feature"]
    }
    return FeaturesAndIDMetaBlock(
        **task_id,
        hidden_units=options.meta_units,
        embedding_dim=options.embedding_dim,
        embeddings=embeddings,
        embeddings_regularizer=_L2,
        name="meta_block",
    )


def _transformer(encoder: FeatureEncoder, options: ModelOptions, task: str) -> MetaBlock:
    return TransformerMetaBlock(
        options.meta_units,
        options.embedding_dim,
        embeddings=encoder.embeddings("meta"),
        name="meta_block",
    )


def _mlp_global(encoder: FeatureEncoder, options: ModelOptions, excluded: Excluded) -> GlobalBlock:
    return MLPGlobalBlock(options.global_units, **_deep(encoder, options, excluded))


def _dot_product(encoder: FeatureEncoder, options: ModelOptions, excluded: Excluded) -> GlobalBlock:
    """The default global block.

    The projection has no rows for features of the task: they would compete with the task's
    embedding.
    """
    deep = _deep(encoder, options, excluded)
    other = set(encoder.embeddings("other")) - _single_keys(encoder, options)
    block = DotProductGlobalBlock if options.joint_task is None else BilinearGlobalBlock
    return block(
        options.global_units,
        projected=tuple(name for name in deep["embeddings"] if name in other),
        embeddings_scales=shrinkage(encoder, options.shrinkage),
        projected_scales=shrinkage(encoder, options.chosen_projection_shrinkage),
        initial_logit=_initial_logit(encoder),
        **deep,
    )


def _initial_logit(encoder: FeatureEncoder) -> float:
    """The logit of the mean label of the training rows; 0 for regression labels."""
    mean = encoder.statistics.label_mean
    if encoder.schema.label.kind != "binary" or not 0.0 < mean < 1.0:
        return 0.0
    return math.log(mean / (1.0 - mean))


def shrinkage(encoder: FeatureEncoder, rows: float) -> dict[str, list[float]]:
    """Factors ``n / (n + rows)`` of the embeddings of ids with ``n`` training rows, by feature.

    Embeddings of rare ids stay near zero, those of unknown ids are zero. Hashed features have no
    counts and are not shrunk.
    """
    counts = {f.name: encoder.counts(f) for f in encoder.schema.all_features}
    return {
        name: [n / (n + rows) if n else 0.0 for n in feature_counts]
        for name, feature_counts in counts.items()
        if feature_counts is not None
    }


def _wide_and_deep(
    encoder: FeatureEncoder, options: ModelOptions, excluded: Excluded
) -> GlobalBlock:
    return WideAndDeepGlobalBlock(
        options.global_units, _ids(encoder, options, excluded), **_deep(encoder, options, excluded)
    )


def _dcn(encoder: FeatureEncoder, options: ModelOptions, excluded: Excluded) -> GlobalBlock:
    return DCNGlobalBlock(options.global_units, **_deep(encoder, options, excluded))


def _dlrm(encoder: FeatureEncoder, options: ModelOptions, excluded: Excluded) -> GlobalBlock:
    deep = {
        name: value
        for name, value in _deep(encoder, options, excluded).items()
        if name != "embeddings"
    }
    return DLRMGlobalBlock(options.global_units, _ids(encoder, options, excluded), **deep)


def _deep(encoder: FeatureEncoder, options: ModelOptions, excluded: Excluded) -> dict[str, Any]:
    embeddings = global_embeddings(encoder, options, excluded)
    return {
        "dropout": options.dropout,
        "embeddings": embeddings,
        "embeddings_regularizer": _L2,
        "name": "global_block",
    }


def _ids(encoder: FeatureEncoder, options: ModelOptions, excluded: Excluded) -> dict[str, int]:
    return {name: size for name, (size, _) in global_embeddings(encoder, options, excluded).items()}


def global_embeddings(
    encoder: FeatureEncoder, options: ModelOptions, excluded: Excluded = frozenset()
) -> dict[str, tuple[int, int]]:
    """All embedded features but those in `excluded`, and IDs only if `id_embeddings` allows."""
    ids = {f.name for f in encoder.schema.all_features if f.separator is None}
    left_out = {*excluded, *ids} if options.id_embeddings is False else excluded
    return {name: size for name, size in encoder.embeddings().items() if name not in left_out}


def key_feature(encoder: FeatureEncoder, task: str) -> Feature | None:
    """The single-valued, embedded feature that is the whole key of a task definition, or None."""
    keys = encoder.schema.task_columns(task)
    for feature in encoder.schema.all_features:
        embedded = feature.embedding_width is not None and feature.separator is None
        if keys == (feature.name,) and embedded:
            return feature
    return None


def _task_id(encoder: FeatureEncoder, task: str) -> dict[str, Any]:
    """The feature that identifies a task, as arguments of an ID meta block.

    It is the definition's key column, which must be a single-valued feature with an embedding.
    """
    feature = key_feature(encoder, task)
    if feature is None:
        raise LimamlError(
            f"an ID meta block needs the task's key {list(encoder.schema.task_columns(task))} to "
            "be one feature with an embedding_width in the schema (role: meta); "
            "add it, prepare again, or use --meta-block mlp"
        )
    unknown = None if feature.encoding == "hash" else 0
    return {"feature": feature.name, "size": encoder.size(feature), "unknown_id": unknown}


#: Meta blocks by name: ``(encoder, options, task definition) -> block``.
META_BLOCKS: Mapping[str, Callable[[FeatureEncoder, ModelOptions, str], MetaBlock]] = {
    "offset": _offset,
    "mlp": _mlp_meta,
    "id": _id,
    "features+id": _features_and_id,
    "transformer": _transformer,
}
#: Global blocks by name: ``(encoder, options, features not to embed) -> block``.
GLOBAL_BLOCKS: Mapping[str, Callable[[FeatureEncoder, ModelOptions, Excluded], GlobalBlock]] = {
    "dot_product": _dot_product,
    "mlp": _mlp_global,
    "wide_and_deep": _wide_and_deep,
    "dcn": _dcn,
    "dlrm": _dlrm,
}
