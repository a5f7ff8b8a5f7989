"""LiMAML: only the meta block is adapted, and the result can be stored as one vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfrec_limaml.adaptation.inner_loop import Weights, adapt
from tfrec_limaml.adaptation.pooling import pool
from tfrec_limaml.adaptation.prior_precision import PRECISION_RANGE, check_prior_precision
from tfrec_limaml.blocks.base import check_blocks
from tfrec_limaml.choices import ADAPTATIONS, POOLINGS, Adaptation, Pooling, check_choice
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.features import Features, zero_row
from tfrec_limaml.models.adapted_tasks import AdaptedTasks
from tfrec_limaml.models.closed_form import solve_offsets
from tfrec_limaml.models.model_attributes import TracedSetting
from tfrec_limaml.models.outer_step import OuterLoss, Samples
from tfrec_limaml.models.row_encoding import EncodedRows, EncodesRows
from tfrec_limaml.models.task_embeddings import TaskEmbeddings, subtask_embeddings

#: The logarithm of the prior precision is learned at this multiple of the outer learning rate.
PRECISION_RATE = 10.0


@keras.saving.register_keras_serializable("tfrec_limaml")
class LiMAML(EncodesRows):
    """Adapts the meta block per task and shares the global block.

    Source: Wang et al., "LiMAML: Personalization of Deep Recommender Models via Meta Learning", KDD
    2024, arXiv 2403.00803.

    Examples:
        >>> block = DotProductGlobalBlock((128, 64))
        >>> model = LiMAML(OffsetMetaBlock(embedding_dim=33), block, adaptation="gauss-newton")
        >>> model.compile(optimizer=keras.optimizers.AdamW(2e-3))
        >>> model.fit(train_tasks, validation_data=validation_tasks, epochs=10)

    Args:
        meta_block: The adapted block, a `MetaBlock`.
        global_block: The shared block, a `GlobalBlock`.
        adaptation: ``"gradient"`` takes steps of gradient descent on the support loss, as the paper
            does. ``"gauss-newton"`` solves for the mode of the posterior of an `OffsetMetaBlock`'s
            offset in `inner_steps` Gauss-Newton steps; see `tfrec_limaml.adaptation.gauss_newton`.
            None means ``"gauss-newton"`` for an `OffsetMetaBlock` and ``"gradient"`` for other
            blocks.
        prior_precision: Initial value of the learned prior precision of the offset (one per
            dimension), between 0.00034 and 2980; `adaptation="gauss-newton"` only.
        pooling: How the embeddings of a task's samples are combined into the stored one:
            ``"latest"`` (the paper's), ``"mean"``, ``"max"`` or ``"cosine"`` (mean weighted by
            cosine similarity to the latest). It has no effect on offsets.
        **kwargs: See `MAMLModel` and `TwoBlockModel`. Their defaults are the paper's; `train` and
            ``limaml train`` use the defaults of `TrainOptions` instead.

    Raises:
        ValueError: Options contradict each other or the blocks, or name an unknown choice.
        LimamlError: `prior_precision` is out of range.
    """

    reports_unadapted_auc = True
    pooling = TracedSetting(lambda name, value: check_choice(name, value, POOLINGS))

    def __init__(
        self,
        meta_block: Any,
        global_block: Any,
        *,
        adaptation: Adaptation | None = None,
        prior_precision: float = 1.0,
        pooling: Pooling = "latest",
        **kwargs: Any,
    ) -> None:
        check_blocks(meta_block, global_block)
        if adaptation is None:
            adaptation = "gauss-newton" if meta_block.stores_offset else "gradient"
        check_choice("adaptation", adaptation, ADAPTATIONS)
        check_prior_precision(prior_precision)
        if adaptation == "gauss-newton" and not meta_block.stores_offset:
            raise ValueError(
                "adaptation='gauss-newton' adapts the offset of an OffsetMetaBlock, received "
                f"{type(meta_block).__name__}"
            )
        if adaptation == "gauss-newton":
            _check_unread(kwargs)
        self.adaptation = adaptation
        self.prior_precision = float(prior_precision)
        self.pooling = pooling
        super().__init__(meta_block, global_block, **kwargs)

    @property
    def inner_variables(self) -> list[keras.Variable]:
        """The meta block's adaptable weights."""
        return self.meta_block.adaptable_variables

    def build(self, features_shape: Any) -> None:
        """Builds the blocks, the support encoder and, for the closed form, the prior precision.

        Raises:
            LimamlError: There are gradient steps, and the meta block has no weights.
        """
        super().build(features_shape)
        steps = self.inner_steps or self.fine_tune_steps
        if self.adaptation == "gradient" and steps and not self.meta_block.weights:
            raise LimamlError(
                f"the meta block {self.meta_block.name!r} has no weights to adapt; give it a layer "
                "with weights, or take no steps (inner_steps=0, fine_tune_steps=0)"
            )
        encoder = self.meta_block.support_encoder
        if encoder is not None and not encoder.built:
            encoder.build((None, None, self._summary_width(features_shape)))
        if self.adaptation == "gauss-newton":
            start = float(tf.math.log(self.prior_precision)) / PRECISION_RATE
            self.scaled_log_precision = self.add_weight(
                shape=(self.meta_block.embedding_dim,),
                initializer=keras.initializers.Constant(start),
                name="scaled_log_precision",
            )

    def precision(self) -> tf.Tensor:
        """The learned prior precision of each number of the offset, ``[D]``."""
        logarithm = PRECISION_RATE * tf.convert_to_tensor(self.scaled_log_precision)
        return tf.exp(tf.clip_by_value(logarithm, *PRECISION_RANGE))

    def prior_variance(self) -> list[float] | None:
        """Variance ``[D]`` of each number of the offset before any interaction is seen.

        None if tasks have no posterior variance.
        """
        solves = self.adaptation == "gauss-newton" and self.fine_tune_steps
        if not solves or not self.adaptation_strength or self.meta_block.nested_definitions:
            return None
        return [float(v) for v in self.adaptation_strength / self.precision().numpy()]

    def adapt_tasks(
        self, support: Samples, steps: int | None, training: bool = False
    ) -> AdaptedTasks:
        """Adapts the meta block to the support sets.

        Everything that does not depend on the meta embedding is computed once.

        Args:
            support: Encoded features ``[T, S, ...]``, ``label`` and ``weight`` ``[T, S]``; rows of
                weight 0 are padding.
            steps: Inner steps. With 0 steps the support sets affect only blocks that read them.
                None leaves the tasks un-adapted: the block does not read the support sets. So does
                an `adaptation_strength` of 0, except in training.
            training: Passed on to the layers. In training, tasks adapt with strength 1, and no
                variances are computed.

        Returns:
            Weights ``[T, ...]``, losses ``[T]`` and variances ``[T, D]`` or None; see
            `AdaptedTasks`.
        """
        if steps is None or (self.adaptation_strength == 0 and not training):
            real = self.real_rows(support["features"], support["weight"])
            encoded = self.encode_meta(support["features"], real)
            encoded = self.meta_block.read_support(encoded, (), causal=True)
            return AdaptedTasks(self.meta_block.initial_weights(encoded))
        return self._adapt(self.encode_samples(support, training), support, steps, training)

    def adapted_outputs(
        self,
        adapted: AdaptedTasks,
        features: Features,
        training: bool = False,
        weight: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Outputs ``[T, S]`` of the adapted meta block and the shared global block."""
        rows = self.encode_rows(features, weight, training)
        return self.outputs_of_rows(adapted, rows, False, training)

    def outer_loss(self, support: Samples, query: Samples) -> OuterLoss:
        """Query loss after adaptation, plus the weighted loss before adaptation.

        With gradient steps, the loss before adaptation is that of the support set. With the closed
        form it is that of all rows, because its computation then costs little.
        """
        if self.adaptation == "gradient":
            return super().outer_loss(support, query)
        rows, query_rows = (self.encode_samples(s, True) for s in (support, query))
        adapted = self._adapt(rows, support, self.inner_steps, True)
        loss = self.task_loss(self.outputs_of_rows(adapted, query_rows, False, True), query)
        auxiliary = None
        if self.unadapted_loss_weight:
            unadapted = adapted._replace(weights=[tf.zeros_like(w) for w in adapted.weights])
            outputs = self.outputs_of_rows(unadapted, query_rows, False, True)
            losses = [adapted.losses[0], self.task_loss(outputs, query)]
            auxiliary = self.unadapted_loss(losses, (support, query))
        return OuterLoss(loss, self.outer_weights(support, query), auxiliary, adapted)

    def unadapted_loss(self, losses: Sequence[tf.Tensor], parts: Sequence[Samples]) -> tf.Tensor:
        """The auxiliary loss ``[T]`` of both parts' rows, given each part's mean losses ``[T]``."""
        sizes = [tf.reduce_sum(samples["weight"], -1) for samples in parts]
        total = tf.add_n([size * loss for size, loss in zip(sizes, losses, strict=True)])
        return self.unadapted_loss_weight * tf.math.divide_no_nan(total, tf.add_n(sizes))

    def task_embeddings(
        self, support: Samples, adapted: AdaptedTasks | None = None
    ) -> TaskEmbeddings:
        """The vectors ``[T, D]`` that the embedding job stores, with their losses.

        They are offsets if the meta block stores offsets. Otherwise they are meta embeddings after
        `fine_tune_steps` steps, pooled over each task's samples.

        Args:
            support: The support sets.
            adapted: The result of `adapt_tasks` on them, if it is already known.
        """
        rows = self.encode_samples(support, False)
        adapted = adapted or self.adapt_tasks(support, self.fine_tune_steps)
        after = self.task_loss(self.outputs_of_rows(adapted, rows, True, False), support)
        encoded = self.meta_block.read_support(rows.encoded, adapted.memory, causal=False)
        embeddings = self.meta_block.stored_rows(adapted.weights, encoded)
        first, *nested = tf.split(embeddings, 1 + len(self.meta_block.nested_definitions), -1)
        return TaskEmbeddings(
            pool(first, support["weight"], self.pooling),
            adapted.losses[0] if adapted.losses else after,
            after,
            subtask_embeddings(self.meta_block.nested_definitions, nested, support, self.pooling),
            adapted.variance,
        )

    def _adapt(
        self, rows: EncodedRows, support: Samples, steps: int, training: bool
    ) -> AdaptedTasks:
        if self.adaptation == "gauss-newton":
            return self._solve(rows, support, steps, training)
        label, weight = support["label"], support["weight"]
        memory = self.meta_block.encode_support(rows.encoded, label, weight)
        encoded = self.meta_block.read_support(rows.encoded, memory, causal=True)

        def losses(weights: Weights) -> tf.Tensor:
            return self.task_loss(self.head(weights, encoded, rows, training), support)

        start, mean = self.meta_block.initial_weights(encoded), self.prior_mean(rows, support)
        unadapted = [] if steps and mean is None else [losses(start)]
        if mean is not None:
            start = [mean]
        weights, before = adapt(
            start,
            losses,
            steps,
            self.inner_rates(training),
            self.second_order_steps,
            self.step_scale(support),
        )
        return AdaptedTasks(weights, [*unadapted, *before], memory)

    def prior_mean(self, rows: EncodedRows, support: Samples) -> tf.Tensor | None:
        """The support encoder's output ``[T, D]``: the initial offset of each task."""
        encoder = self.meta_block.support_encoder
        if encoder is None:
            return None
        summary = rows.real.spread(self.global_block.summarise(rows.context))
        return encoder(summary, support["label"], support["weight"], support.get("age"))

    def _summary_width(self, features_shape: Any) -> int:
        """Width of a support encoder's input, from a row of zeros."""
        with tf.init_scope():
            context = self.global_block.encode_context(zero_row(features_shape))
            summary = self.global_block.summarise(context)
            return int(summary.shape[-1])

    def _solve(
        self, rows: EncodedRows, support: Samples, steps: int, training: bool
    ) -> AdaptedTasks:
        return solve_offsets(self, rows, support, steps, training)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        config = {
            "adaptation": self.adaptation,
            "prior_precision": self.prior_precision,
            "pooling": self.pooling,
        }
        return {**super().get_config(), **config}


def _check_unread(options: Mapping[str, Any]) -> None:
    """Raises `ValueError` for options of gradient steps, which the closed form does not read."""
    defaults = {
        "support_reduction": "mean",
        "first_order": False,
        "second_order_steps": None,
        "learn_inner_rates": False,
    }
    given = {n: options[n] for n, value in defaults.items() if options.get(n, value) != value}
    if given:
        raise ValueError(
            "the closed form does not read options of gradient steps, and always sums the losses "
            f"of the support rows; leave them out, received {given}"
        )
