"""``limaml train``: task records to a trained model."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfrec_limaml import finite_json, staging
from tfrec_limaml.cli import Command
from tfrec_limaml.commands.train_arguments import add_arguments, options_from
from tfrec_limaml.commands.train_result import render
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.tensorflow_setup import import_tensorflow
from tfrec_limaml.training.cluster import WORKER_TIMEOUT
from tfrec_limaml.training.options import TrainOptions

_DESCRIPTION = """\
Trains a model on the task records that `limaml prepare` wrote, with early stopping on the mean of
the validation AUCs with and without adaptation, and writes RUN/<algorithm>.keras with its
learning curve RUN/<algorithm>.training.json.

example:
  limaml train runs/tasks --output runs/model
  limaml train runs/tasks --output runs/model --algorithm vanilla      # the reference
  limaml train runs/all_rows --output runs/final --refit runs/model    # the model to deploy
next: limaml evaluate runs/tasks --run runs/model
"""


#: Seconds; threads cannot wait for much longer.
_LONGEST_TIMEOUT = 10_000_000


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Trains; see the description."""
    path = args.output / f"{args.algorithm}.keras"
    exists = path.exists() and not args.overwrite
    if exists and not args.resume:
        raise LimamlError(f"{path} exists; pass --overwrite to train it again")
    options = options_from(args)
    _check_tensorboard(args)
    import_tensorflow()
    from tfrec_limaml.training.checkpoint_files import is_unfinished

    chosen = _chosen(args)
    if exists and not is_unfinished(_checkpoint_folder(args)):
        return _finished_result(args, options, chosen, path)
    from tfrec_limaml.training.recipes import configure_tensorflow
    from tfrec_limaml.training.train import train

    configure_tensorflow()
    workers = _workers(args)
    checkpoints = _checkpoints(args, workers.is_chief)
    callbacks = []
    if workers.is_chief:
        callbacks = [_progress(args.algorithm), *_tensorboard(args, chosen)]
    trained = train(
        args.tasks,
        options if chosen is None else None,
        task=args.task,
        nested=args.nested_task,
        callbacks=callbacks,
        checkpoints=checkpoints,
        strategy=workers.strategy,
        worker_timeout=args.worker_timeout or WORKER_TIMEOUT,
        refit=chosen,
    )
    result = trained.result | {"model": str(path)}
    if workers.is_chief:
        _write(path, trained.model, result)
        shutil.rmtree(checkpoints.folder, ignore_errors=True)
    workers.exchange({})  # none leaves before the model is written
    return result


def _chosen(args: argparse.Namespace) -> Any:
    """The settings of the run to refit, if one is named."""
    from tfrec_limaml.training.refit import Chosen

    if args.refit is None:
        return None
    return Chosen.of(args.refit / f"{args.algorithm}.training.json")


def _definitions(args: argparse.Namespace, chosen: Any) -> tuple[str | None, Sequence[str]]:
    """The task definition, and those that refine it."""
    return (args.task, args.nested_task) if chosen is None else (chosen.task, chosen.nested)


