"""Options of ``limaml train``."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from tfrec_limaml.training.options import (
    ADAPTATIONS,
    ALGORITHMS,
    GLOBAL_BLOCKS,
    META_BLOCKS,
    PRIORS,
    SUPPORT_REDUCTIONS,
    ModelOptions,
    TrainOptions,
    recipe,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``limaml train``: where one is not given, the recipe decides."""
    parser.add_argument("tasks", type=Path, help="folder written by `limaml prepare`")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="RUN", help="folder for model and curve"
    )
    parser.add_argument("--algorithm", choices=ALGORITHMS, default="limaml")
    parser.add_argument(
        "--recipe",
        choices=("default", "paper"),
        default="default",
        help="settings to start from: what did best on validation data, or the paper's "
        "(default: %(default)s)",
    )
    parser.add_argument("--task", help="task definition (default: the schema's first)")
    parser.add_argument(
        "--nested-task",
        action="append",
        default=[],
        metavar="TASK",
        help="adapt a further meta block per part of a task: by this definition, which refines "
        "--task as user_tab refines user; repeatable",
    )
    parser.add_argument(
        "--joint-task",
        metavar="TASK",
        help="adapt a second side of each row: by this definition, which stands beside --task as "
        "video stands beside user; the records of both are prepared in one run; in closed form",
    )
    parser.add_argument(
        "--sweeps",
        type=int,
        metavar="N",
        help="with --joint-task: how often each side is adapted given the other one (default: 2)",
    )
    _add_training(parser.add_argument_group("training"))
    _add_adaptation(parser.add_argument_group("adaptation"))
    _add_network(parser.add_argument_group("network"))
    _add_run(parser)


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tensorboard",
        type=Path,
        metavar="DIR",
        help="write TensorBoard scalars, the graph and meta embeddings there",
    )
    parser.add_argument(
        "--distribute",
        choices=("mirrored", "multi-worker"),
        help="train on all devices of this machine, or on the machines that the environment "
        "variable TF_CONFIG names, with this command on each of them",
    )
    parser.add_argument(
        "--worker-timeout",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="give up other workers after this time without a batch (default: %(default)g)",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the newest checkpoint of an interrupted training, where there is one",
    )
    parser.add_argument(
        "--checkpoint-steps",
        type=int,
        metavar="N",
        help="write a checkpoint about every N batches too, not only after each epoch",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace an existing model, or an interrupted training, of this algorithm",
    )


def _add_training(group: Any) -> None:
    add = group.add_argument
    add("--epochs", type=int, help="at most this many")
    add("--patience", type=int, help="epochs without a better validation AUC")
    add("--batch-size", type=int, help="tasks per batch (default: by --batch-rows)")
    add("--batch-rows", type=int, help="training rows per batch, about")
    add("--learning-rate", type=float, help="peak of the outer learning rate, AdamW")
    add("--weight-decay", type=float, help="relative to the learning rate")
    add("--warmup-steps", type=int, metavar="N", help="batches over which the rate rises from 0")
    add("--no-decay", dest="decay", action="store_false", default=None, help="constant rate")
    add("--average-weights", type=float, metavar="M", help="momentum of averaged weights; 0: none")
    add(
        "--support-fraction",
        type=_fraction,
        help="share of a training task's samples that form the support set: a number, or LOW-HIGH "
        "to draw it anew each epoch",
    )
    add("--max-samples", type=int, help="most recent support samples per task")
    add("--seed", type=int)


def _add_adaptation(group: Any) -> None:
    add = group.add_argument
    add(
        "--adaptation",
        choices=ADAPTATIONS,
        help="closed form on an offset, or the paper's gradient steps (default: by --meta-block)",
    )
    add(
        "--prior",
        choices=PRIORS,
        help="mean of a task's offset before adaptation: zero, or read from its interactions "
        "(encoder; with --inner-steps 0 that is all there is)",
    )
    add("--inner-steps", type=int, help="n: inner steps in training")
    add("--inner-learning-rate", type=float, help="of gradient steps")
    add("--prior-precision", type=float, help="start of the offset's learned prior precision")
    add("--fine-tune-steps", type=int, help="k: steps at evaluation and for embeddings")
    add(
        "--first-order",
        action="store_true",
        default=None,
        help="take inner gradients as constants: cheaper, less exact",
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
        help="what a gradient step descends: the mean loss of a task's n support rows, their sum, "
        "or the mean times n / (n + kappa) with a learned kappa (default: mean)",
    )
    add("--unadapted-loss-weight", type=float, help="weight of the loss before adaptation")
    add(
        "--no-strength",
        dest="choose_strength",
        action="store_false",
        default=None,
        help="do not choose the adaptation strength on the validation tasks",
    )


def _add_network(group: Any) -> None:
    add = group.add_argument
    add("--meta-block", choices=META_BLOCKS, help="what is adapted per task")
    add("--global-block", choices=GLOBAL_BLOCKS, help="the shared network")
    add("--meta-units", type=_widths, metavar="64,32", help="meta block's hidden layers")
    add("--embedding-dim", type=int, help="width of the meta embedding")
    add("--global-units", type=_widths, metavar="128,64", help="global block's hidden layers")
    add("--dropout", type=float, help="in the global block")
    add(
        "--ids",
        dest="id_embeddings",
        action=argparse.BooleanOptionalAction,
        help="embed single-valued categorical features in the global block (default: where history "
        "features tell of an ID, what does better on the validation tasks)",
    )
    add("--shrinkage", type=float, metavar="N", help="rows at which an ID's embedding counts half")
    add(
        "--projection-shrinkage",
        type=float,
        metavar="N",
        help="the same for how adaptation tells IDs apart (default: as --shrinkage; where what "
        "adaptation gains falls in the course of training, a strong one is tried too)",
    )


def options_from(args: argparse.Namespace) -> TrainOptions:
    """The recipe with what is given on the command line."""
    fields = {f.name for kind in (TrainOptions, ModelOptions) for f in dataclasses.fields(kind)}
    given = {
        name: value
        for name, value in vars(args).items()
        if name in fields - {"task"} and value is not None
    }
    return recipe(args.recipe).replace(**given)


def _widths(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part)


def _fraction(text: str) -> float | tuple[float, float]:
    try:
        low, _, high = text.partition("-")
        return (float(low), float(high)) if high else float(low)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"must be a number such as 0.75 or a range such as 0.2-0.9, received {text!r}"
        ) from error
