"""Options of ``limaml train`` that others leave without effect."""

from __future__ import annotations

from tfrec_limaml.errors import LimamlError
from tfrec_limaml.training.options import TrainOptions

#: Options that only one kind of adaptation reads.
_OF_GRADIENT_STEPS = frozenset(
    ("inner_learning_rate", "first_order", "second_order_steps", "learn_inner_rates")
)
_OF_THE_CLOSED_FORM = frozenset(("prior_precision",))


def check_read(options: TrainOptions, given: set[str]) -> None:
    """Refuses options of the command line that the chosen adaptation does not read."""
    model = options.model
    if "sweeps" in given and model.joint_task is None:
        raise LimamlError("--sweeps needs --joint-task; pass both, or leave it out")
    _check_pairs(options, given)
    if options.algorithm != "limaml":  # a reference may be trained with the options of LiMAML
        return
    closed_form = model.chosen_adaptation == "gauss-newton"
    if unread := given & (_OF_GRADIENT_STEPS if closed_form else _OF_THE_CLOSED_FORM):
        used, remedy = (
            ("the closed form", "pass --adaptation gradient or another --meta-block")
            if closed_form
            else ("gradient steps", "adapt the meta block 'offset' in closed form")
        )
        names = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(unread))
        raise LimamlError(
            f"tasks are adapted by {used}, which do{'es' if closed_form else ''} not read {names}: "
            f"leave {'it' if len(unread) == 1 else 'them'} out, or {remedy}"
        )


def _check_pairs(options: TrainOptions, given: set[str]) -> None:
    """Refuses options of the command line that another option of it leaves without effect."""
    if {"batch_size", "batch_rows"} <= given:
        raise LimamlError("--batch-size and --batch-rows both set the batches; leave out one")
    if "warmup_steps" in given and options.warmup_steps and not options.decay:
        raise LimamlError(
            "--warmup-steps is part of the schedule that --no-decay and the paper's recipe leave "
            "out; leave out one of them"
        )
    shrinkages = sorted(given & {"shrinkage", "projection_shrinkage"})
    if shrinkages and options.model.global_block != "dot_product":
        names = " and ".join(f"--{name.replace('_', '-')}" for name in shrinkages)
        raise LimamlError(
            f"only the global block 'dot_product' reads {names}, received "
            f"{options.model.global_block!r}; leave {'them' if len(shrinkages) > 1 else 'it'} "
            "out, or use --global-block dot_product"
        )
