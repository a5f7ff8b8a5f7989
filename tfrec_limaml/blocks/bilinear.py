"""A bilinear global block for two task definitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from tfrec_limaml.blocks.dot_product import DotProductGlobalBlock


@keras.saving.register_keras_serializable("tfrec_limaml")
class BilinearGlobalBlock(DotProductGlobalBlock):
    """Logit = ``network(x) + p(x) . u + q(x) . v + u . (scale * v) + a + b``.

    A meta embedding of `JointMetaBlocks` is ``[u, a, v, b]``: the first definition's vector and
    intercept, then the second one's. ``p`` and ``q`` are the projections of `DotProductGlobalBlock`
    and ``scale`` is a learned vector. The logit is linear in each half while the other is fixed:
    closed-form adaptation of one side is Bayesian logistic regression. See `JointMetaBlocks` for an
    example.

    Args:
        **kwargs: See `DotProductGlobalBlock`. `projection_scale` is also the initial value of
            ``scale``.
    """

    def build(
        self,
        features_shape: Mapping[str, tuple[int | None, ...]],
        meta_embedding_shape: tuple[int | None, ...],
    ) -> None:
        """Builds from the shapes of the encoded features and of the meta embedding ``[N, 2 D]``.

        Raises:
            ValueError: The width of the meta embedding is odd, or less than 4.
        """
        total_width = int(meta_embedding_shape[-1] or 0)
        if total_width % 2 or total_width < 4:
            raise ValueError(
                f"{self.name}: the meta embedding must have an even width of at least 4, received "
                f"{total_width}; use JointMetaBlocks"
            )
        self.width = total_width // 2 - 1
        # The projection is for all numbers of an embedding except the last one.
        super().build(features_shape, (None, 2 * self.width + 1))
        self.scale = self.add_weight(
            shape=(self.width,),
            initializer=keras.initializers.Constant(self.projection_scale),
            name="scale",
        )

    # `scores_once` requires it in the class that defines `head`; this `head` broadcasts as well.
    encode_context_once = DotProductGlobalBlock.encode_context_once

    def head(
        self,
        context: tuple[tf.Tensor, tf.Tensor, tf.Tensor],
        meta_embedding: tf.Tensor,
        training: bool = False,
    ) -> tf.Tensor:
        """Logits ``[N]``."""
        return self.head_of_parts(context, tf.split(meta_embedding, 2, -1), 1)

    def linear_in(self, parts: int) -> bool:
        """True for 2 parts; see `GlobalBlock`."""
        return parts == 2

    def head_of_parts(
        self,
        context: tuple[tf.Tensor, tf.Tensor, tf.Tensor],
        parts: Sequence[tf.Tensor],
        rows: int | tf.Tensor,
    ) -> tf.Tensor:
        """See `GlobalBlock.head_of_parts`; here each part broadcasts, and none is repeated."""
        first, second = parts
        logit, projection, _ = context
        width = self.width
        # p and [q, 1]
        first_projection, second_projection = tf.split(projection, [width, width + 1], -1)
        scale = tf.cast(tf.convert_to_tensor(self.scale), first.dtype)
        products = tf.reduce_sum(first_projection * first[..., :width], -1) + first[..., width]
        # The products of u and v join those of q and v: one sum for both and the intercept b.
        second_projection = second_projection + first * tf.pad(scale, [[0, 1]])
        return logit + products + tf.reduce_sum(second_projection * second, -1)
