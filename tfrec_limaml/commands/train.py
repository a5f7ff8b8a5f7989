"""``limaml train``: task records to a trained model."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from tfrec_limaml.cli import Command
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.tensorflow_setup import import_tensorflow

ALGORITHMS = ("limaml", "vanilla", "maml")
META_BLOCKS = ("mlp", "id", "features+id", "transformer")
GLOBAL_BLOCKS = ("mlp", "wide_and_deep", "dcn", "dlrm")
#: Batches between two visits to Python.
STEPS_PER_EXECUTION = 8

_DESCRIPTION = """\
Trains a model on the task records that `limaml prepare` wrote, with early stopping on validation
AUC (after fine-tuning, where the algorithm adapts), and writes RUN/<algorithm>.keras with its
learning curve RUN/<algorithm>.training.json.

example:
  limaml train runs/tasks --output runs/model --algorithm limaml --inner-steps 3
  limaml train runs/tasks --output runs/model --algorithm vanilla      # what to compare with
next: limaml evaluate runs/tasks --run runs/model
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``limaml train``."""
    parser.add_argument("tasks", type=Path, help="folder written by `limaml prepare`")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="RUN",
        help="folder for the model and its learning curve",
    )
    parser.add_argument("--algorithm", choices=ALGORITHMS, default="limaml")
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
        "--epochs", type=int, default=15, help="at most this many (default: %(default)s)"
    )
    parser.add_argument(
        "--patience",
        type=int,
        default=2,
        help="epochs without a better validation AUC (default: %(default)s)",
    )
    parser.add_argument(
        "--batch-size", type=int, default=128, help="tasks per batch (default: %(default)s)"
    )
    parser.add_argument(
        "--learning-rate", type=float, default=1e-3, help="outer rate, Adam (default: %(default)s)"
    )
    parser.add_argument(
        "--decay-steps",
        type=int,
        metavar="N",
        help="let the outer rate fall to 0 along a cosine over N batches (default: constant)",
    )
    parser.add_argument(
        "--warmup-steps",
        type=int,
        default=0,
        metavar="N",
        help="raise the outer rate from 0 over N batches first; needs --decay-steps",
    )
    parser.add_argument(
        "--inner-steps",
        type=int,
        default=3,
        help="n: inner steps in training (default: %(default)s)",
    )
    parser.add_argument(
        "--inner-learning-rate", type=float, default=0.3, help="alpha (default: %(default)s)"
    )
    parser.add_argument(
        "--fine-tune-steps",
        type=int,
        help="k: steps at evaluation and for embeddings (default: inner steps)",
    )
    parser.add_argument(
        "--first-order",
        action="store_true",
        help="take inner gradients as constants: cheaper, less exact",
    )
    parser.add_argument(
        "--second-order-steps",
        type=int,
        metavar="N",
        help="differentiate twice through the last N inner steps only: cheaper",
    )
    parser.add_argument(
        "--learn-inner-rates",
        action="store_true",
        help="learn alpha per parameter (Meta-SGD); beyond the paper",
    )
    parser.add_argument(
        "--unadapted-loss-weight",
        type=float,
        default=1.0,
        help="weight of the loss before adaptation; beyond the paper, whose objective is 0 "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--support-fraction",
        default="0.2-0.9",
        help="share of a training task's samples that form the support set: a number, or LOW-HIGH "
        "to draw it anew each epoch; the "
        "paper's is 0.75 (default: %(default)s)",
    )
    parser.add_argument(
        "--max-samples",
        type=int,
        help="most recent support samples per task (default: all in the records)",
    )
    parser.add_argument(
        "--meta-block",
        choices=META_BLOCKS,
        default="mlp",
        help="what is adapted per task: an MLP on meta features, the task's own ID row, both, or "
        "an MLP on what attention finds in the "
        "task's interactions (default: %(default)s)",
    )
    parser.add_argument(
        "--global-block",
        choices=GLOBAL_BLOCKS,
        default="mlp",
        help="the shared network (default: %(default)s)",
    )
    parser.add_argument(
        "--meta-units",
        type=_widths,
        default=(64,),
        metavar="64,32",
        help="meta block's hidden layers (default: 64)",
    )
    parser.add_argument(
        "--embedding-dim",
        type=int,
        default=32,
        help="width of the meta embedding (default: %(default)s)",
    )
    parser.add_argument(
        "--global-units",
        type=_widths,
        default=(128, 64),
        metavar="128,64",
        help="global block (default: 128,64)",
    )
    parser.add_argument(
        "--dropout", type=float, default=0.1, help="in the global block (default: %(default)s)"
    )
    parser.add_argument(
        "--tensorboard",
        type=Path,
        metavar="DIR",
        help="write TensorBoard scalars, the graph and meta embeddings there",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an existing model of this algorithm"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Trains; see the description."""
    path = args.output / f"{args.algorithm}.keras"
    if path.exists() and not args.overwrite:
        raise LimamlError(f"{path} exists; pass --overwrite to train it again")
    import_tensorflow()
    import keras

    from tfrec_limaml.evaluation import adaptation_losses
    from tfrec_limaml.training.recipes import build_model, datasets, load_encoder, without_remapping

    without_remapping()
    keras.utils.set_random_seed(args.seed)
    encoder = load_encoder(args.tasks, args.task, args.nested_task)
    model = build_model(args.algorithm, encoder, vars(args))
    train, validation = datasets(
        args.tasks,
        encoder,
        args.task,
        args.batch_size,
        _fraction(args.support_fraction),
        args.max_samples,
        args.seed,
    )
    model.compile(
        keras.optimizers.Adam(_rate(args), global_clipnorm=1.0),
        steps_per_execution=STEPS_PER_EXECUTION,
    )
    started = time.perf_counter()
    stopping = keras.callbacks.EarlyStopping(
        "val_auc", mode="max", patience=args.patience, restore_best_weights=True
    )
    callbacks = [stopping, _progress(args.algorithm, args.epochs), *_tensorboard(args, encoder)]
    history = model.fit(
        train, validation_data=validation, epochs=args.epochs, callbacks=callbacks, verbose=0
    )
    curves = {name: [float(v) for v in values] for name, values in history.history.items()}
    result = {
        "algorithm": args.algorithm,
        "model": str(path),
        "epochs": len(curves["loss"]),
        "best_val_auc": max(curves["val_auc"]),
        "seconds": round(time.perf_counter() - started, 2),
        "history": curves,
        **adaptation_losses(model, validation),
    }
    args.output.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".writing-{path.name}")
    model.save(aside)
    aside.replace(path)
    (args.output / f"{args.algorithm}.training.json").write_text(
        json.dumps(result, indent=1) + "\n", encoding="utf-8"
    )
    return result