def _finished_result(
    args: argparse.Namespace, options: TrainOptions, chosen: Any, path: Path
) -> dict[str, Any]:
    """The result of a complete training run, whose model stays as it is.

    Raises:
        LimamlError: The model is that of another training run.
    """
    from tfrec_limaml.training.identity import MACHINES, require_same_training, training_identity
    from tfrec_limaml.training.recipes import load_encoder

    curve = path.with_suffix(".training.json")
    try:
        result: dict[str, Any] = json.loads(curve.read_text(encoding="utf-8"))
        stored = result["identity"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LimamlError(
            f"{path} exists, but {curve.name} does not tell how it was trained; pass --overwrite "
            f"to train it again"
        ) from error
    task, nested = _definitions(args, chosen)
    encoder = load_encoder(args.tasks, task, nested)
    if chosen is not None:
        options = chosen.options
    expected = training_identity(args.tasks, task, encoder, options)
    expected |= {} if chosen is None else chosen.identity()
    require_same_training(stored, expected, f"the model {path}", ignore=MACHINES)
    warnings.warn(f"{path} is complete: there is nothing to resume", stacklevel=2)
    return result


def _write(path: Path, model: Any, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with staging.file(path) as temporary:
        model.save(temporary)
    curve = path.with_suffix(".training.json")
    staging.write_text(curve, finite_json.dumps(result, indent=1) + "\n")


def _workers(args: argparse.Namespace) -> Any:
    from tfrec_limaml.training.distribution import Workers, make_strategy

    timeout = args.worker_timeout
    if timeout is not None and args.distribute != "multi-worker":
        raise LimamlError("--worker-timeout needs --distribute multi-worker; leave it out")
    if timeout is not None and not 0 < timeout <= _LONGEST_TIMEOUT:
        raise LimamlError(
            f"--worker-timeout must be positive and at most {_LONGEST_TIMEOUT}, received {timeout}"
        )
    if args.distribute is None:
        return Workers()
    return Workers.of(make_strategy(args.distribute, timeout or WORKER_TIMEOUT))


def _checkpoints(args: argparse.Namespace, is_chief: bool) -> Any:
    """Settings of the checkpoints; removes those of an earlier run unless it is resumed."""
    from tfrec_limaml.training.checkpoint_files import is_unfinished
    from tfrec_limaml.training.checkpoints import CheckpointOptions

    folder = _checkpoint_folder(args)
    if is_unfinished(folder) and not args.resume:
        if not args.overwrite:
            raise LimamlError(
                f"{folder} holds an interrupted training run; pass --resume to continue it, or "
                f"--overwrite to start again"
            )
        if is_chief:
            shutil.rmtree(folder)
    return CheckpointOptions(folder, args.checkpoint_steps, args.resume)


def _checkpoint_folder(args: argparse.Namespace) -> Path:
    folder: Path = args.output / f"{args.algorithm}.checkpoints"
    return folder


def _check_tensorboard(args: argparse.Namespace) -> None:
    if args.joint_task is not None and args.tensorboard is not None:
        raise LimamlError(
            f"--tensorboard cannot be combined with --joint-task {args.joint_task}; leave it out"
        )


def _tensorboard(args: argparse.Namespace, chosen: Any) -> list[Any]:
    if args.tensorboard is None:
        return []
    from tfrec_limaml.tasks.input_pipeline import task_dataset
    from tfrec_limaml.training.callbacks import EmbeddingProjector, tensorboard
    from tfrec_limaml.training.recipes import load_encoder, split_pattern

    callbacks = [tensorboard(args.tensorboard)]
    if args.algorithm == "limaml":
        task, nested = _definitions(args, chosen)
        encoder = load_encoder(args.tasks, task, nested)
        recent = task_dataset(
            split_pattern(args.tasks, task, "recent", encoder.schema),
            encoder,
            support_fraction=1.0,
            with_keys=True,
        )
        callbacks.append(EmbeddingProjector(recent, args.tensorboard))
    return callbacks


def _progress(name: str) -> Any:
    """A Keras callback: a bar per epoch on stderr, then a line with its results.

    `train` may fit several models, of which it keeps one.
    """
    import keras
    from tqdm import tqdm

    class EpochBar(keras.callbacks.Callback):
        trained = 0

        def on_train_begin(self, logs: Any = None) -> None:
            self.trained += 1
            self.name = name if self.trained == 1 else f"{name}, model {self.trained},"

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.title = f"{self.name} epoch {epoch + 1}/{self.params['epochs']}"
            self.bar = tqdm(
                total=self.params["steps"],
                desc=self.title,
                unit="batch",
                file=sys.stderr,
                leave=False,
                disable=None,
            )

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.bar.update(batch + 1 - self.bar.n)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.bar.close()
            text = "  ".join(f"{key} {value:.4f}" for key, value in (logs or {}).items())
            tqdm.write(f"{self.title}  {text}", file=sys.stderr)

    return EpochBar()


COMMAND = Command(
    help="train LiMAML or a reference model",
    description=_DESCRIPTION,
    add_arguments=add_arguments,
    run=run,
    render=render,
)
