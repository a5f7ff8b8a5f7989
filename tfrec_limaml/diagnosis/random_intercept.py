"""Estimates how much tasks differ beyond a model's features, by a random-intercept model.

Each row's label is Bernoulli with logit ``offset + b_task + c_group``, where the offset is a
model's logit, ``b_task`` is normal with deviation tau, and ``c_group`` (a group is a task
together with one value of a category) is normal with deviation tau_group. The deviations are found
by maximum marginal likelihood, integrating over ``b`` and ``c`` by quadrature, and are then
converted to AUC.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from tfrec_limaml.arrays import Array

#: Largest deviation considered, in logits.
MAX_DEVIATION = 3.0
#: Averaging out a normal effect of variance v divides logits by sqrt(1 + 0.346 v), approximately.
#: Source: Zeger, Liang and Albert, "Models for Longitudinal Data: A Generalized Estimating Equation
#: Approach", Biometrics 1988.
_ATTENUATION = 0.346
#: Larger logits are clipped to this, so that exponentials stay finite.
_MAX_LOGIT = 600.0
_CLOSEST = 1e-7  # of a probability to 0 and 1
#: Steps of Newton's method, and of the golden-section search.
_NEWTON_STEPS, _SEARCH_STEPS = 25, 10
#: Simulated data sets that a gain is averaged over, and the seed of their random numbers.
_DRAWS, _SEED = 5, 0


@dataclasses.dataclass(frozen=True)
class Deviation:
    """A standard deviation between tasks (or groups) in logits, with its profile interval."""

    value: float
    low: float
    high: float


def recalibrate(label: Array, logit: Array) -> Array:
    """Logits ``a + s * logit`` that fit the labels best.

    Overconfidence of the model must not count as a difference between tasks.
    """
    design = np.stack([np.ones(len(logit)), logit], 1)
    weights = np.zeros(2)  # from this start Newton's steps do not overshoot, even for large logits
    for _ in range(_NEWTON_STEPS):
        p = sigmoid(design @ weights)
        hessian = (design * (p * (1 - p))[:, None]).T @ design + 1e-6 * np.eye(2)
        weights = weights + np.linalg.solve(hessian, design.T @ (label - p))
    return np.asarray(design @ weights)


def task_deviation(label: Array, offset: Array, task: Array, confidence: float = 0.95) -> Deviation:
    """Deviation tau of task intercepts.

    Args:
        label: 0 or 1, ``[N]``.
        offset: Calibrated logits of a model without knowledge of the tasks, ``[N]``.
        task: Task of each row, ``[N]``.
        confidence: Confidence level of the interval.
    """
    rows = _Sorted(label, offset, task, task)
    return _maximise(lambda tau: rows.log_likelihood(tau, 0.0), confidence)


def group_deviation(
    label: Array,
    offset: Array,
    task: Array,
    category: Array,
    tau: float,
    confidence: float = 0.95,
    copies: float = 1.0,
) -> Deviation:
    """Deviation of intercepts of (task, category) on top of task intercepts with deviation `tau`.

    Rows with several values of the category occur once for each; `copies` is the average number.
    The estimate is then that of a composite likelihood, and the interval counts each row once, not
    `copies` times.
    """
    rows = _Sorted(label, offset, task, category)
    return _maximise(lambda tau_group: rows.log_likelihood(tau, tau_group) / copies, confidence)


def oracle_gain(
    offset: Array, task: Array, tau: float, group: Array | None = None, tau_group: float = 0.0
) -> float:
    """The gain in AUC from knowing all effects, by simulation.

    Args:
        offset: Calibrated logits ``[N]``.
        task: Integer codes ``[N]``.
        tau: Deviation of task effects.
        group: Integer codes ``[N]`` of (task, category).
        tau_group: Deviation of group effects.

    Returns:
        The gain in AUC of an oracle of task effects over none; with groups, of group effects on top
        of task effects.
    """
    rng = np.random.default_rng(_SEED)
    mean = offset * np.sqrt(1 + _ATTENUATION * (tau**2 + tau_group**2))
    gain = 0.0
    for _ in range(_DRAWS):
        effects = _effects(rng, task, tau)
        baseline: Array = np.zeros_like(effects)
        if group is not None:
            baseline, effects = effects, effects + _effects(rng, group, tau_group)
        truth = sigmoid(mean + effects)
        gain += expected_auc(truth, mean + effects) - expected_auc(truth, mean + baseline)
    return gain / _DRAWS


def expected_auc(probability: Array, score: Array) -> float:
    """Expected AUC of `score` over labels drawn with `probability`."""
    order = np.argsort(score, kind="stable")
    p = probability[order]
    first = np.flatnonzero(np.concatenate([[True], np.diff(score[order]) > 0]))
    positive, negative = np.add.reduceat(p, first), np.add.reduceat(1 - p, first)
    negatives_below = np.cumsum(negative) - negative / 2
    return float((positive * negatives_below).sum() / (p.sum() * (1 - p).sum()))


def _effects(rng: np.random.Generator, codes: Array, tau: float) -> Array:
    """An effect drawn for each code, ``[N]``."""
    return np.asarray(tau * rng.normal(size=int(codes.max()) + 1)[codes])


class _Sorted:
    """Rows sorted by task and group, for sums within either."""

    # The rectangle rule is spectrally accurate for normal densities and, unlike Gauss-Hermite
    # nodes, fine enough for long tasks.
    NODES = np.linspace(-4.0, 4.0, 33)
    LOG_WEIGHTS = -0.5 * NODES**2 - np.log(np.exp(-0.5 * NODES**2).sum())
    GROUP_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(7)
    LOG_GROUP_WEIGHTS = np.log(_WEIGHTS / _WEIGHTS.sum())

    def __init__(self, label: Array, offset: Array, task: Array, category: Array) -> None:
        task, category = (np.unique(codes, return_inverse=True)[1] for codes in (task, category))
        order = np.lexsort((category, task))
        task, category = task[order], category[order]
        new_task = np.concatenate([[True], np.diff(task) != 0])
        new_group = new_task | np.concatenate([[True], np.diff(category) != 0])
        self.groups = np.flatnonzero(new_group)
        self.tasks = np.flatnonzero(new_task[self.groups])
        self.positive, self.offset = label[order] > 0.5, offset[order]

    def log_likelihood(self, tau: float, tau_group: float) -> float:
        """Marginal log likelihood of all rows."""
        offset = self.offset * np.sqrt(1 + _ATTENUATION * (tau**2 + tau_group**2))
        odds = np.exp(np.minimum(np.where(self.positive, -offset, offset), _MAX_LOGIT))
        effects = tau * self.NODES
        if not tau_group:
            per_group = self._per_group(odds, effects)
        else:
            parts = [
                self._per_group(odds, effects + tau_group * node) + weight
                for node, weight in zip(self.GROUP_NODES, self.LOG_GROUP_WEIGHTS, strict=True)
            ]
            per_group = _log_sum_exp(np.stack(parts))
        per_task = np.add.reduceat(per_group, self.tasks, axis=1) + self.LOG_WEIGHTS[:, None]
        return float(_log_sum_exp(per_task).sum())

    def _per_group(self, odds: Array, effects: Array) -> Array:
        """Log likelihood of each group's labels given an effect, ``[nodes, groups]``.

        An effect multiplies the odds: no exponential of each row at each node is needed.

        Args:
            odds: Odds against each row's label without effects, ``[N]``.
            effects: Effects of the nodes, ``[nodes]``.
        """
        # Nodes are rows of the matrix: the samples of a group then lie side by side in memory.
        factor = np.exp(effects)[:, None]
        total = np.where(self.positive, 1 / factor, factor)
        total *= odds
        total += 1.0
        np.log(total, out=total)
        return -np.add.reduceat(total, self.groups, axis=1)


def _maximise(log_likelihood: Callable[[float], float], confidence: float) -> Deviation:
    """The maximum-likelihood deviation with its interval.

    The interval ends where the log likelihood has fallen by half the chi-square quantile.
    """
    grid = np.linspace(0, MAX_DEVIATION, 13)
    values = np.array([log_likelihood(tau) for tau in grid])
    best = int(values.argmax())
    low, high = _around_maximum(
        log_likelihood, grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    )
    value = (low + high) / 2 if best or low > 1e-3 else 0.0
    top = max(log_likelihood(value), float(values.max()))
    threshold = top - NormalDist().inv_cdf(0.5 + confidence / 2) ** 2 / 2
    below, above = grid < value, grid > value
    return Deviation(
        float(value),
        _crossing(log_likelihood, threshold, value, grid[below][::-1], values[below][::-1]),
        _crossing(log_likelihood, threshold, value, grid[above], values[above]),
    )


def _around_maximum(
    function: Callable[[float], float], low: float, high: float
) -> tuple[float, float]:
    """Narrows an interval around the function's maximum by golden-section search."""
    ratio = (np.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    left_value, right_value = function(left), function(right)
    for _ in range(_SEARCH_STEPS):
        if left_value > right_value:
            high, right, right_value = right, left, left_value
            left = high - ratio * (high - low)
            left_value = function(left)
        else:
            low, left, left_value = left, right, right_value
            right = low + ratio * (high - low)
            right_value = function(right)
    return low, high


def _crossing(
    log_likelihood: Callable[[float], float],
    threshold: float,
    inside: float,
    points: Array,
    values: Array,
) -> float:
    """The deviation at which the likelihood falls below `threshold`, or else the last point.

    Args:
        log_likelihood: The log likelihood of a deviation.
        threshold: The lowest log likelihood within the interval.
        inside: A deviation within the interval.
        points: Deviations on one side of `inside`, nearest first.
        values: Their log likelihoods.
    """
    for outside, value in zip(points, values, strict=True):
        if value < threshold:
            break
        inside = outside
    else:
        return float(inside)
    for _ in range(6):
        middle = (inside + outside) / 2
        inside, outside = (
            (middle, outside) if log_likelihood(middle) >= threshold else (inside, middle)
        )
    return float(inside + outside) / 2


def _log_sum_exp(values: Array) -> Array:
    """The logarithm of the sum of exponentials over the first axis."""
    maximum = values.max(axis=0)
    return np.asarray(maximum + np.log(np.exp(values - maximum).sum(axis=0)))


def logit(probability: Array) -> Array:
    """Probabilities to logits, in double precision and finite."""
    p = np.clip(probability.astype(np.float64), _CLOSEST, 1 - _CLOSEST)
    return np.asarray(np.log(p) - np.log1p(-p))


def sigmoid(value: Array) -> Array:
    """Logits to probabilities."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * value)))
