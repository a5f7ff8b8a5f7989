"""Forms of per-task weights in the inner loop that cost less than a tensor ``[T, ...]``.

`SharedWeight`: before the first step all tasks have the same weights, and only their *gradient*
needs a task axis.

`DualKernel`: a first layer's input ``M`` ``[T, S, in]`` does not change in the inner loop, so
gradient descent only adds combinations of its rows to the kernel: ``W_k = W + M' A_k``, where
``A_k`` is minus the inner learning rate times the sum of the deltas so far. Products become ``x W +
(x M') A``: per-task kernels are never formed. This is exact, and takes less work and memory if
there are fewer rows than inputs.

`LowRankKernel`: any other layer's input changes from step to step, and each step adds one product
of it and of the delta: ``W_k = W + M_1' A_1 + ... + M_k' A_k``. This is the general form of the
same idea, for a layer that is called once per step.

In all of them, a tape watches a *zero placeholder*, a tensor of zeros that is never formed: its
gradient is the gradient per task.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfrec_limaml.adaptation.axes import merge_axes, split_axes


class SharedWeight:
    """A weight that all tasks share until the first step.

    Args:
        value: The shared tensor.
        tasks: Number of tasks, a scalar.
    """

    def __init__(self, value: tf.Tensor, tasks: tf.Tensor) -> None:
        self.value = value
        self.zero_placeholder = tf.zeros(tf.concat([tasks[None], tf.shape(value)], 0), value.dtype)

    def descend(self, gradient: tf.Tensor, learning_rate: Any) -> tf.Tensor:
        """The tasks' weights ``[T, ...]`` one step later."""
        return self.value[None] - gradient * learning_rate

    def per_task(self) -> tf.Tensor:
        """The weight with a task axis."""
        return self.value[None] + self.zero_placeholder


class DualKernel:
    """A dense layer's kernel as the shared one plus combinations of the task's support rows.

    Args:
        value: The shared kernel ``[in, out]``.
        rows: The layer's input on the support set, ``[T, S, in]``.
    """

    def __init__(self, value: tf.Tensor, rows: tf.Tensor) -> None:
        self.value, self.rows = value, rows
        self._base = _product(rows, value)
        # Keyed by whether an outer tape records the step: in a first-order step the rows are
        # constants too.
        self._rows_of_step = {True: rows, False: tf.stop_gradient(rows)}
        self._grams = {
            exact: tf.matmul(rows, step_rows, transpose_b=True)
            for exact, step_rows in self._rows_of_step.items()
        }
        self._coefficients: dict[bool, tf.Tensor] = {}
        self.zero_placeholder = tf.zeros_like(self._base)

    def product(self, inputs: tf.Tensor) -> tf.Tensor:
        """``inputs @ kernel`` for inputs ``[T, N, in]``.

        The support rows are recognised by identity.
        """
        is_support = inputs is self.rows
        outputs = self._base if is_support else _product(inputs, self.value)
        for exact, coefficients in self._coefficients.items():
            gram = (
                self._grams[exact]
                if is_support
                else tf.matmul(inputs, self._rows_of_step[exact], transpose_b=True)
            )
            outputs = outputs + tf.matmul(gram, coefficients)
        return (
            _with_placeholder(outputs, self.zero_placeholder, lambda upstream: upstream)
            if is_support
            else outputs
        )

    def descend(self, gradient: tf.Tensor, learning_rate: Any, exact: bool = True) -> DualKernel:
        """The kernel one step later.

        `gradient` is the placeholder's: the loss's gradient with respect to the layer's output,
        ``[T, S, out]``. A step that is not `exact` is of first order: an outer tape does not record
        it.
        """
        result = copy.copy(self)
        step = gradient * learning_rate
        result._coefficients = {
            **self._coefficients,
            exact: self._coefficients[exact] - step if exact in self._coefficients else -step,
        }
        return result

    def per_task(self) -> tf.Tensor:
        """The kernels ``[T, in, out]``."""
        kernels = tf.broadcast_to(
            self.value, tf.concat([tf.shape(self.rows)[:1], tf.shape(self.value)], 0)
        )
        for exact, coefficients in self._coefficients.items():
            kernels = kernels + tf.matmul(self._rows_of_step[exact], coefficients, transpose_a=True)
        return kernels

    @property
    def steps(self) -> list[tf.Tensor]:
        """The coefficients ``[T, S, out]`` of all steps so far."""
        return list(self._coefficients.values())

    def without_dual(self) -> SharedWeight:
        """The same kernel as a `SharedWeight`, for steps with a learning rate per parameter.

        Such steps are not in the span of the rows.
        """
        return SharedWeight(self.value, tf.shape(self.rows)[0])


