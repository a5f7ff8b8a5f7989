"""A model of two blocks: construction and saving."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Self

import keras
import tensorflow as tf

from tfrec_limaml.adaptation.losses import loss_config, loss_of_config
from tfrec_limaml.adaptation.real_rows import RealRows
from tfrec_limaml.blocks.base import GlobalBlock, MetaBlock, check_blocks
from tfrec_limaml.choices import AVERAGINGS, Averaging, check_choice
from tfrec_limaml.features import Features
from tfrec_limaml.models.checked_blocks import check_ids
from tfrec_limaml.models.loss_and_metrics import LossAndMetrics
from tfrec_limaml.models.model_attributes import TracedSetting, Untracked, count, number
from tfrec_limaml.models.network import RecommenderNetwork


class TwoBlockModel(LossAndMetrics):
    """A meta block and a global block under one loss; the base of `TaskModel`, which trains them.

    Args:
        meta_block: Maps meta features to the meta embedding.
        global_block: Maps the features and the meta embedding to a logit.
        encoder: The `FeatureEncoder` that made the features; saved with the model, and needed for
            export.
        fine_tune: Whether `evaluate` and `predict` adapt on each task's support set first.
        fine_tune_steps: Steps ``k`` of that adaptation.
        inner_learning_rate: Learning rate of gradient steps, in the inner loop and in fine-tuning.
        averaging: ``"task"``: all tasks have the same weight in the outer loss. ``"sample"``: a
            task's weight is the sum of its sample weights.
        adaptation_strength: How far `evaluate`, `predict` and exported adapters adapt, relative to
            training: a factor of the inner learning rate, or of the prior's variance. 0 means no
            adaptation. `choose_adaptation_strength` chooses it on validation tasks.
        **kwargs: See `keras.Model`.

    The arguments from `fine_tune` on are attributes that can be changed at any time; compiled
    functions are then traced again.

    Raises:
        ValueError: An argument is not a block or an encoder, has another dtype policy than the
            model, or is out of range.
    """

    fine_tune = TracedSetting(lambda _, value: bool(value))
    fine_tune_steps = TracedSetting(count)
    inner_learning_rate = TracedSetting(number(0.0))
    averaging = TracedSetting(lambda name, value: check_choice(name, value, AVERAGINGS))
    adaptation_strength = TracedSetting(number(0.0))

    def __init__(
        self,
        meta_block: MetaBlock,
        global_block: GlobalBlock,
        *,
        encoder: keras.layers.Layer | None = None,
        fine_tune: bool = True,
        fine_tune_steps: int = 1,
        inner_learning_rate: float = 0.1,
        averaging: Averaging = "task",
        adaptation_strength: float = 1.0,
        **kwargs: Any,
    ) -> None:
        check_blocks(meta_block, global_block)
        if encoder is not None and not hasattr(encoder, "output_shapes"):
            raise ValueError(
                "encoder must be a FeatureEncoder, such as FeatureEncoder(schema, statistics), "
                f"received {type(encoder).__name__}"
            )
        super().__init__(**kwargs)
        if kwargs.get("dtype") is not None:
            self._check_dtype(meta_block, global_block)
        self.network = RecommenderNetwork(
            meta_block, global_block, dtype=self.dtype_policy, name="network"
        )
        self.encoder: Any = encoder
        self._task_spec: Any = None
        self.fine_tune = fine_tune
        self.fine_tune_steps = fine_tune_steps
        self.inner_learning_rate = inner_learning_rate
        self.averaging = averaging
        self.adaptation_strength = adaptation_strength
        self._traced_strength: Any = None
        self._set_loss("binary_crossentropy")
        self.dropped_tasks = _counter("dropped_tasks")
        self._skipped_steps = Untracked(_counter("skipped_steps"))
        if encoder is not None:
            self.build(encoder.output_shapes)
            check_ids(self.meta_block, self.global_block, encoder)

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """The encoder, if there is one, and the two blocks, for `summary` and `get_layer`."""
        return [
            layer
            for layer in (self.encoder, self.meta_block, self.global_block)
            if layer is not None
        ]

    @property
    def meta_block(self) -> MetaBlock:
        """The adapted block."""
        return self.network.meta_block

    @property
    def global_block(self) -> GlobalBlock:
        """The shared block."""
        return self.network.global_block

    @property
    def skipped_steps(self) -> keras.Variable:
        """Number of steps whose gradients were not finite; see `train_step`."""
        return self._skipped_steps.value

    @contextlib.contextmanager
    def traced_strength(self, strength: tf.Tensor) -> Iterator[None]:
        """A context in which a positive scalar tensor replaces `adaptation_strength`.

        One trace then serves all strengths.
        """
        self._traced_strength = strength
        try:
            yield
        finally:
            self._traced_strength = None

    def strength(self, training: bool) -> Any:
        """1 in training; otherwise `adaptation_strength`, or the tensor of `traced_strength`."""
        if training:
            return 1.0
        traced = self._traced_strength
        return self.adaptation_strength if traced is None else traced

    def build(self, features_shape: Mapping[str, tuple[int | None, ...]]) -> None:
        """Builds both blocks from the shapes ``[N, ...]`` of the encoded features."""
        self.built_shapes = dict(features_shape)
        self.network.build(dict(features_shape))
        self.built = True

    def call(self, features: Features, training: bool = False) -> tf.Tensor:
        """Un-adapted predictions ``[N]`` of encoded rows.

        They are probabilities, or values if the label is not binary.

        Raises:
            ValueError: A feature is missing.
        """
        if missing := sorted(self.built_shapes.keys() - features.keys()):
            raise ValueError(
                f"expected encoded rows, with the features {sorted(self.built_shapes)}: {missing} "
                f"are missing, received {sorted(features)}; for batches of tasks use predict"
            )
        return self.predictions(self.network(features, training=training))

    def _check_dtype(self, *blocks: keras.layers.Layer) -> None:
        """Raises `ValueError` if the model's dtype policy is not that of its blocks, which compute
        everything.
        """
        for block in blocks:
            if block.compute_dtype != self.compute_dtype:
                raise ValueError(
                    f"the dtype policy of the model is {self.dtype_policy.name!r}, that of "
                    f"{block.name!r} {block.dtype_policy.name!r}: give the blocks the same dtype, "
                    "or call keras.config.set_dtype_policy before you make them"
                )

    def real_rows(self, features: Features, weight: tf.Tensor | None = None) -> RealRows:
        """The rows of features ``[T, S, ...]`` whose weight ``[T, S]`` is not 0.

        These are all rows if there are no weights, or if XLA compiles the model.
        """
        keep_padding = weight is None or (self.compiled and bool(self.jit_compile))
        like = next(iter(features.values())) if weight is None else weight
        return RealRows(like, keep_padding)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments and the loss.

        A loaded model predicts and adapts like the saved one without being compiled.
        """
        return {
            **super().get_config(),
            "meta_block": keras.saving.serialize_keras_object(self.meta_block),
            "global_block": keras.saving.serialize_keras_object(self.global_block),
            "encoder": None
            if self.encoder is None
            else keras.saving.serialize_keras_object(self.encoder),
            "fine_tune": self.fine_tune,
            "fine_tune_steps": self.fine_tune_steps,
            "inner_learning_rate": self.inner_learning_rate,
            "averaging": self.averaging,
            "adaptation_strength": self.adaptation_strength,
            "loss": loss_config(self._loss),
            "binary": self.binary,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Inverse of `get_config`."""
        parts = {
            name: keras.saving.deserialize_keras_object(config[name])
            for name in ("meta_block", "global_block", "encoder")
        }
        loss = loss_of_config(config.get("loss", "binary_crossentropy"))
        arguments = {n: value for n, value in config.items() if n not in ("loss", "binary")}
        model = cls(**{**arguments, **parts})
        model._set_loss(loss, config.get("binary"))
        return model


def _counter(name: str) -> keras.Variable:
    return keras.Variable(
        0, dtype="int64", trainable=False, aggregation="only_first_replica", name=name
    )
