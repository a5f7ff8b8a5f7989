"""One learned offset per ID from a shared prior, for the ID meta blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfrec_limaml.blocks.feature_embeddings import FeatureEmbeddings
from tfrec_limaml.features import Features


@keras.saving.register_keras_serializable("tfrec_limaml")
class IDOffsets(FeatureEmbeddings):
    """``ID -> offset``: zero before training, and always zero for the out-of-vocabulary ID.

    Args:
        feature: Name of the single-valued feature that holds the ID; its schema entry needs an
            ``embedding_width``.
        size: Number of ids, as `FeatureEncoder.size` counts them.
        width: Width ``W`` of an offset.
        unknown_id: The id that stands for all unknown values: 0 for a vocabulary, ``None`` for hash
            buckets.
        embeddings_regularizer: Keras regularizer of the table; it moves what the IDs have in common
            into the prior.

    Input: encoded features ``[...]``; output: ``[..., W]``.
    """

    def __init__(
        self,
        feature: str,
        size: int,
        width: int,
        unknown_id: int | None = 0,
        embeddings_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1, received {size}")
        if width < 1:
            raise ValueError(f"width must be at least 1, received {width}")
        if unknown_id is not None and not 0 <= unknown_id < size:
            raise ValueError(
                f"unknown_id must be an id below size={size} or None, received {unknown_id}"
            )
        super().__init__((), {feature: (size, width)}, embeddings_regularizer, "zeros", **kwargs)
        self.feature = feature
        self.size = int(size)
        self.width = int(width)
        self.unknown_id = unknown_id

    def build(self, input_shape: Mapping[str, tuple[int | None, ...]]) -> None:
        """Creates the table; raises `ValueError` if the feature is missing or multi-valued."""
        shape = input_shape.get(self.feature)
        if shape is None or len(shape) != 1:
            received = (
                f"the features {sorted(input_shape)}"
                if shape is None
                else f"shape {tuple(shape)}, as of a multi-valued feature"
            )
            raise ValueError(
                f"{self.name}: feature {self.feature!r} must be a single-valued id with an "
                f"embedding_width; received {received}"
            )
        super().build(input_shape)

    def call(self, features: Features) -> tf.Tensor:
        """The offsets ``[..., W]`` of the IDs."""
        offsets = super().call(features)
        if self.unknown_id is None:
            return offsets
        known = tf.not_equal(features[self.feature], self.unknown_id)
        return offsets * tf.cast(known, offsets.dtype)[..., None]

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        config = super().get_config()
        for name in ("dense", "embeddings", "embeddings_initializer", "embeddings_scales"):
            del config[name]
        return {
            **config,
            "feature": self.feature,
            "size": self.size,
            "width": self.width,
            "unknown_id": self.unknown_id,
        }
