"""``limaml evaluate``: AUC of each trained model, un-adapted, fine-tuned and as served."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

from tfrec_limaml import staging
from tfrec_limaml.cli import Command
from tfrec_limaml.commands.evaluate_text import form_of, render
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.finite_json import without_nan
from tfrec_limaml.tasks.batch_sizes import SCORED_TASKS
from tfrec_limaml.tensorflow_setup import import_tensorflow

#: `evaluate` warns about a model whose AUC is lower than its reference's by more than this.
WORSE = 0.0005

_DESCRIPTION = """\
Scores the test rows of `limaml prepare` with every model in RUN and writes RUN/evaluation.json.
Each model is scored un-adapted, and after fine-tuning on each task's history before the test. A
LiMAML model is also scored "as served", with the one embedding per task that `limaml embed` would
store; a model of two definitions (--joint-task) also with each side's embeddings alone.

The results are AUC with 95 % intervals and the gain over the first model, overall, by length of
history and by cohort (cold, dormant, active, few or many test rows); log loss, calibration and AUC
within tasks; and whether fine-tuning lowered the support loss.

example:
  limaml evaluate runs/tasks --run runs/model
next: limaml export runs/model --output runs/export
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``limaml evaluate``."""
    parser.add_argument(
        "tasks", metavar="TASKS", type=Path, help="folder written by `limaml prepare`"
    )
    parser.add_argument("--run", type=Path, required=True, help="folder written by `limaml train`")
    parser.add_argument(
        "--split",
        choices=("test", "validation"),
        default="test",
        help="rows to score (default: %(default)s)",
    )
    parser.add_argument(
        "--task",
        help="task definition to score (default: the one that the models were trained for)",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        default=SCORED_TASKS,
        help="tasks per batch, on average (default: %(default)s)",
    )
    parser.add_argument(
        "--dormant-days",
        type=float,
        default=7.0,
        metavar="DAYS",
        help="tasks without rows for this time before their first test row are dormant (default: "
        "%(default)g)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an existing evaluation.json"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Runs ``limaml evaluate``, writes ``evaluation.json`` and returns its contents."""
    path = args.run / "evaluation.json"
    _check_arguments(args, path)
    models = _models(args.run)
    import_tensorflow()
    import keras
    from tqdm import tqdm

    import tfrec_limaml.models  # noqa: F401  registers the classes
    from tfrec_limaml.evaluation import bayes_auc
    from tfrec_limaml.tasks.input_pipeline import task_dataset
    from tfrec_limaml.training.recipes import configure_tensorflow, load_encoder, split_pattern

    configure_tensorflow()
    schema = load_encoder(args.tasks).schema
    options: dict[str, Any] = {"dormant_days": args.dormant_days}
    results: list[dict[str, Any]] = []
    rows: dict[str, Any] = {}
    first: str | None = None
    bar = {"desc": "evaluate", "unit": "model", "file": sys.stderr, "disable": None}
    with tqdm(total=len(models), **bar) as progress:
        for file in models:
            model = keras.saving.load_model(file)
            definition = _definition(model, schema, args.task, file)
            _refuse_other(definition, first, file)
            if first is None:
                options["trained_keys"] = _trained_keys(args.tasks, definition, schema)
            first = definition
            dataset = task_dataset(
                split_pattern(args.tasks, definition, args.split, schema),
                model.encoder,
                args.batch_size,
                with_keys=True,
                in_order=False,
                by_rows=True,
                side=_side(model, args, definition),
            )
            rows = _evaluate(file.stem, model, dataset, options, results)
            progress.update()
    result = without_nan(_summary(args.split, models[0].stem, results, bayes_auc(rows)))
    staging.write_text(path, json.dumps(result, indent=1) + "\n")
    return result


def _models(run: Path) -> list[Path]:
    """The files of the run's models, vanilla first."""
    models = sorted(run.glob("*.keras"), key=lambda p: (p.stem != "vanilla", p.stem))
    if not models:
        raise LimamlError(f"no model in {run}; run `limaml train` first")
    return models


def _check_arguments(args: argparse.Namespace, path: Path) -> None:
    if not args.dormant_days >= 0:
        raise LimamlError(f"--dormant-days must be at least 0, received {args.dormant_days:g}")
    if path.exists() and not args.overwrite:
        raise LimamlError(f"{path} exists; pass --overwrite to evaluate again")


def _summary(
    split: str, reference: str, results: list[dict[str, Any]], best: float | None
) -> dict[str, Any]:
    """The contents of ``evaluation.json``; `best` is the best possible AUC, if it is known."""
    return {
        "split": split,
        "rows": results[0]["rows"],
        "tasks": results[0]["tasks"],
        "gain_over": reference,
        "results": results,
        "warnings": [*warnings_of(results), *_uninformative(results)],
        **({} if best is None else {"bayes_auc": best}),
    }


def _uninformative(results: list[dict[str, Any]]) -> list[str]:
    """Warnings about metrics that carry no information, each once."""
    from tfrec_limaml.evaluation.evaluate import uninformative

    return list(dict.fromkeys(text for row in results for text in uninformative(row)))


