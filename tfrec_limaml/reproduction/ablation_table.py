"""From the paper's recipe to the default one, step by step."""

from __future__ import annotations

from tfrec_limaml.reproduction.lines import LIMAML, line
from tfrec_limaml.reproduction.table import Ordering, Table
from tfrec_limaml.training.options import TrainOptions
from tfrec_limaml.training.variants import STRONG_SHRINKAGE


def ablation(quick: bool) -> Table:
    """The gain from each part of the default recipe."""
    default = TrainOptions()
    with_unadapted = LIMAML.replace(unadapted_loss_weight=1.0)
    schedule = default.replace(meta_block="mlp", global_block="mlp", embedding_dim=32)
    steps = [
        line("paper's recipe", LIMAML),
        line("with the loss before adaptation", with_unadapted),
        line("with our training schedule", schedule),
        line("dot product, gradient steps", default.replace(adaptation="gradient")),
        line("closed form: the default", default),
    ]
    variants = [
        line("without shrinkage of IDs", default.replace(shrinkage=0.0)),
        line(
            "with a strong shrinkage of the projection",
            default.replace(projection_shrinkage=STRONG_SHRINKAGE),
        ),
        line("without dropout", default.replace(dropout=0.0)),
        line("without averaged weights", default.replace(average_weights=0.0)),
        line("without weight decay", default.replace(weight_decay=0.0)),
        line("without the loss before adaptation", default.replace(unadapted_loss_weight=0.0)),
        line("with a support encoder as prior", default.replace(prior="encoder")),
    ]
    return Table(
        name="ablation",
        title="What the default recipe adds",
        text="From the paper's recipe to the default one step by step, then the default with one "
        "part left out or added. The paper has no such table.",
        reference="paper's recipe",
        lines=[steps[0], steps[-1]] if quick else [*steps, *variants],
        orderings=[Ordering("closed form: the default", "paper's recipe", robust=True)],
    )
