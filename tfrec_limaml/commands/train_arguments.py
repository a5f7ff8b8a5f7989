"""Options of ``limaml train``."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from tfrec_limaml.commands.arguments import output_folder
from tfrec_limaml.commands.train_checks import check_read
from tfrec_limaml.commands.train_model_arguments import (
    add_adaptation,
    add_gradient_steps,
    add_network,
)
from tfrec_limaml.commands.train_values import adder, fraction
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.training.cluster import WORKER_TIMEOUT
from tfrec_limaml.training.model_options import ModelOptions
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
    parser.add_argument(
        "--refit",
        type=Path,
        metavar="RUN",
        help="use the settings, the number of epochs and the adaptation strength that an earlier "
        "run has chosen, without validation rows: for the model that you deploy, on records of "
        "`limaml prepare --no-validation`; takes no other settings",
    )
    _add_definitions(parser)
    _add_training(parser.add_argument_group("training"))
    add_adaptation(parser.add_argument_group("adaptation"))
    add_gradient_steps(parser.add_argument_group("adaptation by gradient steps"))
    add_network(parser.add_argument_group("network"))
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
        metavar="SECONDS",
        help="with --distribute multi-worker: exit if not all workers have started in this time, "
        f"or if no batch ends for this time (default: {WORKER_TIMEOUT:g})",
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
    _add_epochs(group)
    add = adder(group)
    add(
        "--batch-size",
        type=int,
        metavar="N",
        help="tasks per batch (default: by --batch-rows; paper: 128)",
    )
    add(
        "--batch-rows",
        type=int,
        metavar="N",
        help="approximate number of training rows per batch; a task counts as at least 8 rows",
    )
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
        help="batches over which the learning rate rises from 0, at most a quarter of all",
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


def _add_epochs(group: Any) -> None:
    add = adder(group)
    add(
        "--epochs",
        type=int,
        metavar="N",
        help="maximum number of epochs (default: 8, or more for small data: as many as take 400 "
        "batches, up to 50; paper: 15)",
    )
    add("--patience", type=int, metavar="N", help="stop after N epochs without a better score")


def _add_samples(group: Any) -> None:
    add = adder(group)
    add(
        "--support-fraction",
        type=fraction,
        metavar="X",
        help="share of a training task's rows that form the support set: a number, or LOW-HIGH "
        "to draw a new one in each epoch; episodes are split already",
    )
    add(
        "--no-episodes",
        dest="use_episodes",
        action="store_false",
        default=None,
        help="train on the plain training records, even if `limaml prepare` wrote episodes",
    )
    add(
        "--max-samples",
        type=int,
        metavar="N",
        help="most recent support rows per task, "
        "in training only; limit the histories of embeddings with `limaml prepare --max-samples` "
        "(default: all)",
    )
    add("--seed", type=int, metavar="N", help="seed of weights, dropout, order and splits of tasks")


def options_from(args: argparse.Namespace) -> TrainOptions:
    """The recipe with the options of the command line; with ``--refit`` there must be none."""
    fields = {f.name for kind in (TrainOptions, ModelOptions) for f in dataclasses.fields(kind)}
    values = {
        name: value for name, value in vars(args).items() if name in fields and value is not None
    }
    if args.refit is not None:
        _check_refit(args, set(values) - {"algorithm"})
    options = recipe(args.recipe).replace(**values)
    check_read(options, set(values))
    return options


def _check_refit(args: argparse.Namespace, given: set[str]) -> None:
    """Refuses settings beside ``--refit``, which has them all."""
    given |= {name for name in ("task", "nested_task") if getattr(args, name)}
    if args.recipe != "default":
        given.add("recipe")
    options = {"decay": "no-decay", "use_episodes": "no-episodes"}
    if given:
        names = ", ".join(f"--{options.get(n, n).replace('_', '-')}" for n in sorted(given))
        raise LimamlError(
            f"--refit takes all settings from the run {args.refit}: leave out {names}"
        )
