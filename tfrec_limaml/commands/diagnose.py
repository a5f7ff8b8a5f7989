"""``limaml diagnose``: can LiMAML help on these data?"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from pathlib import Path
from typing import Any

from tfrec_limaml.cli import Command
from tfrec_limaml.commands.arguments import at_least
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.tensorflow_setup import import_tensorflow
from tfrec_limaml.training.options import TrainOptions
from tfrec_limaml.wording import counted

_DESCRIPTION = """\
Estimates how much LiMAML could gain, before you train it. Trains a plain network on all features
(including the history features of the schema), like `limaml train --algorithm vanilla`, and scores
the validation rows. Then estimates how much tasks differ beyond the network's scores. From each
task's earlier rows it estimates three kinds of effect: the task's level, its preference for each
category, and tastes across all features (an offset to the network's meta embedding). It measures
how much AUC each effect gains on the task's later rows. Gives a verdict for every task definition.
Takes little longer than the training of the network.

example:
  limaml diagnose runs/tasks
next: limaml train runs/tasks --output runs/model
"""

_MEANING = {
    "worth it": "a task's history predicts more than the features do: train LiMAML",
    "small": "a small gain is possible, with LiMAML or with cheaper history features",
    "nothing left": "no gain was found beyond what the features already contain: LiMAML will "
    "hardly gain here; `limaml compare` measures it",
    "cannot tell": "too few validation tasks, rows, positives or histories to rule a gain in or "
    "out: lengthen the validation period, or train and compare",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``limaml diagnose``."""
    parser.add_argument(
        "tasks", metavar="TASKS", type=Path, help="folder written by `limaml prepare`"
    )
    parser.add_argument("--task", help="only this task definition (default: all prepared ones)")
    parser.add_argument(
        "--epochs",
        type=at_least(1),
        metavar="N",
        help="maximum number of epochs of the plain network (default: that of `limaml train`)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=1,
        metavar="N",
        help="seed of the training (default: %(default)s)",
    )


def _definitions_in(tasks: Path, schema: Schema) -> list[str]:
    """The task definitions that the folder has records of."""
    definitions = [name for name in schema.tasks if (tasks / name).is_dir()]
    if not definitions:
        raise LimamlError(f"no task records in {tasks}; run `limaml prepare` first")
    return definitions


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Runs ``limaml diagnose`` and returns its result."""
    import_tensorflow()
    from tqdm import tqdm

    from tfrec_limaml.diagnosis import diagnose, scored_rows
    from tfrec_limaml.diagnosis.offset_gain import offset_gain
    from tfrec_limaml.tasks.input_pipeline import task_dataset
    from tfrec_limaml.training.recipes import (
        configure_tensorflow,
        load_encoder,
        require_binary,
        split_files,
    )
    from tfrec_limaml.training.train import train

    configure_tensorflow()
    started = time.perf_counter()
    schema = load_encoder(args.tasks).schema
    schema.task_columns(args.task)
    require_binary(schema, "`limaml diagnose`")
    definitions = [args.task] if args.task else _definitions_in(args.tasks, schema)
    options = TrainOptions(algorithm="vanilla", epochs=args.epochs, seed=args.seed)
    diagnoses = []
    bar = {"desc": "baseline", "unit": "step", "file": sys.stderr, "disable": None}
    with tqdm(total=1 + len(definitions), **bar) as progress:
        first = definitions[0]  # all definitions group the same rows: one network is enough
        for split in ("train", "validation"):
            split_files(args.tasks, first, split, schema)
        model = train(args.tasks, options, task=first).model
        progress.update()
        for name in definitions:
            progress.set_description(name)
            files = split_files(args.tasks, name, "validation", schema)
            rows = scored_rows.score_rows(model, files, diagnose.categories(schema, name))
            validation = task_dataset(files, model.encoder, with_keys=True)
            offsets = functools.partial(offset_gain, model, validation)
            diagnoses.append(diagnose.diagnose_definition(rows, name, offsets))
            progress.update()
    return {"definitions": diagnoses, "seconds": round(time.perf_counter() - started, 1)}


def _render(result: dict[str, Any]) -> str:
    lines = []
    for definition in result["definitions"]:
        lines.append(
            f"{definition['definition']}: {counted(definition['tasks'], 'task')}, "
            f"{counted(definition['rows'], 'row')}, "
            f"median history {counted(round(definition['median_history']), 'row')}"
        )
        lines.append(
            f"  {'differences between tasks':30} {'deviation (logits)':>26} {'AUC if known':>13} "
            f"{'from history':>28}"
        )
        for s in definition["sources"]:
            spread = oracle = ""
            if s["deviation"] is not None:
                spread = f"{s['deviation']:.2f} ({s['low']:.2f} to {s['high']:.2f})"
                oracle = f"{s['oracle']:+.4f}"
            gain = f"{s['history']:+.4f}"
            if s["history_low"] is not None:
                gain += f" ({s['history_low']:+.4f} to {s['history_high']:+.4f})"
            lines.append(f"  {s['source']:30} {spread:>26} {oracle:>13} {gain:>28}")
        lines += [f"  verdict: {definition['verdict']} - {_MEANING[definition['verdict']]}", ""]
    lines.append(
        "'AUC if known' is simulated from the fitted deviation; 'from history' is measured on the "
        "validation rows. Differences in a category are those beyond the task's level; 'task x all "
        "features' includes the level."
    )
    return "\n".join(lines)


COMMAND = Command(
    help="estimate, before training, what LiMAML could gain",
    description=_DESCRIPTION,
    add_arguments=add_arguments,
    run=run,
    render=_render,
)
