"""A training that is killed and resumed ends with the weights of one that was left alone."""

from __future__ import annotations

import json
import signal
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from graphs import without_graphs

from tfrec_limaml.errors import LimamlError
from tfrec_limaml.training import variants
from tfrec_limaml.training.checkpoint_files import KEEP_FILES, Checkpoint, is_unfinished, newest
from tfrec_limaml.training.checkpoints import CheckpointOptions
from tfrec_limaml.training.identity import training_identity
from tfrec_limaml.training.options import TrainOptions
from tfrec_limaml.training.recipes import load_encoder
from tfrec_limaml.training.train import train

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("interrupted_training.py")


@pytest.fixture(scope="module")
def limaml_train(forks, tasks_folder):
    """``limaml_train(when, run, *arguments)`` trains in another process, whose sets and hashes have
    another order with another `hash_seed`; 28 batches, so 4 calls of the training function, per
    epoch.
    """

    def run_it(when, run, *arguments, hash_seed="0"):
        server = forks(PYTHONHASHSEED=hash_seed)
        return server.start(SCRIPT, when, tasks_folder, run, *arguments).wait(300)

    return run_it


def outcome(run):
    """Weights and learning curves of a run."""
    model = keras.models.load_model(run / "limaml.keras")
    curves = json.loads((run / "limaml.training.json").read_text())["history"]
    return model.get_weights(), curves


def assert_equal(one, other):
    for a, b in zip(one[0], other[0], strict=True):
        np.testing.assert_array_equal(a, b)
    assert one[1] == other[1]


@pytest.fixture(scope="module")
def undisturbed(limaml_train, tmp_path_factory):
    """Outcome of a training that was left alone."""
    run = tmp_path_factory.mktemp("undisturbed")
    done = limaml_train("never", run)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not list(run.glob("*.checkpoints"))
    return outcome(run)


@pytest.mark.parametrize(
    ("kills", "steps"),
    [
        # In the second epoch, after a checkpoint within it; then when half of a file is written.
        ((("batch:7", "0"), ("write:2", "1")), 8),
        # In the second epoch, from the checkpoint at its start. Not one batch is computed under
        # the hash seed of the undisturbed one: two processes with one seed make equal weights.
        ((("batch:6", "1"),), None),
    ],
)
def test_a_killed_training_resumes_to_the_weights_of_an_undisturbed_one(
    undisturbed, limaml_train, tmp_path, kills, steps
):
    """With the closed form; `test_distribution.py` kills a training with gradient steps."""
    arguments = [] if steps is None else ["--checkpoint-steps", str(steps)]
    for number, (when, hash_seed) in enumerate(kills):
        resume = ["--resume"] if number else []
        killed = limaml_train(when, tmp_path, *arguments, *resume, hash_seed=hash_seed)
        assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
        assert not (tmp_path / "limaml.keras").exists()
    done = limaml_train("never", tmp_path, *arguments, "--resume", hash_seed="1")
    assert done.returncode == 0, done.stderr[-2000:]
    assert_equal(outcome(tmp_path), undisturbed)


class _Stop(Exception):
    pass


class _StopAt(keras.callbacks.Callback):
    """Interrupts training when an epoch begins."""

    def __init__(self, epoch):
        super().__init__()
        self.at = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.at:
            raise _Stop


OPTIONS = TrainOptions(epochs=3, batch_size=6, choose_strength=False).replace(
    meta_block="mlp",
    inner_steps=1,
    meta_units=(4,),
    global_units=(8,),
    embedding_dim=3,
    projection_shrinkage=50.0,  # one model, however its curves look
)
#: Two batches per epoch.
FEW_STEPS = OPTIONS.replace(batch_size=32)


@pytest.fixture(scope="module")
def stopped(tasks_folder, tmp_path_factory):
    """Checkpoints of a training that stopped when its third epoch began; 10 batches, so 2 calls of
    the training function, per epoch.
    """
    folder = tmp_path_factory.mktemp("stopped")
    with without_graphs(), pytest.raises(_Stop):
        train(
            tasks_folder,
            OPTIONS,
            callbacks=[_StopAt(2)],
            checkpoints=CheckpointOptions(folder, steps=8),
        )
    return folder


def test_the_newest_checkpoint_and_the_one_before_it_are_kept(stopped):
    names = sorted(path.name for path in stopped.iterdir())
    assert len(names) == KEEP_FILES == 2
    assert names == [f"checkpoint-000001-{calls:09d}.npz" for calls in (1, 2)]


