"""``limaml evaluate``: AUC of every trained algorithm, without and with fine-tuning."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tfrec_limaml.cli import Command
from tfrec_limaml.errors import LimamlError

_DESCRIPTION = """\
Scores the test rows of `limaml prepare` with every model in RUN, un-adapted and after fine-tuning on each task's history before the
test, and writes RUN/evaluation.json: AUC with 95 % intervals, log loss, calibration, AUC within tasks, and AUC by length of history.

example:
  limaml evaluate runs/tasks --run runs/model
next: limaml export runs/model --output runs/export
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``limaml evaluate``."""
    parser.add_argument("tasks", type=Path, help="folder written by `limaml prepare`")
    parser.add_argument("--run", type=Path, required=True, help="folder written by `limaml train`")
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument("--task", help="task definition (default: the schema's first)")
    parser.add_argument("--batch-size", type=int, default=512, help="tasks per batch (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing evaluation.json")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Evaluates; see the description."""
    path = args.run / "evaluation.json"
    if path.exists() and not args.overwrite:
        raise LimamlError(f"{path} exists; pass --overwrite to evaluate again")
    models = sorted(args.run.glob("*.keras"), key=lambda p: (p.stem != "vanilla", p.stem))
    if not models:
        raise LimamlError(f"no model in {args.run}; run `limaml train` first")
    import keras
    import numpy as np
    from tqdm import tqdm

    import tfrec_limaml.models  # noqa: F401  registers the classes
    from tfrec_limaml.evaluation import bayes_auc, measure
    from tfrec_limaml.input_pipeline import task_dataset
    from tfrec_limaml.recipes import load_encoder, split_pattern

    schema = load_encoder(args.tasks).schema
    pattern = split_pattern(args.tasks, args.task, args.split, schema)
    results: list[dict[str, Any]] = []
    rows: dict[str, Any] = {}
    progress = tqdm(total=2 * len(models), desc="evaluate", unit="pass", file=sys.stderr)
    for file in models:
        model = keras.saving.load_model(file)
        _check_schema(model, schema, file)
        dataset = task_dataset(pattern, model.encoder, args.batch_size, with_keys=True)
        for fine_tune in (False, True):
            model.fine_tune = fine_tune
            rows = model.predict(dataset, verbose=0)
            results.append({"algorithm": file.stem, "fine_tune": fine_tune, **measure(rows)})
            progress.update()
    progress.close()
    result = {"split": args.split, "rows": len(rows["label"]), "tasks": len(np.unique(rows["task_key"])), "results": results}
    best = bayes_auc(rows)
    if best is not None:
        result["bayes_auc"] = best
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def _check_schema(model: Any, schema: Any, file: Path) -> None:
    if model.encoder is None or model.encoder.schema.fingerprint() != schema.fingerprint():
        raise LimamlError(f"{file} was trained under another schema than the task records; prepare or train again")


def _render(result: dict[str, Any]) -> str:
    lines = [f"{result['split']}: {result['rows']} rows of {result['tasks']} tasks", ""]
    lines.append(
        f"{'algorithm':10} {'fine-tuned':>10} {'AUC':>8} {'95 % interval':>18} {'log loss':>9} {'calibration':>12} {'task AUC':>9}"
    )
    for row in result["results"]:
        lines.append(
            f"{row['algorithm']:10} {'yes' if row['fine_tune'] else 'no':>10} {row['auc']:8.4f} "
            f"{row['auc_low']:8.4f} - {row['auc_high']:.4f} {row['log_loss']:9.4f} {row['calibration']:12.3f} {row['per_task_auc']:9.4f}"
        )
    if "bayes_auc" in result:
        lines.append(f"best possible AUC {result['bayes_auc']:.4f} (known, as the data are simulated)")
    return "\n".join(lines)


COMMAND = Command(
    help="measure trained models on held-out tasks", description=_DESCRIPTION, add_arguments=add_arguments, run=run, render=_render
)