def warnings_of(results: list[dict[str, Any]]) -> list[str]:
    """Warnings about models that are worse than their reference.

    Args:
        results: The rows of ``evaluation.json``; the first one is the reference.
    """
    reference = results[0]
    texts: list[str] = []
    for row in results[1:]:
        form = form_of(row)
        if form not in ("as served", "un-adapted") or row["algorithm"] == reference["algorithm"]:
            continue
        loss = reference["auc"] - row["auc"]
        high = row.get("gain_high")
        if loss > WORSE and (high is None or high < 0):  # not by chance
            texts.append(
                f"{row['algorithm']} {form} is {loss:.4f} AUC below {reference['algorithm']}"
                + ("" if form == "as served" else ": members without an embedding get worse scores")
            )
    for row in results:
        if row.get("served"):
            unadapted = next(r for r in results if r["algorithm"] == row["algorithm"])
            loss = unadapted["auc"] - row["auc"]
            if loss > WORSE:
                texts.append(
                    f"{row['algorithm']} as served is {loss:.4f} AUC below its un-adapted "
                    "form: adaptation does not help on these rows"
                )
    return texts


def _evaluate(
    name: str, model: Any, dataset: Any, options: dict[str, Any], results: list[dict[str, Any]]
) -> dict[str, Any]:
    """Appends the results of one model to `results` and returns its scored rows.

    The un-adapted scores of the first model become the reference.
    """
    from tfrec_limaml.evaluation import score_tasks

    scores = score_tasks(model, dataset)
    options.setdefault("reference", scores.unadapted.get("probability"))
    for fine_tune, rows in ((False, scores.unadapted), (True, scores.adapted)):
        results.append({"algorithm": name, "fine_tune": fine_tune, **_measured(rows, options)})
    results[-1].update(scores.losses)
    for definition, rows in scores.by_side.items():
        row = {"algorithm": name, "fine_tune": True, "side": definition}
        results.append({**row, **_measured(rows, options)})
    if scores.served is not None:
        row = {"algorithm": name, "fine_tune": True, "served": True}
        results.append({**row, **_measured(scores.served, options)})
    return scores.adapted


def _measured(rows: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """The metrics of scored rows; warnings are left to the summary."""
    from tfrec_limaml.evaluation import measure
    from tfrec_limaml.evaluation.evaluate import Uninformative

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Uninformative)
        return measure(rows, **options)


def _side(model: Any, args: argparse.Namespace, definition: str) -> Any:
    """The evaluated side of a model of two definitions; None for other models.

    Computes the model's table as the embedding job would.
    """
    from tfrec_limaml.models import JointLiMAML
    from tfrec_limaml.training.joint import fill_table

    if not isinstance(model, JointLiMAML):
        return None
    sides = fill_table(model, args.tasks, "recent" if args.split == "test" else "train")
    return sides.pair[sides.definitions.index(definition)]


def _definition(model: Any, schema: Any, task: str | None, file: Path) -> str:
    """The task definition to score: that of `task`, or the one that the model was trained for.

    Raises `LimamlError` if the model does not fit the schema, or cannot adapt tasks of `task`.
    """
    if model.encoder is None or model.encoder.schema.fingerprint() != schema.fingerprint():
        raise LimamlError(
            f"{file} was trained with another schema than that of the task records; prepare or "
            "train again"
        )
    trained_definition: str = model.encoder.task or schema.default_task
    definition = task or trained_definition
    schema.task_columns(definition)  # raises an error for unknown ones
    joint = getattr(model.meta_block, "joint_definitions", ())
    if joint and definition not in (trained_definition, *joint):
        raise LimamlError(
            f"{file} adapts {[trained_definition, *joint]}; pass --task with one of them, not "
            f"{definition}"
        )
    if model.encoder.nested and trained_definition != definition:
        raise LimamlError(
            f"{file} adapts to subtasks of {trained_definition!r} tasks; leave out --task, or pass "
            f"{trained_definition}, not {definition}"
        )
    return definition


def _refuse_other(definition: str, first: str | None, file: Path) -> None:
    """Raises `LimamlError` if a model's definition is not that of the first model: their scores
    cannot be compared.
    """
    if first not in (None, definition):
        raise LimamlError(
            f"{file} was trained for tasks of {definition!r}, the models before it for tasks of "
            f"{first!r}; pass --task with the definition to score"
        )


def _trained_keys(tasks: Path, definition: str, schema: Any) -> Any:
    """Keys of the tasks that training has seen; none if the folder has no training records."""
    from tfrec_limaml.evaluation import task_keys
    from tfrec_limaml.training.recipes import split_files

    return task_keys(split_files(tasks, definition, "train", schema, missing_ok=True))


COMMAND = Command(
    help="measure trained models on held-out tasks",
    description=_DESCRIPTION,
    add_arguments=add_arguments,
    run=run,
    render=render,
)
