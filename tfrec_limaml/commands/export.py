"""``limaml export``: writes a trained model as ranker and adapter."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tfrec_limaml.choices import POOLINGS
from tfrec_limaml.cli import Command
from tfrec_limaml.commands.arguments import output_folder
from tfrec_limaml.commands.evaluate_text import form_of
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.tensorflow_setup import import_tensorflow

#: Names of the AUCs in the manifest, by the weights that rows were scored with.
_AUC_NAMES = {
    "un-adapted": "auc_unadapted",
    "fine-tuned": "auc_fine_tuned",
    "as served": "auc_as_served",
}

_DESCRIPTION = """\
Writes EXPORT/ranker/<version> (for TensorFlow Serving) and EXPORT/adapter/<version> (for the
embedding job) from RUN/limaml.keras, with one manifest that names the model version, the schema
and its fingerprint.

example:
  limaml export runs/model --output runs/export
next:
  limaml embed runs/tasks --export runs/export --output runs/embeddings --store lmdb:runs/store
  limaml serve runs/export/ranker
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``limaml export``."""
    parser.add_argument(
        "run_directory", metavar="RUN", type=Path, help="folder written by `limaml train`"
    )
    parser.add_argument(
        "--output",
        type=output_folder,
        required=True,
        metavar="EXPORT",
        help="folder to write ranker/ and adapter/ into",
    )
    parser.add_argument(
        "--model-version",
        type=int,
        metavar="N",
        help="positive integer (default: the highest in EXPORT plus one)",
    )
    parser.add_argument(
        "--task",
        help="task definition that embeddings are keyed by (default: the one of the training)",
    )
    parser.add_argument(
        "--fine-tune-steps",
        type=int,
        metavar="N",
        help="inner steps of the embedding job (default: as trained)",
    )
    parser.add_argument(
        "--pooling",
        choices=POOLINGS,
        help="how a task's embeddings are pooled into the stored vector (default: as trained)",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Runs ``limaml export`` and returns the paths of the adapter and the ranker."""
    path = args.run_directory / "limaml.keras"
    if args.run_directory.is_file():
        raise LimamlError(f"{args.run_directory} is a file; give its folder, {path.parent.parent}")
    if not path.exists():
        raise LimamlError(f"no model at {path}; run `limaml train` first")
    import_tensorflow()
    import keras

    import tfrec_limaml.models  # noqa: F401  registers the classes
    from tfrec_limaml.export.savedmodels import export_for_serving

    if args.fine_tune_steps is not None and args.fine_tune_steps < 0:
        raise LimamlError(f"--fine-tune-steps must be at least 0, received {args.fine_tune_steps}")
    model = keras.saving.load_model(path)
    evaluated = _settings(model)
    if args.fine_tune_steps is not None:
        model.fine_tune_steps = args.fine_tune_steps
    if args.pooling is not None:
        if model.meta_block.stores_offset:
            raise LimamlError(
                f"--pooling combines the embeddings of a task's samples, but the meta block of "
                f"{path} stores one offset per task; leave it out"
            )
        model.pooling = args.pooling
    manifest = export_for_serving(
        model,
        args.output,
        model_version=args.model_version,
        task_definition=args.task,
        metrics=_metrics(path) if _settings(model) == evaluated else {},
    )
    version = str(manifest.model_version)
    return {
        "model_version": manifest.model_version,
        "ranker": str(args.output / "ranker" / version),
        "adapter": str(args.output / "adapter" / version),
        "embedding_dim": manifest.embedding_dim,
        "schema_fingerprint": manifest.schema_fingerprint,
    }


def _settings(model: Any) -> tuple[int, str]:
    """What `limaml evaluate` measured, and the options of this command change."""
    return model.fine_tune_steps, model.pooling


def _metrics(model: Path) -> dict[str, Any]:
    """The split and the model's AUCs from `limaml evaluate`, if it was run on this model."""
    path = model.with_name("evaluation.json")
    if not path.exists() or path.stat().st_mtime < model.stat().st_mtime:
        return {}
    evaluation = json.loads(path.read_text(encoding="utf-8"))
    rows = [r for r in evaluation["results"] if r["algorithm"] == "limaml" and "side" not in r]
    return {"split": evaluation["split"], **{_AUC_NAMES[form_of(row)]: row["auc"] for row in rows}}


COMMAND = Command(
    help="write the ranker and the adapter for serving",
    description=_DESCRIPTION,
    add_arguments=add_arguments,
    run=run,
)
