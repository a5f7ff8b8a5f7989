"""Meta blocks of two task definitions, neither of which refines the other, such as member and item.

Each definition has its own block, which stores an offset of ``D`` numbers per task. A row's meta
embedding is the concatenation of both blocks' embeddings, the first definition's first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfrec_limaml.blocks.offset import OffsetMetaBlock, StoresOffset
from tfrec_limaml.blocks.per_definition import MetaBlockPerDefinition
from tfrec_limaml.features import META, OTHER, Features


@keras.saving.register_keras_serializable("tfrec_limaml")
class JointMetaBlocks(StoresOffset, MetaBlockPerDefinition):
    """An `OffsetMetaBlock` for each of two task definitions, neither of which refines the other.

    The first block reads the meta features, the second one all others: those of the item and the
    time.

    Examples:
        >>> meta_block = JointMetaBlocks(
        ...     {"user": OffsetMetaBlock((64,), 33), "video": OffsetMetaBlock((64,), 33)}
        ... )
        >>> model = JointLiMAML(meta_block, BilinearGlobalBlock((128, 64)), encoder=encoder)

    A task's offset has ``2 D`` numbers, of which the other definition's half is 0.

    Args:
        blocks: The block of each task definition, by name. The first definition is that of the
            member whose candidates are ranked. Both blocks have the same `embedding_dim`, so that
            one store can hold their offsets.

    Raises:
        ValueError: There are not two blocks of one `embedding_dim`, or a block is not an
            `OffsetMetaBlock` or has a support encoder.
    """

    def __init__(self, blocks: Mapping[str, OffsetMetaBlock], **kwargs: Any) -> None:
        widths = {name: block.embedding_dim for name, block in blocks.items()}
        if len(blocks) != 2 or len(set(widths.values())) > 1:
            raise ValueError(
                "blocks needs two meta blocks with the same embedding_dim, received "
                f"embedding_dim {widths}"
            )
        invalid = {n: b for n, b in blocks.items() if not isinstance(b, OffsetMetaBlock)}
        invalid |= {n: b for n, b in blocks.items() if b.support_encoder is not None}
        if invalid:
            kinds = {name: type(block).__name__ for name, block in invalid.items()}
            raise ValueError(
                f"blocks must be OffsetMetaBlocks without support_encoder, received {kinds}"
            )
        super().__init__(blocks, **kwargs)

    @property
    def joint_definitions(self) -> tuple[str, ...]:
        """The second definition."""
        return self.definitions[1:]

    def build(self, features_shape: Mapping[str, tuple[int | None, ...]]) -> None:
        """Builds both blocks."""
        shapes = features_shape, {**features_shape, META: features_shape[OTHER]}
        for block, shape in zip(self.blocks, shapes, strict=True):
            if not block.built:
                block.build(shape)
        self.built = True

    def encode_features(self, features: Features) -> tf.Tensor:
        """Both blocks' un-adapted embeddings ``[N, 2 D]``."""
        return tf.concat([self.call_side(number, features) for number in (0, 1)], -1)

    def call_side(self, number: int, features: Features) -> tf.Tensor:
        """Un-adapted embeddings ``[N, D]`` of the first (0) or second (1) definition.

        `features` must hold the meta features for the first definition, all others for the second.
        """
        if number == 1:
            features = {**features, META: features[OTHER]}
        return self.blocks[number].encode_features(features)

    @property
    def adaptable_variables(self) -> list[keras.Variable]:
        """Both blocks' offsets."""
        return [block.offset for block in self.blocks]

    def initial_weights(self, encoded: tf.Tensor) -> list[Any]:
        """Offsets of zero, ``[T, 2 D]``."""
        return [tf.zeros_like(encoded[:, 0])]
