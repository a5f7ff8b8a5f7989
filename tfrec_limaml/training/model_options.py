"""Settings of a model.

Python, the command line, the demo and the benchmarks share their defaults.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from tfrec_limaml import choices
from tfrec_limaml.adaptation.prior_precision import check_prior_precision
from tfrec_limaml.errors import LimamlError

META_BLOCK_NAMES = ("offset", "mlp", "id", "features+id", "transformer")
GLOBAL_BLOCK_NAMES = ("dot_product", "mlp", "wide_and_deep", "dcn", "dlrm")

_check = functools.partial(choices.check_choice, error=LimamlError)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Settings of a model.

    Examples:
        >>> options = ModelOptions(meta_block="mlp", inner_steps=1)

    Attributes:
        meta_block, global_block: Names in `tfrec_limaml.training.block_catalogue`.
        meta_units, global_units: Widths of the blocks' hidden layers.
        embedding_dim: Width ``D`` of the meta embedding.
        dropout: Dropout rate in the global block.
        id_embeddings: Whether the global block embeds single-valued categorical features (IDs).
            None means yes, unless a history feature is keyed by an ID: then both are tried, and the
            validation tasks decide.
        shrinkage: The embedding of an ID with ``n`` training rows is multiplied by ``n / (n +
            shrinkage)``; ``"dot_product"`` only.
        projection_shrinkage: The same for the rows of IDs in the projection, by which adaptation
            distinguishes items. None means `shrinkage`; if the gain of adaptation then falls during
            training, a strong shrinkage is tried too.
        prior: Mean of a task's offset before adaptation: ``"zero"``, or ``"encoder"``, computed
            from the task's interactions by a `SupportEncoder`; meta block ``"offset"`` only.
        adaptation: See `LiMAML`; None means ``"gauss-newton"`` for a meta block that stores offsets
            and ``"gradient"`` for others.
        prior_precision: Initial value of the learned prior precision; ``"gauss-newton"`` only. None
            means 1. If the chosen adaptation strength is then below 1, a model with 30 is trained
            too, and if it is 0, one with 1000; the best one is kept.
        inner_steps: Steps in training; None means 2 Gauss-Newton steps or 3 gradient steps.
        inner_learning_rate: Inner learning rate of gradient steps.
        fine_tune_steps: Steps at evaluation and for embeddings; None means `inner_steps`.
        first_order, second_order_steps, learn_inner_rates, support_reduction: See `MAMLModel`;
            gradient steps only.
        unadapted_loss_weight: Weight of the loss before adaptation in the outer objective.
        averaging: Weights of the tasks in the outer loss; see `TwoBlockModel`.
        pooling: See `LiMAML`.
        joint_task: A second task definition; neither may refine the other. Both sides of a row are
            adapted; see `tfrec_limaml.training.joint`. Meta block ``"offset"`` only.
        sweeps: Number of times each side is adapted given the other; with a `joint_task` only.

    Raises:
        LimamlError: Settings contradict each other, or are out of range.
    """

    meta_block: str = "offset"
    global_block: str = "dot_product"
    meta_units: tuple[int, ...] = (64,)
    global_units: tuple[int, ...] = (128, 64)
    embedding_dim: int = 33
    dropout: float = 0.3
    id_embeddings: bool | None = None
    shrinkage: float = 50.0
    projection_shrinkage: float | None = None
    prior: choices.Prior = "zero"
    adaptation: choices.Adaptation | None = None
    prior_precision: float | None = None
    inner_steps: int | None = None
    inner_learning_rate: float = 0.3
    fine_tune_steps: int | None = None
    first_order: bool = False
    second_order_steps: int | None = None
    learn_inner_rates: bool = False
    support_reduction: choices.SupportReduction = "mean"
    unadapted_loss_weight: float = 1.0
    averaging: choices.Averaging = "sample"
    pooling: choices.Pooling = "latest"
    joint_task: str | None = None
    sweeps: int = 2

    def __post_init__(self) -> None:
        if self.joint_task is not None and self.chosen_adaptation != "gauss-newton":
            raise LimamlError(
                f"joint_task {self.joint_task!r} is adapted in closed form: it needs the "
                f"meta_block 'offset', received {self.meta_block!r} with adaptation "
                f"{self.chosen_adaptation!r}"
            )
        if self.joint_task is not None and self.prior != "zero":
            raise LimamlError(
                f"joint_task {self.joint_task!r} needs the prior 'zero', received {self.prior!r}"
            )
        self._check_numbers()
        _check("meta_block", self.meta_block, META_BLOCK_NAMES)
        _check("global_block", self.global_block, GLOBAL_BLOCK_NAMES)
        _check("prior", self.prior, choices.PRIORS)
        _check("support_reduction", self.support_reduction, choices.SUPPORT_REDUCTIONS)
        _check("averaging", self.averaging, choices.AVERAGINGS)
        _check("pooling", self.pooling, choices.POOLINGS)
        if self.prior == "encoder" and self.meta_block != "offset":
            raise LimamlError(
                f"prior 'encoder' needs the meta_block 'offset', received {self.meta_block!r}"
            )
        if self.adaptation is not None:
            _check("adaptation", self.adaptation, choices.ADAPTATIONS)
        if self.adaptation == "gauss-newton" and self.meta_block != "offset":
            raise LimamlError(
                "adaptation 'gauss-newton' needs the meta_block 'offset', received "
                f"{self.meta_block!r}; choose one of the two, or do not set adaptation"
            )

    def _check_numbers(self) -> None:
        choices.check_fields_at_least(
            self,
            {
                **{"inner_steps": 0, "fine_tune_steps": 0, "second_order_steps": 0, "sweeps": 1},
                **{"shrinkage": 0, "projection_shrinkage": 0, "dropout": 0},
                **{"inner_learning_rate": 0, "unadapted_loss_weight": 0},
                "embedding_dim": 2 if self.global_block == "dot_product" else 1,
            },
        )
        if not self.dropout < 1:
            raise LimamlError(f"dropout must be less than 1, received {self.dropout}")
        check_prior_precision(self.chosen_prior_precision)
        for name in ("meta_units", "global_units"):
            if any(width < 1 for width in getattr(self, name)):
                raise LimamlError(f"{name} must be at least 1 each, received {getattr(self, name)}")
        if not self.global_units:
            raise LimamlError("global_units needs at least one width, received none")
        if self.first_order and self.second_order_steps:
            raise LimamlError(
                "first_order leaves no second-order steps, received second_order_steps "
                f"{self.second_order_steps}: leave out one of the two"
            )

    @classmethod
    def paper(cls) -> ModelOptions:
        """The paper's model.

        It has an MLP meta block that takes one gradient step, and the query loss alone, averaged
        over tasks.
        """
        return cls(
            meta_block="mlp",
            global_block="mlp",
            embedding_dim=32,
            dropout=0.0,
            inner_steps=1,
            inner_learning_rate=0.1,
            unadapted_loss_weight=0.0,
            averaging="task",
        )

    @property
    def chosen_adaptation(self) -> choices.Adaptation:
        """The adaptation; if it is not set, the one that fits the meta block."""
        return self.adaptation or ("gauss-newton" if self.meta_block == "offset" else "gradient")

    @property
    def chosen_inner_steps(self) -> int:
        """The inner steps; if they are not set, those that fit the adaptation."""
        if self.inner_steps is not None:
            return self.inner_steps
        return 2 if self.chosen_adaptation == "gauss-newton" else 3

    @property
    def chosen_projection_shrinkage(self) -> float:
        """The projection's shrinkage; if it is not set, that of the network."""
        return self.shrinkage if self.projection_shrinkage is None else self.projection_shrinkage

    @property
    def chosen_prior_precision(self) -> float:
        """The initial prior precision; 1 if it is not set."""
        return 1.0 if self.prior_precision is None else self.prior_precision

    def replace(self, **changes: Any) -> ModelOptions:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)