def _render(result: dict[str, Any]) -> str:
    return (
        f"{result['algorithm']}: {result['epochs']} epochs in {result['seconds']:.0f} s, best "
        f"validation AUC {result['best_val_auc']:.4f}; "
        f"model at {result['model']}\nfine-tuning took the support loss of validation tasks from "
        f"{result['support_loss_before']:.4f} to "
        f"{result['support_loss_after']:.4f}"
    )


def _rate(args: argparse.Namespace) -> Any:
    """The outer rate: a number, or a schedule of it."""
    from tfrec_limaml.training.schedules import warmup_cosine

    if args.decay_steps is None:
        if args.warmup_steps:
            raise LimamlError(
                f"--warmup-steps {args.warmup_steps} needs --decay-steps: the number of batches "
                "to train for"
            )
        return args.learning_rate
    return warmup_cosine(args.learning_rate, args.decay_steps, args.warmup_steps)


def _tensorboard(args: argparse.Namespace, encoder: Any) -> list[Any]:
    if args.tensorboard is None:
        return []
    from tfrec_limaml.tasks.input_pipeline import task_dataset
    from tfrec_limaml.training.callbacks import EmbeddingProjector, tensorboard
    from tfrec_limaml.training.recipes import split_pattern

    callbacks = [tensorboard(args.tensorboard)]
    if args.algorithm == "limaml":
        recent = task_dataset(
            split_pattern(args.tasks, args.task, "recent", encoder.schema),
            encoder,
            support_fraction=1.0,
            with_keys=True,
        )
        callbacks.append(EmbeddingProjector(recent, args.tensorboard))
    return callbacks


def _widths(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part)


def _fraction(text: str) -> float | tuple[float, float]:
    try:
        low, _, high = str(text).partition("-")
        return (float(low), float(high)) if high else float(low)
    except ValueError as error:
        raise LimamlError(
            "--support-fraction must be a number such as 0.75 or a range such as 0.2-0.9, "
            f"received {text!r}"
        ) from error


def _progress(name: str, epochs: int) -> Any:
    """A Keras callback: a bar per epoch on stderr, then a line with its results."""
    import keras
    from tqdm import tqdm

    class EpochBar(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            total = (self.params or {}).get("steps")
            self.bar = tqdm(
                total=total,
                desc=f"{name} epoch {epoch + 1}/{epochs}",
                unit="batch",
                file=sys.stderr,
                leave=False,
                disable=None,
            )

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.bar.update(batch + 1 - self.bar.n)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.bar.close()
            shown = "  ".join(f"{key} {value:.4f}" for key, value in (logs or {}).items())
            tqdm.write(f"{name} epoch {epoch + 1}/{epochs}  {shown}", file=sys.stderr)

    return EpochBar()


COMMAND = Command(
    help="train LiMAML, or what it is compared with",
    description=_DESCRIPTION,
    add_arguments=add_arguments,
    run=run,
    render=_render,
)
