"""Keras' `fit`, `evaluate` and `predict` on datasets of task batches."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeGuard

import keras
import numpy as np
import tensorflow as tf

from tfrec_limaml.errors import LimamlError
from tfrec_limaml.features import DERIVED
from tfrec_limaml.keras_internals import FitsUnderStrategies, build_compiled
from tfrec_limaml.models.finite_tasks import bad_samples_as_errors
from tfrec_limaml.models.task_batches import check_task_batch, is_task_batch
from tfrec_limaml.wording import counted


class TaskLoops(FitsUnderStrategies):
    """Builds the model from a dataset's `element_spec` before Keras' loops run over it."""

    encoder: Any
    _task_spec: Any = None
    #: Shapes of the features that the model was built with.
    built_shapes: Mapping[str, tuple[int | None, ...]] = MappingProxyType({})
    dropped_tasks: keras.Variable
    skipped_steps: keras.Variable
    inner_learning_rate: float

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """`keras.Model.fit` on a dataset of task batches.

        Warns if tasks or steps were left out because their values are not finite.

        Raises:
            LimamlError: `x` is not a dataset of task batches, or its features are not those of the
                model; `y`, `sample_weight` or `class_weight` is given; or a row has a negative
                weight or, under a loss of binary labels, a label outside 0 to 1.
        """
        _refuse_labels(keras.Model.fit, x, *args, **kwargs)
        self._build_from(x)
        dropped_before, skipped_before = self._counts()
        # With `steps_per_epoch` Keras' warning says that an epoch was shorter than that.
        quiet = contextlib.nullcontext() if kwargs.get("steps_per_epoch") else _quiet_iteration()
        with quiet, bad_samples_as_errors():
            history = super().fit(x, *args, **{"shuffle": False, **kwargs})
        dropped, skipped = self._counts()
        remedy = (
            "check the features and labels for NaN, or lower the optimizer's learning rate or "
            f"inner_learning_rate (now {self.inner_learning_rate}; gradient steps only)"
        )
        if dropped > dropped_before:
            tasks = counted(dropped - dropped_before, "task")
            warnings.warn(
                f"left out {tasks} with a loss, features or adapted weights that are not finite; "
                f"{remedy}",
                stacklevel=2,
            )
        if skipped > skipped_before:
            steps = counted(skipped - skipped_before, "step")
            warnings.warn(
                f"{steps} had gradients that are not finite and count as 0; {remedy}, or look for "
                "a layer without a finite derivative, such as the square root at 0",
                stacklevel=2,
            )
        return history

    def _counts(self) -> tuple[int, int]:
        return int(self.dropped_tasks.numpy()), int(self.skipped_steps.numpy())

    def evaluate(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """`keras.Model.evaluate` on a dataset of task batches; errors as in `fit`."""
        _refuse_labels(keras.Model.evaluate, x, *args, **kwargs)
        self._build_from(x)
        with _quiet_iteration(), bad_samples_as_errors():
            return super().evaluate(x, *args, **kwargs)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """`keras.Model.predict` on a dataset of task batches, or on encoded rows."""
        self._build_from(x, takes_rows=True)
        spec = getattr(x, "element_spec", None)
        spec = spec if is_task_batch(spec) else None
        if spec != self._task_spec:
            self._task_spec, self.predict_function = spec, None
        steps_before = getattr(self, "steps_per_execution", 1)
        self.steps_per_execution = 1  # otherwise Keras passes several batches at a time
        try:
            with _quiet_iteration():
                return super().predict(x, *args, **kwargs)
        finally:
            self.steps_per_execution = steps_before

    def train_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        class_weight: Any = None,
        return_dict: bool = False,
    ) -> Any:
        """`keras.Model.train_on_batch` on a batch of tasks, which holds labels and weights."""
        _refuse_weights(y=y, sample_weight=sample_weight, class_weight=class_weight)
        self._build_from(x)
        with bad_samples_as_errors():
            return super().train_on_batch(x, return_dict=return_dict)

    def test_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False
    ) -> Any:
        """`keras.Model.test_on_batch` on a batch of tasks, which holds labels and weights."""
        _refuse_weights(y=y, sample_weight=sample_weight)
        self._build_from(x)
        with bad_samples_as_errors():
            return super().test_on_batch(x, return_dict=return_dict)

    def predict_on_batch(self, x: Any) -> Any:
        """`keras.Model.predict_on_batch` on a batch of tasks, or on encoded rows.

        See `TaskModel.predict_step`.
        """
        self._build_from(x, takes_rows=True)
        if self._task_spec is not None:  # traced for the batches of a dataset
            self._task_spec = self.predict_function = None
        return super().predict_on_batch(x)

    def export(self, *args: Any, **kwargs: Any) -> None:
        """Refused: Keras exports one model, and serving needs the ranker and the adapter.

        Raises:
            LimamlError: Always; it names `tfrec_limaml.export_for_serving`.
        """
        raise LimamlError(
            "a model that adapts tasks is exported as ranker and adapter: call "
            "tfrec_limaml.export_for_serving(model, folder), or run `limaml export`"
        )

    def make_predict_function(self, force: bool = False) -> Any:
        """Like Keras' method, but the function is traced once for all batch shapes.

        Keras passes tensors to `predict`, and their shapes differ from batch to batch.
        """
        if (
            self._task_spec is None
            or self.run_eagerly
            or self.distribute_strategy.num_replicas_in_sync > 1
        ):
            return super().make_predict_function(force)
        if self.predict_function is None or force:
            step = tf.function(
                lambda data: self.predict_step(data[0]),
                input_signature=[[self._task_spec]],
                autograph=False,
            )
            self.predict_function = step
        return self.predict_function

    def _build_from(self, data: Any, takes_rows: bool = False) -> None:
        """Checks the data of a loop, and builds the model from their shapes.

        `takes_rows` is whether the loop takes encoded rows, too.
        """
        # Keras would build loss and metrics by a forward pass over `data`: tasks, not rows.
        build_compiled(self, tf.zeros([1, 1]), tf.zeros([1, 1]))
        if isinstance(data, np.ndarray | tf.Tensor | list | tuple):
            raise LimamlError(
                "expected a tf.data.Dataset of task batches (see task_dataset), one batch of tasks "
                f"or encoded rows by name, received {type(data).__name__}"
            )
        one_batch = data if isinstance(data, Mapping) else None
        spec: Any = getattr(data, "element_spec", one_batch)
        spec = spec[0] if isinstance(spec, tuple) and len(spec) == 1 else spec
        if spec is None and not self.built:
            raise ValueError(
                "the model is not built: give it a tf.data.Dataset or one batch of tasks first, "
                "or call build({name: (None, ...)}) with the shapes of the encoded features; "
                f"received {type(data).__name__}"
            )
        if spec is not None and not is_task_batch(spec):
            if takes_rows and (self.built or isinstance(data, Mapping)):
                return
            received = f"the entries {sorted(spec)}" if isinstance(spec, Mapping) else spec
            rows = "" if takes_rows else "; encoded rows have no tasks: pass them to predict"
            raise LimamlError(
                "expected a dataset of task batches with 'support' and 'query' (see task_dataset), "
                f"or one batch, received {received}{rows}"
            )
        if spec is not None and (not self.built or _describes_tensors(spec)):
            check_task_batch(spec)
            features = spec["support"]["features"]
            if self.built:
                self._check_features(features)
            else:
                with self.distribute_strategy.scope():
                    self.build({name: (None, *s.shape[2:]) for name, s in features.items()})

    def _check_features(self, features: Mapping[str, Any]) -> None:
        """Raises `LimamlError` if the features are not those that the model was built with."""
        shapes: Mapping[str, tuple[int | None, ...]] = self.built_shapes
        missing = sorted(shapes.keys() - features.keys())
        other = [
            f"{name} {tuple(features[name].shape[2:])} in place of {shape[1:]}"
            for name, shape in shapes.items()
            if name in features
            and not tf.TensorShape(features[name].shape[2:]).is_compatible_with(shape[1:])
        ]
        if self.encoder is not None:
            new = sorted(features.keys() - shapes.keys())
            other += [f"{name!r} is new" for name in new if not name.startswith(DERIVED)]
        if missing or other:
            raise LimamlError(
                "the batches' features are not those that the model was built with: "
                f"{'; '.join([*(f'no {name!r}' for name in missing), *other])}. Make the dataset "
                "with the model's own encoder (model.encoder)"
            )


def _describes_tensors(spec: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether this is a batch of tasks, or the specification of one that is not distributed."""
    if not is_task_batch(spec):
        return False
    support = spec["support"]
    label = support.get("label") if isinstance(support, Mapping) else None
    return label is None or hasattr(label, "shape")


def _refuse_labels(method: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """`_refuse_weights` for the arguments of a call of one of Keras' methods."""
    given = inspect.signature(method).bind_partial(None, *args, **kwargs).arguments
    names = ("y", "sample_weight", "class_weight")
    _refuse_weights(**{name: given[name] for name in names if name in given})


def _refuse_weights(**arguments: Any) -> None:
    """Raises `LimamlError` if one of Keras' label or weight arguments is given."""
    for name, value in arguments.items():
        if value is not None:
            raise LimamlError(
                f"{name} cannot be used with batches of tasks, which contain labels and weights; "
                "to weigh rows, for example by class, name a column as the schema's `weight`, or "
                "scale batch['support']['weight'] and batch['query']['weight'] with dataset.map"
            )


@contextlib.contextmanager
def _quiet_iteration() -> Iterator[None]:
    """Hides Keras' warning at the end of a dataset of unknown length.

    It is the normal end of an epoch here.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Your input ran out of data")
        yield
