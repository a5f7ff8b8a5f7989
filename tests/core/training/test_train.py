"""What a model is trained on: episodes where the folder holds them, else the training records."""

from __future__ import annotations

import contextlib
import importlib
import math
import shutil
import types

import keras
import pytest
import tensorflow as tf
from evaluation_fixtures import SCHEMA
from toys import write_split

from tfrec_limaml.commands.train import COMMAND
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.tasks import record_format
from tfrec_limaml.training.data import TrainingData, _batch_size
from tfrec_limaml.training.fit import _validation_summary
from tfrec_limaml.training.lost_workers import TimeLimit
from tfrec_limaml.training.options import TrainOptions
from tfrec_limaml.training.recipes import load_encoder
from tfrec_limaml.training.train import train


@pytest.fixture
def with_episodes(tasks_folder, tmp_path):
    """The folder with two episodes of six members: all signals are 0 in one and 1 in the other."""
    folder = tmp_path / "tasks"
    shutil.copytree(tasks_folder, folder)
    for number in range(2):
        row = {"signal": float(number), "kind": 1, "timestamp": 0}
        rows = [row | {"label": float(k % 2)} for k in range(4)]
        records = [
            record_format.encode_task(SCHEMA, f"m{member}", rows, member % 4) for member in range(6)
        ]
        write_split(folder, "member", f"episode-{number}", records)
    return folder


def signals(dataset):
    """The distinct signals and the number of tasks of each batch."""
    return [
        (
            set(
                tf.boolean_mask(b["query"]["features"]["meta"], b["query"]["weight"] > 0).numpy()[
                    :, 0
                ]
            ),
            len(b["query"]["weight"]),
        )
        for b in dataset
    ]


def of_epoch(folder, options, size, number):
    """The batches of one epoch."""
    encoder = load_encoder(folder)
    data = TrainingData.of(folder, encoder, options.replace(batch_size=size))
    data.epoch.assign(number)
    return list(data.training)


def test_each_epoch_reads_one_episode_and_after_the_last_the_first_again(with_episodes):
    for epoch, signal in ((0, 0.0), (1, 1.0), (2, 0.0)):
        seen = signals(of_epoch(with_episodes, TrainOptions(), 4, epoch))
        assert [values for values, _ in seen] == [{signal}, {signal}]
        assert sum(tasks for _, tasks in seen) == 6


def test_the_split_of_an_episode_is_kept(with_episodes):
    (batch,) = of_epoch(with_episodes, TrainOptions(), 6, 0)
    support = tf.reduce_sum(tf.cast(batch["support"]["weight"] > 0, tf.int32), -1)
    assert sorted(support.numpy().tolist()) == [0, 0, 1, 1, 2, 3]


def test_training_records_are_read_where_episodes_are_not_wanted(with_episodes, tasks_folder):
    for folder, options in (
        (with_episodes, TrainOptions(use_episodes=False)),
        (tasks_folder, TrainOptions()),
    ):
        seen = signals(of_epoch(folder, options, 10, 1))
        assert sum(tasks for _, tasks in seen) == 55
        assert len(set().union(*(values for values, _ in seen))) > 10


def test_a_support_fraction_that_episodes_leave_without_effect_is_refused(with_episodes):
    options = TrainOptions(support_fraction=0.5)
    with pytest.raises(LimamlError, match=r"support_fraction 0.5 has no effect.*--no-episodes"):
        of_epoch(with_episodes, options, 10, 0)
    assert of_epoch(with_episodes, options.replace(use_episodes=False), 10, 0)


@pytest.mark.parametrize(
    ("batch_rows", "tasks", "rows", "size"),
    [(1024, 10, 320, 32), (1024, 10, 20, 128), (4096, 10, 20, 512), (1, 10, 320, 1)],
)
def test_a_batch_has_as_many_tasks_as_its_rows_allow(batch_rows, tasks, rows, size):
    assert _batch_size(TrainOptions(batch_rows=batch_rows), tasks, rows) == size
    assert _batch_size(TrainOptions(batch_rows=batch_rows, batch_size=7), tasks, rows) == 7


@pytest.mark.slow
@pytest.mark.usefixtures("no_graphs")
def test_training_goes_through_the_episodes(with_episodes):
    options = TrainOptions(epochs=3, batch_size=4, choose_strength=False).replace(
        meta_block="mlp", inner_steps=1, global_units=(4,), meta_units=(4,), embedding_dim=3
    )
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(float(logs["loss"]))
    )
    trained = train(with_episodes, options, callbacks=[watch])
    assert len(seen) == trained.result["epochs"] == 3
    assert int(trained.model.optimizer.iterations) == 3 * math.ceil(6 / 4)


