"""Options of ``limaml train`` that describe the model."""

from __future__ import annotations

import argparse
from typing import Any

from tfrec_limaml.choices import ADAPTATIONS, PRIORS, SUPPORT_REDUCTIONS
from tfrec_limaml.commands.train_values import adder, widths
from tfrec_limaml.training.model_options import GLOBAL_BLOCK_NAMES, META_BLOCK_NAMES


def add_adaptation(group: Any) -> None:
    """Options of adapting tasks."""
    add = adder(group)
    add(
        "--adaptation",
        choices=ADAPTATIONS,
        help="closed form on an offset, or the paper's gradient steps (default: by --meta-block)",
    )
    add(
        "--prior",
        choices=PRIORS,
        help="mean of a task's offset before adaptation: zero, or computed from its interactions "
        "(encoder; with --inner-steps 0 without further adaptation)",
    )
    add(
        "--inner-steps",
        type=int,
        metavar="N",
        help="n: inner steps in training (default: 2, with gradient steps 3; paper: 1)",
    )
    add(
        "--prior-precision",
        type=float,
        metavar="X",
        help="initial value of the offset's learned prior precision (default: 1, and also 30, and "
        "1000, if the model is best with less adaptation than in training)",
    )
    add("--fine-tune-steps", type=int, metavar="N", help="inner steps in evaluation (default: n)")
    add(
        "--unadapted-loss-weight",
        type=float,
        metavar="X",
        help="weight of the loss before adaptation",
    )
    add(
        "--no-strength",
        dest="choose_strength",
        action="store_false",
        default=None,
        help="do not choose the adaptation strength on the validation tasks",
    )


def add_gradient_steps(group: Any) -> None:
    """Options that only gradient steps read."""
    add = adder(group)
    add("--inner-learning-rate", type=float, metavar="X", help="inner learning rate")
    add(
        "--first-order",
        action="store_true",
        default=None,
        help="treat inner gradients as constants: cheaper, less exact",
    )
    add(
        "--second-order-steps",
        type=int,
        metavar="N",
        help="differentiate twice through the last N inner steps only: cheaper",
    )
    add(
        "--learn-inner-rates",
        action="store_true",
        default=None,
        help="learn an inner learning rate per parameter (Meta-SGD)",
    )
    add(
        "--support-reduction",
        choices=SUPPORT_REDUCTIONS,
        help="objective of a step: the mean loss of a task's n support rows, their sum, "
        "or the mean times n / (n + kappa) with a learned kappa (default: mean)",
    )


def add_network(group: Any) -> None:
    """Options of the two blocks."""
    add = adder(group)
    add("--meta-block", choices=META_BLOCK_NAMES, help="the block that is adapted per task")
    add("--global-block", choices=GLOBAL_BLOCK_NAMES, help="the shared network")
    add(
        "--meta-units",
        type=widths,
        metavar="64,32",
        help="widths of the meta block's hidden layers",
    )
    add("--embedding-dim", type=int, metavar="N", help="width of the meta embedding")
    add(
        "--global-units",
        type=widths,
        metavar="128,64",
        help="widths of the global block's hidden layers",
    )
    add("--dropout", type=float, metavar="X", help="dropout rate in the global block")
    add(
        "--ids",
        dest="id_embeddings",
        action=argparse.BooleanOptionalAction,
        help="embed single-valued categorical features in the global block (default: yes; if a "
        "history feature is keyed by an ID, chosen on the validation tasks)",
    )
    add(
        "--shrinkage",
        type=float,
        metavar="N",
        help="training rows at which an ID's embedding is halved",
    )
    add(
        "--projection-shrinkage",
        type=float,
        metavar="N",
        help="the same for an ID's row in the projection (default: as --shrinkage; if the gain of "
        "adaptation falls during training, a strong one is tried too)",
    )