class LowRankKernel:
    """A dense layer's kernel as the shared one plus a low-rank term for each step.

    A term combines the rows of the layer's input on the support set.

    In adaptation `product` is called once per step, on the support rows. Use `without_placeholder`
    for other rows.

    Args:
        value: The shared kernel ``[in, out]``.
        label: Support labels ``[T, S]``, for their shape.
    """

    def __init__(self, value: tf.Tensor, label: tf.Tensor) -> None:
        self.value = value
        shape = tf.concat([tf.shape(label), tf.shape(value)[1:]], 0)
        self.zero_placeholder = tf.zeros(shape, value.dtype)
        self._terms: tuple[tuple[tf.Tensor, tf.Tensor], ...] = ()
        self._support_inputs: list[tf.Tensor] | None = []

    def product(self, inputs: tf.Tensor) -> tf.Tensor:
        """``inputs @ kernel`` for inputs ``[T, N, in]``."""
        outputs = _product(inputs, self.value)
        for rows, coefficients in self._terms:
            gram = tf.matmul(inputs, rows, transpose_b=True)
            outputs = outputs + tf.matmul(gram, coefficients)
        if self._support_inputs is None:
            return outputs
        self._support_inputs.append(inputs)
        return _with_placeholder(outputs, self.zero_placeholder, lambda upstream: upstream)

    def descend(self, gradient: tf.Tensor, learning_rate: Any, exact: bool = True) -> LowRankKernel:
        """The kernel one step later.

        `gradient` is the placeholder's. A step that is not `exact` is of first order: an outer tape
        does not record it.
        """
        result = copy.copy(self)
        if self._support_inputs:
            (rows,) = self._support_inputs
            term = (rows if exact else tf.stop_gradient(rows), -gradient * learning_rate)
            result._terms = (*self._terms, term)
        result._support_inputs = []
        return result

    @property
    def steps(self) -> list[tf.Tensor]:
        """The coefficients ``[T, S, out]`` of all steps so far."""
        return [coefficients for _, coefficients in self._terms]

    def without_placeholder(self) -> LowRankKernel:
        """The kernel for any rows, without placeholder."""
        result = copy.copy(self)
        result._support_inputs = None
        return result

    def without_dual(self) -> SharedWeight:
        """The same kernel as a `SharedWeight`, for steps with a learning rate per parameter."""
        return SharedWeight(self.value, tf.shape(self.zero_placeholder)[0])

    def per_task(self) -> tf.Tensor:
        """The kernels ``[T, in, out]``; only after `without_placeholder`."""
        if self._support_inputs is not None:
            raise ValueError(
                "per_task would have no gradient while the kernel is adapted; call "
                "without_placeholder first"
            )
        kernels = self.value[None]
        for rows, coefficients in self._terms:
            kernels = kernels + tf.matmul(rows, coefficients, transpose_a=True)
        tasks = tf.shape(self.zero_placeholder)[:1]
        return tf.broadcast_to(kernels, tf.concat([tasks, tf.shape(self.value)], 0))


#: The forms that implement their own steps.
FORMS = (SharedWeight, DualKernel, LowRankKernel)


def with_task_axis(weight: Any) -> tf.Tensor:
    """A weight of any form as a tensor ``[T, ...]``."""
    return weight.per_task() if isinstance(weight, FORMS) else weight


def shared_product(inputs: tf.Tensor, kernel: SharedWeight) -> tf.Tensor:
    """``inputs @ kernel`` for inputs ``[T, S, in]``: one large product.

    The placeholder gets a gradient per task.
    """
    outputs = _product(inputs, kernel.value)
    return _with_placeholder(
        outputs,
        kernel.zero_placeholder,
        lambda upstream: tf.matmul(inputs, upstream, transpose_a=True),
    )


def shared_bias(inputs: tf.Tensor, bias: SharedWeight) -> tf.Tensor:
    """``inputs + bias`` for inputs ``[T, S, out]``; the placeholder gets a gradient per task."""
    return _with_placeholder(
        inputs + bias.value, bias.zero_placeholder, lambda upstream: tf.reduce_sum(upstream, 1)
    )


def _product(inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    return split_axes(tf.matmul(merge_axes(inputs), kernel), inputs)


def _with_placeholder(
    outputs: tf.Tensor, placeholder: tf.Tensor, per_task: Callable[[tf.Tensor], tf.Tensor]
) -> tf.Tensor:
    """Returns the outputs unchanged; the placeholder's gradient is `per_task` of their gradient."""

    @tf.custom_gradient
    def attach(value: tf.Tensor, placeholder: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
        return tf.identity(value), lambda upstream: (upstream, per_task(upstream))

    return attach(outputs, placeholder)