@pytest.mark.slow
@pytest.mark.usefixtures("no_graphs")
def test_the_strength_is_chosen_for_the_model_that_is_kept_alone(with_episodes, monkeypatch):
    """Of several trainings, the one with the best validation score is finished."""
    module = importlib.import_module("tfrec_limaml.training.train")
    scores, finished = iter((0.7, 0.6)), []
    fit = module.fit_model

    def scored(*arguments):
        fitted = fit(*arguments)
        fitted.result["best_val_score"] = next(scores)
        return fitted

    def two(train_one, options, schema, checkpoints):
        fitted = [train_one(options.replace(seed=seed), checkpoints) for seed in (1, 2)]
        return max(fitted, key=lambda each: each.result["best_val_score"])

    def choose(model, validation, changed):
        finished.append(model)
        assert limits == ["paused"]  # the choice takes as long as it takes
        return {"adaptation_strength": 1.0}

    class Watched(TimeLimit):
        @contextlib.contextmanager
        def paused(self):
            with super().paused():
                limits.append("paused")
                yield
            limits.append("goes on")

    limits = []
    monkeypatch.setattr(module, "TimeLimit", Watched)
    monkeypatch.setattr(module, "fit_model", scored)
    monkeypatch.setattr(module, "best_on_validation", two)
    monkeypatch.setattr(module, "choose_adaptation_strength", choose)
    options = TrainOptions(epochs=1, batch_size=6).replace(
        meta_block="mlp", inner_steps=1, global_units=(4,), meta_units=(4,)
    )
    trained = train(with_episodes, options)
    assert finished == [trained.model]
    assert limits == ["paused", "goes on"]
    assert trained.result["total_seconds"] > trained.result["seconds"] > 0
    assert trained.result["options"]["seed"] == 1


@pytest.mark.slow
@pytest.mark.usefixtures("no_graphs")
def test_a_model_that_does_not_adapt_tasks_has_no_support_losses(tasks_folder):
    options = TrainOptions(algorithm="vanilla", epochs=1).replace(global_units=(4,))
    result = train(tasks_folder, options).result
    assert not [name for name in result if name.startswith(("support_loss", "adaptation"))]


@pytest.mark.slow
@pytest.mark.usefixtures("no_graphs")
def test_a_training_that_has_diverged_is_an_error_with_the_learning_rate(tasks_folder):
    class Diverge(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            weight = self.model.trainable_variables[-1]
            weight.assign(weight.value * float("nan"))

    options = TrainOptions(algorithm="vanilla", epochs=1, learning_rate=0.25)
    small = options.replace(global_units=(4,))
    with pytest.raises(LimamlError, match=r"has diverged.*lower learning_rate \(now 0\.25\)"):
        train(tasks_folder, small, callbacks=[Diverge()])


@pytest.mark.slow
@pytest.mark.usefixtures("no_graphs")
def test_the_learning_rate_falls_over_the_epochs_that_are_chosen_by_the_data(tasks_folder):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = True
            schedules.append(self.model.optimizer._learning_rate)  # the schedule itself

    schedules = []
    options = TrainOptions(algorithm="vanilla", choose_strength=False)
    small = options.replace(global_units=(4,), meta_units=(4,))
    result = train(tasks_folder, small, callbacks=[Stop()]).result
    batches = TrainingData.of(tasks_folder, load_encoder(tasks_folder), small).steps
    assert result["max_epochs"] == options.epochs_for(batches) == 50
    assert schedules[0].warmup_steps + schedules[0].decay_steps == 50 * batches


@pytest.mark.usefixtures("no_graphs")
def test_an_auc_of_one_class_is_not_reported_as_zero(tasks_folder, tmp_path):
    folder = tmp_path / "tasks"
    shutil.copytree(tasks_folder, folder)
    row = {"signal": 0.5, "kind": 1, "timestamp": 0, "label": 0.0}
    for file in (folder / "member").glob("validation-*"):
        file.unlink()
    records = [record_format.encode_task(SCHEMA, f"m{member}", [row] * 3, 1) for member in range(4)]
    write_split(folder, "member", "validation", records)
    options = TrainOptions(algorithm="vanilla", epochs=1)
    result = train(folder, options.replace(meta_units=(4,), global_units=(4,))).result
    assert result["best_val_auc"] is None
    text = COMMAND.render(result | {"model": "m"})
    assert "no validation AUC, because all validation labels are of one class" in text


def test_the_reported_auc_is_that_of_the_kept_epoch():
    curves = {"loss": [1.0] * 3, "val_auc": [0.6, 0.7, 0.8], "val_score": [0.6, 0.65, 0.62]}
    labels = types.SimpleNamespace(validation_labels=lambda: {0.0, 1.0})
    result = _validation_summary(curves, labels)
    assert (result["best_val_auc"], result["best_val_score"]) == (0.7, 0.65)
