"""Settings of training, with those of the model.

Python, the command line, the demo and the benchmarks share their defaults.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal, get_args

from tfrec_limaml.choices import check_choice, check_fields_at_least
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.tasks.support_fraction import support_range
from tfrec_limaml.training.model_options import ModelOptions

Algorithm = Literal["limaml", "vanilla", "maml"]

ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)
#: Maximum number of epochs for data of many batches.
EPOCHS = 8
#: Batches that a training on few data takes in more epochs, up to `MAX_EPOCHS`.
MIN_BATCHES, MAX_EPOCHS = 400, 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How a model is trained.

    Examples:
        >>> options = TrainOptions(model=ModelOptions(prior="encoder"), epochs=4)

    Attributes:
        algorithm: ``"limaml"``, or a baseline: ``"vanilla"`` or ``"maml"``.
        model: Settings of the model.
        epochs: Maximum number of epochs; the learning rate falls to 0 over all of them. None for 8,
            or more for small data: as many as take 400 batches, up to 50.
        patience: Epochs without a better validation score before training stops.
        batch_size: Tasks per batch; None to choose it by `batch_rows`.
        batch_rows: Approximate number of training rows per batch; a task counts as at least 8.
        learning_rate: Peak of the outer learning rate.
        weight_decay: Weight decay of AdamW: a step multiplies weights by ``1 - weight_decay *
            learning rate``. Biases, the prior precision and inner learning rates do not decay.
        warmup_steps: Batches over which the learning rate rises from 0, at most a quarter of all;
            only with `decay`.
        decay: Whether the learning rate falls to 0 along a cosine; otherwise it is constant.
        average_weights: Momentum of the moving average of the weights, which is evaluated and
            saved; 0 for none.
        support_fraction: Share of a training task's samples that form the support set, or a range
            to draw it from for each task and epoch.
        use_episodes: Train on the episodes of ``limaml prepare --episodes``, one per epoch, if
            there are any. The history features of their query rows are as old as those in serving,
            and their splits replace `support_fraction`.
        max_samples: Maximum number of support samples per task, the most recent ones; None for all.
        choose_strength: Choose the adaptation strength on the validation tasks after training.
        seed: Seed of weights, shuffling, dropout and random splits.

    Raises:
        LimamlError: Settings contradict each other, or are out of range.
    """

    algorithm: Algorithm = "limaml"
    model: ModelOptions = dataclasses.field(default_factory=ModelOptions)
    epochs: int | None = None
    patience: int = 4
    batch_size: int | None = None
    batch_rows: int = 1024
    learning_rate: float = 2e-3
    weight_decay: float = 1.0
    warmup_steps: int = 50
    decay: bool = True
    average_weights: float = 0.98
    support_fraction: float | tuple[float, float] = (0.2, 0.9)
    use_episodes: bool = True
    max_samples: int | None = None
    choose_strength: bool = True
    seed: int = 1

    def __post_init__(self) -> None:
        check_choice("algorithm", self.algorithm, ALGORITHMS, LimamlError)
        if self.model.joint_task is not None and self.algorithm != "limaml":
            raise LimamlError(
                f"joint_task {self.model.joint_task!r} is for the algorithm 'limaml', received "
                f"{self.algorithm!r}"
            )
        closed_form = self.model.chosen_adaptation == "gauss-newton"
        if self.algorithm == "limaml" and closed_form and self.model.support_reduction != "mean":
            raise LimamlError(
                f"support_reduction {self.model.support_reduction!r} is for gradient steps; the "
                "closed form always sums: leave it out, or choose adaptation 'gradient'"
            )
        ones = {"epochs": 1, "batch_rows": 1, "batch_size": 1}
        check_fields_at_least(
            self, {**ones, "patience": 0, "weight_decay": 0, "warmup_steps": 0, "seed": 0}
        )
        support_range(self.support_fraction)
        if self.seed >= 2**32:
            raise LimamlError(f"seed must be less than 2**32, received {self.seed}")
        if not 0 < self.learning_rate < math.inf:
            raise LimamlError(f"learning_rate must be positive, received {self.learning_rate}")
        if not 0.0 <= self.average_weights < 1.0:
            raise LimamlError(
                "average_weights must be at least 0 and less than 1, received "
                f"{self.average_weights}"
            )

    @classmethod
    def paper(cls, algorithm: Algorithm = "limaml") -> TrainOptions:
        """The paper's recipe.

        It takes one gradient step on an MLP meta block, with the query loss alone, the first 75 %
        of a task's samples as support, and Adam at a constant rate.
        """
        return cls(
            algorithm=algorithm,
            model=ModelOptions.paper(),
            epochs=15,
            patience=2,
            batch_size=128,
            learning_rate=1e-3,
            weight_decay=0.0,
            warmup_steps=0,
            decay=False,
            average_weights=0.0,
            support_fraction=0.75,
            use_episodes=False,
            choose_strength=False,
        )

    def epochs_for(self, batches: int) -> int:
        """The maximum number of epochs for data of this many batches per epoch."""
        if self.epochs is not None:
            return self.epochs
        return max(EPOCHS, min(MAX_EPOCHS, math.ceil(MIN_BATCHES / batches)))

    def replace(self, **changes: Any) -> TrainOptions:
        """A copy with some fields changed; fields of the model are changed in `model`."""
        names = {field.name for field in dataclasses.fields(ModelOptions)}
        model_changes = {name: value for name, value in changes.items() if name in names}
        train_changes = {name: value for name, value in changes.items() if name not in names}
        return dataclasses.replace(self, model=self.model.replace(**model_changes), **train_changes)


def recipe(name: str) -> TrainOptions:
    """The options of a named recipe: ``"default"`` or ``"paper"``."""
    check_choice("recipe", name, ("default", "paper"), LimamlError)
    return TrainOptions.paper() if name == "paper" else TrainOptions()
