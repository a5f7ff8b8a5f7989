"""Closed-form adaptation: a few Gauss-Newton steps to the mode of a task's posterior.

A task adapts an offset ``o`` of ``D`` numbers that is added to its meta embedding. The offset has
the prior ``N(mean, diag(1 / precision))``, with mean zero or the output of a `SupportEncoder`. The
loss of the support set is a *sum* over its rows: the more rows a task has, the further its offset
moves from the prior mean. Each step starts from an offset ``o_0``, replaces the loss by its
second-order expansion, in which the output is linear in the offset, and solves for the minimum:

    (J' H J + diag(precision)) o  =  J' (H J o_0 - g) + diag(precision) mean

Row ``s`` of ``J`` ``[S, D]`` is the derivative of that row's output with respect to its embedding;
``g`` ``[S]`` and the diagonal ``H`` hold the weighted first and second derivatives of the rows'
losses with respect to their outputs. If the output is linear in the embedding, this is Newton's
method for Bayesian logistic regression (for a squared error one step is exact), and the inverse of
the matrix on the left is the covariance of the Laplace approximation.

Sources: Bishop, "Pattern Recognition and Machine Learning", 2006, sections 4.4 and 4.5. The score
of the shared model is a fixed term of each task's regression, as in Zhang et al., "GLMix:
Generalized Linear Mixed Models for Large-Scale Response Prediction", KDD 2016.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tfrec_limaml.adaptation.losses import per_task_mean

#: Smallest curvature of a row's loss: without it, rows with confident predictions would be ignored.
MINIMUM_CURVATURE = 1e-4
#: Shares of a step that the line search tries; it takes the first one whose objective is within
#: `TOLERANCE` of the lowest.
STEP_SHARES = (1.0, 0.5, 0.25, 0.0625, 0.015625, 0.0)
#: Relative to the absolute value of the objective plus 1. It is well above the rounding errors of
#: sums in single precision, which would otherwise decide between the shares near the optimum.
TOLERANCE = 1e-5


class GaussNewton(NamedTuple):
    """Result of `gauss_newton`.

    Attributes:
        offset: The mode ``[T, D]``; the prior mean for a task without rows.
        losses: Weighted mean losses ``[T]`` before each step.
        variance: Marginal variances ``[T, D]`` of the offset, from the expansion at the start of
            the last step; None unless `with_variance`.
    """

    offset: tf.Tensor
    losses: list[tf.Tensor]
    variance: tf.Tensor | None


class _Problem(NamedTuple):
    """The objective to minimise; see `gauss_newton` for the other attributes.

    Attributes:
        sizes: ``T``, ``S`` and ``D``.
    """

    outputs: Callable[[tf.Tensor], tf.Tensor]
    derivatives: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]
    weight: tf.Tensor
    precision: tf.Tensor
    mean: tf.Tensor
    sizes: tf.Tensor

    def outputs_at(self, offset: tf.Tensor) -> tf.Tensor:
        """Outputs ``[T, S]`` at an offset ``[T, D]``."""
        rows = _repeat_for_rows(offset, self.sizes)
        return tf.cast(self.outputs(rows), self.precision.dtype)

    def derivatives_at(self, values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Each row's loss and its derivatives at outputs ``[..., T, S]``."""
        loss, slope, curvature = self.derivatives(values)
        dtype = self.precision.dtype
        return tf.cast(loss, dtype), tf.cast(slope, dtype), tf.cast(curvature, dtype)

    def objective(self, offset: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
        """The objective ``[..., T]`` at offsets ``[..., T, D]`` with outputs ``[..., T, S]``."""
        penalty = 0.5 * tf.reduce_sum(self.precision * tf.square(offset - self.mean), -1)
        return tf.reduce_sum(self.weight * self.derivatives_at(values)[0], -1) + penalty

    def minimum(
        self, offset: tf.Tensor, jacobian: tf.Tensor, slope: tf.Tensor, curvature: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The minimum of the expanded objective, ``[T, D]``, and the matrix of its equations.

        The matrix is ``[T, D, D]``; the weighted derivatives ``[T, S]`` are those at `offset`.
        """
        scaled = jacobian * curvature[..., None]
        matrix = tf.matmul(scaled, jacobian, transpose_a=True) + tf.linalg.diag(self.precision)
        target = curvature * tf.linalg.matvec(jacobian, offset) - slope
        target = tf.linalg.matvec(jacobian, target, transpose_a=True) + self.precision * self.mean
        return solve_positive_definite(matrix, target), matrix

    def linearise(self, offset: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Outputs ``[T, S]`` at an offset ``[T, D]`` and their derivatives ``[T, S, D]``.

        One backward pass of the sum is enough: each row's output depends on its embedding only.
        """
        rows = _repeat_for_rows(offset, self.sizes)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(rows)
            values = self.outputs(rows)
            total = tf.reduce_sum(values)
        jacobian = tape.gradient(total, rows, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return tf.cast(values, self.precision.dtype), tf.cast(jacobian, self.precision.dtype)


def gauss_newton(
    outputs: Callable[[tf.Tensor], tf.Tensor],
    derivatives: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]],
    weight: tf.Tensor,
    precision: tf.Tensor,
    steps: int,
    with_variance: bool = False,
    prior_mean: tf.Tensor | None = None,
    start: tf.Tensor | None = None,
    linear: bool = False,
) -> GaussNewton:
    """Takes `steps` Gauss-Newton steps for all tasks at once.

    Args:
        outputs: Maps an offset per row ``[T, S, D]`` to outputs ``[T, S]``. A row's output may
            depend on the offset of that row only.
        derivatives: Maps outputs ``[..., T, S]`` to each row's loss and its first and second
            derivative with respect to the output, of the same shape each.
        weight: Sample weights ``[T, S]``, 0 for padding.
        precision: Prior precision ``[D]``, positive, float32 or float64. All results have its
            dtype.
        steps: Number of steps, at least 1.
        with_variance: Whether to compute the marginal variances too.
        prior_mean: Each task's prior mean ``[T, D]``; zero if None.
        start: Start of each task's first step ``[T, D]``; the prior mean if None.
        linear: Whether `outputs` is an affine function of the offset. It is then called only once,
            which is faster.

    Returns:
        The mode, the losses before each step and the variances. An outer tape can differentiate
        them once.
    """
    precision = tf.convert_to_tensor(precision)
    dtype = precision.dtype  # float32 or float64: a factorisation in half precision breaks down
    weight = tf.cast(weight, dtype)
    sizes = tf.concat([tf.shape(weight), tf.shape(precision)], 0)
    zero = tf.zeros(tf.gather(sizes, [0, 2]), dtype)
    mean = zero if prior_mean is None else tf.cast(prior_mean, dtype)
    offset = mean if start is None else tf.cast(start, dtype)
    problem = _Problem(outputs, derivatives, weight, precision, mean, sizes)
    values, jacobian = problem.linearise(offset)
    losses: list[tf.Tensor] = []
    matrix: Any = None
    for step in range(steps):
        if step and not linear:
            values, jacobian = problem.linearise(offset)
        loss, slope, curvature = problem.derivatives_at(values)
        losses.append(per_task_mean(loss, weight))
        curvature = weight * tf.maximum(curvature, MINIMUM_CURVATURE)
        end, matrix = problem.minimum(offset, jacobian, weight * slope, curvature)
        direction = end - offset
        change = tf.linalg.matvec(jacobian, direction) if linear else None
        share = _line_search(problem, offset, direction, values, change)[:, None]
        offset = offset + share * direction
        values = values + share * change if linear else values
    variance = tf.linalg.diag_part(tf.linalg.inv(matrix)) if with_variance else None
    return GaussNewton(offset, losses, variance)


def _line_search(
    problem: _Problem,
    start: tf.Tensor,
    step: tf.Tensor,
    values: tf.Tensor,
    change: tf.Tensor | None,
) -> tf.Tensor:
    """The share of a step to take ``[T]``.

    This is the largest of `STEP_SHARES` whose objective is the lowest up to `TOLERANCE`. A full
    step can overshoot if the loss is far from its expansion. Gradients treat the share as a
    constant.

    Args:
        problem: The objective.
        start: Offsets ``[T, D]``.
        step: Change of the offsets by a full step.
        values: Outputs ``[T, S]`` at `start`.
        change: Change of the outputs by a full step, if it is known.
    """
    shares = tf.constant(STEP_SHARES, start.dtype)
    by_share = shares[:, None, None]
    points = tf.stop_gradient(start + by_share * step)
    if change is None:
        # Eagerly, `map_fn` would convert the function for each share.
        outputs_at = tf.autograph.experimental.do_not_convert(problem.outputs_at)
        # A loop: the outputs are traced once.
        along = tf.map_fn(outputs_at, points, parallel_iterations=len(STEP_SHARES))
    else:
        along = values + by_share * change
    objective = tf.transpose(problem.objective(points, tf.stop_gradient(along)))
    objective = tf.stop_gradient(objective)
    finite = tf.where(tf.math.is_finite(objective), objective, objective.dtype.max)
    best = tf.reduce_min(finite, -1, keepdims=True)
    acceptable = finite <= best + TOLERANCE * (1.0 + tf.abs(best))
    return tf.gather(shares, tf.argmax(tf.cast(acceptable, tf.int8), -1))


@tf.custom_gradient
def solve_positive_definite(
    matrix: tf.Tensor, target: tf.Tensor
) -> tuple[tf.Tensor, Callable[..., Any]]:
    """Solves ``matrix x = target`` for each task by a Cholesky factorisation.

    The gradient reuses the Cholesky factor: two triangular solves instead of the derivative of the
    factorisation. Second derivatives are not supported.

    Args:
        matrix: Symmetric positive definite matrices ``[T, D, D]``.
        target: Right-hand sides ``[T, D]``.

    Returns:
        Solutions ``[T, D]``.
    """
    factor = tf.linalg.cholesky(matrix)

    def solve(vector: tf.Tensor) -> tf.Tensor:
        return tf.linalg.cholesky_solve(factor, vector[..., None])[..., 0]

    solution = solve(target)

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        adjoint = solve(upstream)
        outer = adjoint[..., None] * solution[..., None, :]
        return -0.5 * (outer + tf.linalg.matrix_transpose(outer)), adjoint

    return solution, gradient


def _repeat_for_rows(offset: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """Repeats each task's ``[T, D]`` for its rows: ``[T, S, D]``, the shape in `sizes`."""
    return tf.broadcast_to(tf.expand_dims(offset, 1), sizes)
