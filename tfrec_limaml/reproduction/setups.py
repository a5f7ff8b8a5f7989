"""A setup: a trained model and the form in which it is scored."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from typing import Any, Literal

import keras
import tensorflow as tf

from tfrec_limaml.arrays import Floats
from tfrec_limaml.choices import Pooling
from tfrec_limaml.comparison.networks import in_order_of
from tfrec_limaml.comparison.rivals import Data, Outcome
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.evaluation import served_rows
from tfrec_limaml.evaluation.metrics import auc
from tfrec_limaml.models import LiMAML, TaskModel
from tfrec_limaml.schema.columns import DAY_MS
from tfrec_limaml.tasks.batch_sizes import SCORED_TASKS
from tfrec_limaml.tasks.input_pipeline import task_dataset
from tfrec_limaml.training.options import TrainOptions
from tfrec_limaml.training.train import train
from tfrec_limaml.training.trained import Trained

#: How a model is scored: before adaptation, with the stored embeddings, or with the adapted
#: weights, which cannot be stored.
Form = Literal["unadapted", "served", "in_place"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
    """The options of one training run, and the form in which the model is scored.

    Attributes:
        options: The recipe.
        form: How test rows are scored.
        task: Task definition; None for the schema's first.
        pooling: Pooling of the scored embeddings; None for that of the recipe.
        days_old: Age of the embeddings at the start of the test rows: they do not include later
            samples.
        replicas: Devices that share each batch; see `replicas_of`.
    """

    options: TrainOptions
    form: Form = "served"
    task: str | None = None
    pooling: Pooling | None = None
    days_old: float = 0.0
    replicas: int = 1

    @property
    def name(self) -> str:
        """A name that equal setups share; runs are kept under it."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return f"{self.options.algorithm}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


class Trainer:
    """Trains and scores setups; consecutive setups with the same training share a model."""

    def __init__(self) -> None:
        self._key: Any = None
        self._trained: Trained | None = None
        self._seconds = 0.0

    def run(self, setup: Setup, data: Data, seed: int) -> Outcome:
        """One run: a rival for `tfrec_limaml.comparison.run.run_all`."""
        trained = self._train(setup, data, seed)
        validation = _scores(trained.model, setup, data, "validation")
        return Outcome(
            _scores(trained.model, setup, data, "test"),
            auc(data.validation.label, validation),
            settings={
                "epochs": trained.result["epochs"],
                "epoch_seconds": round(self._seconds, 4),
                "adaptation_strength": trained.model.adaptation_strength,
            },
            served_form=setup.form != "in_place",
        )

    def _train(self, setup: Setup, data: Data, seed: int) -> Trained:
        options = setup.options.replace(seed=seed)
        if data.epochs is not None:
            options = options.replace(epochs=min(data.epochs, options.epochs or data.epochs))
        key = (data.tasks, setup.task, options, setup.replicas)
        if self._trained is None or self._key != key:
            keras.utils.clear_session()
            clock = _EpochClock()
            self._trained = train(
                data.tasks,
                options,
                task=setup.task,
                callbacks=[clock],
                strategy=replicas_of(setup.replicas),
            )
            self._key, self._seconds = key, clock.seconds()
        return self._trained


def make_cpu_devices(count: int) -> None:
    """Splits the processor into logical devices.

    Must be called before any other use of TensorFlow.
    """
    cpu = tf.config.list_physical_devices("CPU")[0]
    devices = [tf.config.LogicalDeviceConfiguration()] * count
    tf.config.set_logical_device_configuration(cpu, devices)


def replicas_of(count: int) -> tf.distribute.Strategy | None:
    """A strategy with `count` replicas; None for one.

    They are GPUs if there are enough. Otherwise they are logical devices of the processor, which
    share its cores: such replicas show that the result is the same, and the cost of summing
    gradients, not how much faster several devices are.

    Raises:
        LimamlError: There are too few devices.
    """
    if count == 1:
        return None
    for kind in ("GPU", "CPU"):
        devices = tf.config.list_logical_devices(kind)
        if len(devices) >= count:
            return tf.distribute.MirroredStrategy([device.name for device in devices[:count]])
    raise LimamlError(
        f"{count} replicas need as many GPUs, or as many logical devices of the processor: call "
        f"make_cpu_devices({count}) before TensorFlow is used"
    )


class _EpochClock(keras.callbacks.Callback):
    """Measures the training part of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self._durations: list[float] = []
        self._started = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._started = time.perf_counter()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._durations.append(time.perf_counter() - self._started)

    def seconds(self) -> float:
        """Seconds of the fastest epoch: the first one includes the tracing of graphs."""
        return min(self._durations)


def _scores(model: TaskModel, setup: Setup, data: Data, split: str) -> Floats:
    """Probabilities of a split's rows in the order of the files."""
    dataset = task_dataset(
        data.pattern(split),
        model.encoder,
        SCORED_TASKS,
        with_keys=True,
        in_order=False,
        by_rows=True,
    )
    rows = getattr(data, split)
    if setup.days_old:
        dataset = _without_newest(dataset, int(rows.timestamp.min() - setup.days_old * DAY_MS))
    if setup.form == "served" and isinstance(model, LiMAML):
        pooling, model.pooling = model.pooling, setup.pooling or model.pooling
        try:
            result = served_rows(model, dataset)
        finally:
            model.pooling = pooling
    else:
        fine_tune, model.fine_tune = model.fine_tune, setup.form != "unadapted"
        try:
            result = model.predict(dataset, verbose=0)
        finally:
            model.fine_tune = fine_tune
    return in_order_of(rows, result, split)


def _without_newest(dataset: tf.data.Dataset, end: int) -> tf.data.Dataset:
    """Sets the weights of support samples from `end` (milliseconds) on to 0."""

    @tf.autograph.experimental.do_not_convert
    def drop(batch: dict[str, Any]) -> dict[str, Any]:
        support = batch["support"]
        keep_mask = tf.cast(support["timestamp"] < end, support["weight"].dtype)
        return {**batch, "support": {**support, "weight": support["weight"] * keep_mask}}

    return dataset.map(drop)