def _last_byte_of_an_array(path, content):
    """Position in the file: headers of a zip file hold bytes that mean nothing."""
    with zipfile.ZipFile(path) as file:
        largest = max(file.infolist(), key=lambda info: info.file_size)
    header = largest.header_offset
    lengths = [int.from_bytes(content[header + at : header + at + 2], "little") for at in (26, 28)]
    return header + 30 + sum(lengths) + largest.compress_size - 1


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty"])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(stopped, tmp_path, damage):
    before, last = sorted(stopped.iterdir())
    content = bytearray(last.read_bytes())
    if damage == "flipped":
        content[_last_byte_of_an_array(last, content)] ^= 1
    kept = {"flipped": content, "truncated": content[: len(content) // 2], "empty": b""}[damage]
    (tmp_path / last.name).write_bytes(kept)
    with pytest.warns(UserWarning, match="is damaged"), pytest.raises(LimamlError, match="all"):
        newest(tmp_path)
    (tmp_path / before.name).write_bytes(before.read_bytes())
    with pytest.warns(UserWarning, match=rf"{last.name} is damaged .*the previous one"):
        found = newest(tmp_path)
    assert (found.epoch, found.calls) == (1, 1)


def test_a_checkpoint_reads_back_as_it_was_written(stopped, tmp_path):
    found = newest(stopped)
    assert found.history["loss"]
    assert found.best
    found.write(tmp_path)
    again = Checkpoint.read(next(tmp_path.iterdir()))
    assert (again.history, again.stopping, again.logs) == (
        found.history,
        found.stopping,
        found.logs,
    )
    for a, b in zip(again.variables, found.variables, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"learning_rate": 0.5}, r"option learning_rate 0\.002, received 0\.5"),
        ({"dropout": 0.0}, r"option dropout 0\.3, received 0\.0"),
    ],
)
def test_a_checkpoint_of_other_options_is_refused_by_name(stopped, tasks_folder, change, said):
    with pytest.raises(LimamlError, match=said):
        train(
            tasks_folder,
            OPTIONS.replace(**change),
            checkpoints=CheckpointOptions(stopped, resume=True),
        )


@pytest.fixture(scope="module")
def train_to_the_end(tasks_folder, tmp_path_factory):
    """``train_to_the_end()``: what became of a training in one folder, and the epochs it began."""
    checkpoints = CheckpointOptions(tmp_path_factory.mktemp("finished"), resume=True)

    def train_it():
        calls = []
        count = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, _: calls.append(epoch))
        with without_graphs():
            done = train(tasks_folder, FEW_STEPS, callbacks=[count], checkpoints=checkpoints)
        return done, calls

    return train_it


@pytest.fixture(scope="module")
def finished(train_to_the_end):
    """A training that was left alone."""
    return train_to_the_end()


def test_a_finished_training_is_not_trained_again(finished, train_to_the_end, tasks_folder):
    (one, calls), (two, further_calls) = finished, train_to_the_end()
    identity = training_identity(tasks_folder, None, load_encoder(tasks_folder), FEW_STEPS)
    assert one.result["identity"] == two.result["identity"]
    assert {name: one.result["identity"].get(name) for name in identity} == identity
    assert (calls, further_calls) == ([0, 1, 2], [])
    assert one.result["history"] == two.result["history"]
    for a, b in zip(one.model.get_weights(), two.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.usefixtures("no_graphs")
def test_another_seed_makes_other_weights(finished, tasks_folder):
    other = train(tasks_folder, FEW_STEPS.replace(seed=2))
    pairs = zip(other.model.get_weights(), finished[0].model.get_weights(), strict=True)
    assert not all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.usefixtures("no_graphs")
def test_of_two_trainings_the_one_that_is_over_is_not_trained_again(
    tasks_folder, tmp_path, monkeypatch
):
    """With and without ID embeddings: the second one is interrupted."""
    monkeypatch.setattr(variants, "_has_id_history", lambda schema: True)
    options, begun = FEW_STEPS.replace(epochs=2), []

    def begin(epoch, logs):
        begun.append(epoch)
        if begun == [0, 1, 0, 1]:
            raise _Stop

    def trained(**arguments):
        watch = keras.callbacks.LambdaCallback(on_epoch_begin=begin)
        return train(tasks_folder, options, callbacks=[watch], **arguments).result

    checkpoints = CheckpointOptions(tmp_path, steps=8, resume=True)
    with pytest.raises(_Stop):
        trained(checkpoints=checkpoints)
    assert {path.name for path in tmp_path.iterdir()} == {"with_ids", "without_ids"}
    begun[:] = ["resumed"]
    resumed = trained(checkpoints=checkpoints)
    assert begun[1:] == [0, 1]  # nothing of the first; of the second what is behind its checkpoint
    whole = trained()
    assert resumed["val_score_by_id_embeddings"] == whole["val_score_by_id_embeddings"]
    assert resumed["history"] == whole["history"]


def test_an_interrupted_training_is_neither_forgotten_nor_overwritten_unasked(
    stopped, tasks_folder, tmp_path, capsys
):
    from tfrec_limaml.cli import main

    folder = tmp_path / "limaml.checkpoints"
    folder.mkdir()
    for path in stopped.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    assert is_unfinished(folder)
    assert main(["train", str(tasks_folder), "--output", str(tmp_path)]) == 2
    assert "holds an interrupted training run; pass --resume" in capsys.readouterr().err
    assert is_unfinished(folder)


def test_checkpoint_steps_must_be_positive(tmp_path):
    with pytest.raises(LimamlError, match="checkpoint steps must be at least 1, received 0"):
        CheckpointOptions(tmp_path, steps=0)
