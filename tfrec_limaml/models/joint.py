"""LiMAML for two task definitions, neither of which refines the other."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfrec_limaml.adaptation.gauss_newton import gauss_newton
from tfrec_limaml.blocks.joint import JointMetaBlocks
from tfrec_limaml.blocks.optional_methods import is_linear
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.features import OTHER_OFFSET, OTHER_ROW, SIDE, Features
from tfrec_limaml.models.adapted_tasks import AdaptedTasks
from tfrec_limaml.models.limaml import LiMAML
from tfrec_limaml.models.model_attributes import Untracked
from tfrec_limaml.models.outer_step import OuterLoss, Samples
from tfrec_limaml.models.row_encoding import EncodedRows
from tfrec_limaml.models.task_batches import is_task_batch
from tfrec_limaml.models.task_embeddings import TaskEmbeddings


@keras.saving.register_keras_serializable("tfrec_limaml")
class JointLiMAML(LiMAML):
    """Adapts one side of each row, and looks up the offsets of the other side.

    A batch holds tasks of one definition, its *side*: 0 for the first, 1 for the second. The
    offsets of these tasks are adapted in closed form on the support set. The other side's offset of
    each row comes from a table of offsets that were adapted before, with one row per task of both
    definitions; see `tfrec_limaml.training.joint`. No gradient flows into the table; both sides'
    batches train both meta blocks and the global block.

    Batches have two further features, int32 ``[T, N]``: `tfrec_limaml.features.SIDE`, and
    `tfrec_limaml.features.OTHER_ROW`, the row of the other task in the table, 0 if that task is
    unknown. `OTHER_OFFSET`, the other task's offset itself, may take the place of `OTHER_ROW`. In
    the un-adapted model neither side is adapted.

    Examples:
        >>> meta_block = JointMetaBlocks(
        ...     {"user": OffsetMetaBlock((64,), 33), "video": OffsetMetaBlock((64,), 33)}
        ... )
        >>> model = JointLiMAML(meta_block, BilinearGlobalBlock((128, 64)), encoder=encoder)

    Args:
        meta_block: One block per definition.
        global_block: Reads both embeddings, ``[N, 2 D]``; for example `BilinearGlobalBlock`.
        sweeps: Number of times that each side is adapted given the other to compute a table; the
            second definition is adapted first.
        **kwargs: See `LiMAML`; `adaptation` must be ``"gauss-newton"``.

    Raises:
        ValueError: `meta_block` is not a `JointMetaBlocks`.
        LimamlError: `adaptation` or `sweeps` has another value.
    """

    def __init__(
        self, meta_block: JointMetaBlocks, global_block: Any, *, sweeps: int = 2, **kwargs: Any
    ) -> None:
        if not isinstance(meta_block, JointMetaBlocks):
            raise ValueError(
                f"meta_block must be JointMetaBlocks, received {type(meta_block).__name__}"
            )
        if kwargs.get("adaptation") not in (None, "gauss-newton"):
            raise LimamlError(
                "two sides are adapted in closed form: "
                f"adaptation must be 'gauss-newton', received {kwargs['adaptation']!r}"
            )
        if sweeps < 1:
            raise LimamlError(f"sweeps must be at least 1, received {sweeps}")
        self.sweeps = int(sweeps)
        super().__init__(meta_block, global_block, **kwargs)
        self._filled = False
        width = meta_block.stored_dim
        offsets = tf.zeros([1, width], self.variable_dtype)
        self._table = Untracked(
            tf.Variable(offsets, trainable=False, shape=[None, width], name="offsets")
        )

    @property
    def table(self) -> tf.Variable:
        """Offsets by table row ``[R, D]``; row 0, for unknown tasks, is zero."""
        return self._table.value

    def clear_table(self, rows: int) -> None:
        """Sets all offsets of the table to zero."""
        self.table.assign(tf.zeros([rows, self.meta_block.stored_dim], self.table.dtype))
        self._filled = True

    def fill_table(self, rows: tf.Tensor, support: Samples) -> None:
        """Adapts tasks given the offsets of the table, and writes their offsets into the table.

        Args:
            rows: Table row of each task ``[T]``.
            support: Support sets of the tasks.
        """
        support_rows = self.encode_samples(support, False)
        adapted = self._solve_side(support_rows, support, self.fine_tune_steps, False)
        offset = tf.cast(self._own_half(adapted.weights[0], support["features"]), self.table.dtype)
        self.table.scatter_nd_update(rows[:, None], offset)

    def evaluate(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """See `TaskLoops.evaluate`; raises `LimamlError` if the table is empty but needed."""
        self._require_table(x)
        return super().evaluate(x, *args, **kwargs)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """See `TaskLoops.predict`; raises `LimamlError` if the table is empty but needed."""
        self._require_table(x)
        return super().predict(x, *args, **kwargs)

    def _require_table(self, dataset: Any) -> None:
        spec = getattr(dataset, "element_spec", None)
        if not is_task_batch(spec) or self._filled:
            return
        if OTHER_ROW in dataset.element_spec["query"]["features"]:
            raise LimamlError(
                "the table of offsets is empty, as that of every loaded model; fill it with "
                "tfrec_limaml.training.joint.fill_table"
            )

    def adapt_tasks(
        self, support: Samples, steps: int | None, training: bool = False
    ) -> AdaptedTasks:
        """Adapts the batch's side given the other; `steps=None` leaves both sides un-adapted."""
        if steps is None or (self.adaptation_strength == 0 and not training):
            return AdaptedTasks([])
        return self._adapt(self.encode_samples(support, training), support, steps, training)

    def adapted_outputs(
        self,
        adapted: AdaptedTasks,
        features: Features,
        training: bool = False,
        weight: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Outputs ``[T, S]``; un-adapted if nothing was adapted."""
        if not adapted.weights:
            rows = self.real_rows(features, weight)
            return rows.spread(self.network(rows.take_features(features), training=training))
        return super().adapted_outputs(adapted, features, training, weight)

    def outer_loss(self, support: Samples, query: Samples) -> OuterLoss:
        """Query loss given the other side, plus the weighted un-adapted loss of all rows.

        The un-adapted loss does not use the table, whose offsets may depend on the labels of the
        support rows.
        """
        unadapted = [
            self._unadapted_rows(s["features"], s["weight"], True) for s in (support, query)
        ]
        rows, query_rows = (
            self._add_other_offsets(r, s["features"])
            for r, s in zip(unadapted, (support, query), strict=True)
        )
        adapted = self._solve_side(rows, support, self.inner_steps, True)
        loss = self.task_loss(self.outputs_of_rows(adapted, query_rows, False, True), query)
        auxiliary = None
        if self.unadapted_loss_weight:
            losses = [
                self.task_loss(self.outputs_from(r, r.encoded, True), samples)
                for r, samples in zip(unadapted, (support, query), strict=True)
            ]
            auxiliary = self.unadapted_loss(losses, (support, query))
        return OuterLoss(loss, self.outer_weights(support, query), auxiliary, adapted)

    def task_embeddings(
        self, support: Samples, adapted: AdaptedTasks | None = None
    ) -> TaskEmbeddings:
        """Offsets ``[T, D]`` of the batch's side given the other."""
        rows = self.encode_samples(support, False)
        adapted = adapted or self.adapt_tasks(support, self.fine_tune_steps)
        if not adapted.weights:  # an adaptation strength of 0
            loss = self.task_loss(self.outputs_of(adapted, support), support)
            unknown = tf.zeros([tf.size(loss), self.meta_block.stored_dim], self.variable_dtype)
            return TaskEmbeddings(unknown, loss, loss)
        after = self.task_loss(self.outputs_of_rows(adapted, rows, True, False), support)
        before = adapted.losses[0] if adapted.losses else after
        embedding = self._own_half(adapted.weights[0], support["features"])
        return TaskEmbeddings(embedding, before, after, variance=adapted.variance)

    # -- rows and sides

    def _unadapted_rows(
        self, features: Features, weight: tf.Tensor | None, training: bool
    ) -> EncodedRows:
        """Rows with both sides' un-adapted embeddings ``[T, N, 2 D]``."""
        return super().encode_rows(features, weight, training)

    def encode_rows(
        self, features: Features, weight: tf.Tensor | None, training: bool
    ) -> EncodedRows:
        """Rows with the other side adapted."""
        return self._add_other_offsets(self._unadapted_rows(features, weight, training), features)

    def _add_other_offsets(self, rows: EncodedRows, features: Features) -> EncodedRows:
        if SIDE not in features:
            raise LimamlError(
                f"a batch for two task definitions has its side in the feature {SIDE!r}, received "
                f"{sorted(features)}; make batches with task_dataset(..., side=...)"
            )
        other = features.get(OTHER_OFFSET)
        if other is None:
            other = tf.gather(self.table, features[OTHER_ROW])
        padded = self._pad_side(tf.cast(other, rows.encoded.dtype), 1 - features[SIDE])
        return rows._replace(encoded=rows.encoded + padded)

    def _pad_side(self, offset: tf.Tensor, side: tf.Tensor) -> tf.Tensor:
        """Offsets ``[..., D]`` in their side's half of ``[..., 2 D]``; `side` is ``[...]``."""
        second = tf.cast(side, offset.dtype)[..., None]
        return tf.concat([offset * (1 - second), offset * second], -1)

    def _own_half(self, offset: tf.Tensor, features: Features) -> tf.Tensor:
        """The half ``[T, D]`` of offsets ``[T, 2 D]`` that belongs to the batch's side."""
        first, second = tf.split(offset, 2, -1)
        return tf.where(features[SIDE][:, :1] == 0, first, second)

    def _solve(
        self, rows: EncodedRows, support: Samples, steps: int, training: bool
    ) -> AdaptedTasks:
        return self._solve_side(rows, support, steps, training, with_variance=not training)

    def _solve_side(
        self,
        rows: EncodedRows,
        support: Samples,
        steps: int,
        training: bool,
        with_variance: bool = False,
    ) -> AdaptedTasks:
        """Computes the mode of each task's offset, in its side's half of ``[T, 2 D]``."""
        strength = self.strength(training)
        side = support["features"][SIDE]

        def outputs(offset: tf.Tensor) -> tf.Tensor:
            padded = self._pad_side(tf.cast(offset, rows.encoded.dtype), side)
            return self.outputs_from(rows, rows.encoded + padded, training)

        def derivatives(values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            return self.derivatives(support["label"], values)

        first, second = tf.split(self.precision(), 2)
        zero = tf.zeros_like(rows.encoded[:, 0], first.dtype)
        if not steps:
            unadapted_outputs = self.head([zero], rows.encoded, rows, training)
            return AdaptedTasks([zero], [self.task_loss(unadapted_outputs, support)])
        precision = tf.where(tf.reduce_max(side) == 0, first, second)
        result = gauss_newton(
            outputs,
            derivatives,
            support["weight"],
            precision / strength,
            steps,
            with_variance,
            linear=is_linear(self.global_block, 2),
        )
        padded = self._pad_side(result.offset, side[:, 0])
        return AdaptedTasks([padded], result.losses, variance=result.variance)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "sweeps": self.sweeps}
