"""Checkpoints: an interrupted training run continues with the same result, bit for bit.

`keras.callbacks.BackupAndRestore` overwrites its files, keeps neither early-stopping state nor
learning curves, and repeats batches of an interrupted epoch. This callback writes the whole state
to one file, atomically, and skips batches that were already used.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfrec_limaml.arrays import Array
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.keras_internals import loss_tracker
from tfrec_limaml.training.checkpoint_files import Checkpoint, newest
from tfrec_limaml.training.identity import require_same_training


@dataclasses.dataclass(frozen=True)
class CheckpointOptions:
    """Where and when `train` writes checkpoints.

    Attributes:
        folder: Created if missing; on storage that all workers can access, if there are several.
        steps: Approximate number of batches between two checkpoints within an epoch: training
            returns to Python only after several batches. None for one checkpoint per epoch.
        resume: Continue from the newest checkpoint, if there is one.
    """

    folder: Path
    steps: int | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise LimamlError(f"checkpoint steps must be at least 1, received {self.steps}")

    def in_folder(self, name: str) -> CheckpointOptions:
        """The same options for one of several training runs, in a subfolder of that name."""
        return dataclasses.replace(self, folder=self.folder / name)


class Checkpoints(keras.callbacks.Callback):
    """Writes checkpoints, and restores one when training begins. Must be the last callback.

    Args:
        options: Folder and frequency.
        identity: Values that determine the result of the training, by name, all JSON types. A
            checkpoint can be resumed only with equal values.
        stopping: The early stopping callback whose state is part of a checkpoint, or None.
        writes: Whether this process writes the files; only one of several workers does.

    Raises:
        LimamlError: The checkpoint to resume was written with another identity.
    """

    def __init__(
        self,
        options: CheckpointOptions,
        identity: Mapping[str, Any],
        stopping: keras.callbacks.EarlyStopping | None,
        writes: bool = True,
    ) -> None:
        super().__init__()
        self.options = options
        self.identity = json.loads(json.dumps(identity))
        self.stopping = stopping
        self.writes = writes
        self.resumed = newest(options.folder) if options.resume else None
        self.history: dict[str, list[float]] = {}
        self._epoch = self._calls = self._written = 0
        if self.resumed is not None:
            require_same_training(
                self.resumed.identity, self.identity, f"the checkpoint in {options.folder}"
            )
            self.history = {name: list(values) for name, values in self.resumed.history.items()}

    @property
    def position(self) -> list[int] | None:
        """Epoch and calls of the checkpoint that is resumed: the same on all workers."""
        return None if self.resumed is None else [self.resumed.epoch, self.resumed.calls]

    def initial_epoch(self, epochs: int) -> int:
        """The first epoch for `fit`."""
        if self.resumed is None:
            return 0
        return epochs if self.resumed.finished else self.resumed.epoch

    def on_train_begin(self, logs: Any = None) -> None:
        """Restores the checkpoint, if there is one."""
        if self.resumed is None:
            return
        self.model.optimizer.build(self.model.trainable_variables)
        self._restore(self.resumed.variables, list(_variables(self.model)))
        if self.stopping is not None:
            for name, value in self.resumed.stopping.items():
                setattr(self.stopping, name, value)
            self.stopping.best_weights = self.resumed.best or None
        self.model.history.history.update(
            {name: list(values) for name, values in self.history.items()}
        )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Writes the state between two epochs; skips batches from before the checkpoint."""
        self._epoch, self._calls, self._written = epoch, 0, 0
        if self.resumed is not None and self.resumed.epoch == epoch:
            if self.resumed.calls:
                self._calls = self._written = self.resumed.calls
                self._skip(self.resumed)
            self.resumed = None
        elif epoch:
            self._write(epoch, 0)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Writes the state within an epoch."""
        per_call = self.model.steps_per_execution
        calls = batch // per_call + 1
        if calls <= self._calls:  # skipped
            return
        self._calls = calls
        interval = self.options.steps
        if interval is not None and (calls - self._written) * per_call >= interval:
            self._write(self._epoch, calls, logs)
            self._written = calls

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Keeps the learning curves; writes the result after the last epoch."""
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(float(value))
        if self.model.stop_training or epoch + 1 == self.params["epochs"]:
            self._write(epoch + 1, 0, finished=True)

    def _write(self, epoch: int, calls: int, logs: Any = None, finished: bool = False) -> None:
        stopping = self.stopping
        names = () if stopping is None else ("wait", "best", "best_epoch")
        checkpoint = Checkpoint(
            epoch,
            calls,
            finished,
            {name: float(value) for name, value in (logs or {}).items()},
            self.history,
            {name: getattr(stopping, name) for name in names},
            self.identity,
            [np.asarray(v.numpy()) for v in _variables(self.model)],
            [] if stopping is None else list(stopping.best_weights or []),
        )
        if self.writes:
            checkpoint.write(self.options.folder)

    def _restore(self, values: list[Array], variables: list[keras.Variable]) -> None:
        shapes = [[tuple(v.shape) for v in arrays] for arrays in (values, variables)]
        if shapes[0] != shapes[1]:
            raise LimamlError(
                f"the checkpoint in {self.options.folder} belongs to another network; train with "
                f"the code that wrote it, or from the start"
            )
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    def _skip(self, resumed: Checkpoint) -> None:
        """Makes the training function skip batches up to the first new one."""
        train_function: Callable[[Any], Any] = self.model.train_function
        remaining, per_call = resumed.calls, self.model.steps_per_execution

        def skip(iterator: Any) -> dict[str, float]:
            nonlocal remaining
            remaining -= 1
            for _ in range(per_call):
                if next(iterator, None) is None:
                    break
            if not remaining:
                self.model.train_function = train_function
            return dict(resumed.logs)

        self.model.train_function = skip
        index_of = {id(v): i for i, v in enumerate(_variables(self.model))}
        tracked = loss_tracker(self.model).variables  # Keras has just reset them
        self._restore([resumed.variables[index_of[id(v)]] for v in tracked], tracked)


def _variables(model: keras.Model) -> Iterator[keras.Variable]:
    """All variables that training changes, each once.

    They are weights, seed generators, and the variables of the optimizer and of the mean loss.
    """
    seen: set[int] = set()
    for variable in (
        *model.variables,
        *model.optimizer.variables,
        *loss_tracker(model).variables,
    ):
        if id(variable) not in seen:
            seen.add(id(variable))
            yield variable
