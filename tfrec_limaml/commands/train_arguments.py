"""Options of ``limaml train``."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from tfrec_limaml.choices import ADAPTATIONS, PRIORS, SUPPORT_REDUCTIONS
from tfrec_limaml.commands.arguments import output_folder
from tfrec_limaml.commands.train_checks import check_read
from tfrec_limaml.commands.train_values import adder, fraction, widths
from tfrec_limaml.training.model_options import (
    GLOBAL_BLOCK_NAMES,
    META_BLOCK_NAMES,
    ModelOptions,
)
from tfrec_limaml.training.options import ALGORITHMS, TrainOptions, recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``limaml train``; the recipe sets those that are not given."""
    parser.add_argument(
        "tasks", metavar="TASKS", type=Path, help="folder written by `limaml prepare`"
    )
    parser.add_argument(
        "--output",
        type=output_folder,
        required=True,
        metavar="RUN",
        help="folder for model and learning curve",
    )
    parser.add_argument(
        "--algorithm",
        choices=ALGORITHMS,
        default="limaml",
        help="limaml, or a baseline: vanilla is not adapted, maml adapts the whole network "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--recipe",
        choices=("default", "paper"),
        default="default",
        help="set of options to start from: the best ones on validation data, or the paper's "
        "(default: %(default)s)",
    )
    _add_definitions(parser)
    _add_training(parser.add_argument_group("training"))
    _add_adaptation(parser.add_argument_group("adaptation"))
    _add_gradient_steps(parser.add_argument_group("adaptation by gradient steps"))
    _add_network(parser.add_argument_group("network"))
    _add_run(parser)


def _add_definitions(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", help="task definition (default: the schema's first)")
    parser.add_argument(
        "--nested-task",
        action="append",
        default=[],
        metavar="TASK",
        help="adapt a further meta block per subtask, given by this finer task definition "
        "(user_tab refines user); repeatable",
    )
    parser.add_argument(
        "--joint-task",
        metavar="TASK",
        help="adapt a second side of each row, given by this task definition (video beside user), "
        "in closed form; one `limaml prepare` must build the records of both",
    )
    parser.add_argument(
        "--sweeps",
        type=int,
        metavar="N",
        help="with --joint-task: how often each side is adapted given the other (default: 2)",
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tensorboard",
        type=Path,
        metavar="DIR",
        help="folder for TensorBoard scalars, the graph and meta embeddings",
    )
    parser.add_argument(
        "--distribute",
        choices=("mirrored", "multi-worker"),
        help="train on all devices of this machine, or on the machines named in the environment "
        "variable TF_CONFIG (run the command on each)",
    )
    parser.add_argument(
        "--worker-timeout",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="exit if another worker has not finished a batch for this time (default: %(default)g)",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue an interrupted run from its newest checkpoint; a complete run is left as "
        "it is",
    )
    parser.add_argument(
        "--checkpoint-steps",
        type=int,
        metavar="N",
        help="also write a checkpoint about every N batches, not only after each epoch",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace an existing model, or an interrupted run, of this algorithm",
    )


def _add_training(group: Any) -> None:
    add = adder(group)
    add("--epochs", type=int, metavar="N", help="maximum number of epochs")
    add("--patience", type=int, metavar="N", help="epochs without a better validation score")
    add(
        "--batch-size",
        type=int,
        metavar="N",
        help="tasks per batch (default: by --batch-rows; paper: 128)",
    )
    add("--batch-rows", type=int, metavar="N", help="approximate number of training rows per batch")
    add("--learning-rate", type=float, metavar="X", help="peak of the outer learning rate, AdamW")
    add(
        "--weight-decay",
        type=float,
        metavar="X",
        help="weight decay, relative to the learning rate",
    )
    add(
        "--warmup-steps",
        type=int,
        metavar="N",
        help="batches over which the learning rate rises from 0",
    )
    add(
        "--no-decay",
        dest="decay",
        action="store_false",
        default=None,
        help="constant learning rate",
    )
    add("--average-weights", type=float, metavar="M", help="momentum of averaged weights; 0: none")
    _add_samples(group)


def _add_samples(group: Any) -> None:
    add = adder(group)
    add(
        "--support-fraction",
        type=fraction,
        metavar="X",
        help="share of a training task's samples that form the support set: a number, or LOW-HIGH "
        "to draw a new one in each epoch",
    )
    add(
        "--max-samples",
        type=int,
        metavar="N",
        help="most recent support samples per task, "
        "in training only; limit the histories of embeddings with `limaml prepare --max-samples` "
        "(default: all)",
    )
    add("--seed", type=int, metavar="N", help="seed of weights, dropout, order and splits of tasks")


def _add_adaptation(group: Any) -> None:
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
    add("--inner-steps", type=int, metavar="N", help="n: inner steps in training")
    add(
        "--prior-precision",
        type=float,
        metavar="X",
        help="initial value of the offset's learned prior precision (default: 1, and also 30 if "
        "the model is best with less adaptation than in training)",
    )
    add("--fine-tune-steps", type=int, metavar="N", help="k: the same in evaluation (default: n)")
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


def _add_gradient_steps(group: Any) -> None:
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


def _add_network(group: Any) -> None:
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


def options_from(args: argparse.Namespace) -> TrainOptions:
    """The recipe with the options of the command line."""
    fields = {f.name for kind in (TrainOptions, ModelOptions) for f in dataclasses.fields(kind)}
    values = {
        name: value
        for name, value in vars(args).items()
        if name in fields - {"task"} and value is not None
    }
    options = recipe(args.recipe).replace(**values)
    check_read(options, set(values))
    return options
