"""Training without validation rows, with the choices of an earlier training."""

from __future__ import annotations

import json
import shutil

import keras
import numpy as np
import pytest
from graphs import without_graphs
from toys import write_split

from tfrec_limaml.cli import main
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.training.checkpoints import CheckpointOptions
from tfrec_limaml.training.options import TrainOptions
from tfrec_limaml.training.refit import Chosen
from tfrec_limaml.training.train import train
from tfrec_limaml.training.trained import Trained

pytestmark = pytest.mark.slow

OPTIONS = TrainOptions(
    epochs=5, patience=1, batch_size=8, learning_rate=0.05, choose_strength=False
).replace(
    meta_units=(4,),
    global_units=(8,),
    embedding_dim=3,
    prior_precision=3.0,
    projection_shrinkage=50.0,  # one model, however its curves look
)


@pytest.fixture(scope="module")
def trained(tasks_folder):
    """An earlier training, as if it had chosen a strength."""
    with without_graphs():
        made = train(tasks_folder, OPTIONS)
    return Trained(made.model, {**made.result, "adaptation_strength": 0.5})


@pytest.fixture(scope="module")
def without_validation(tasks_folder, tmp_path_factory):
    """The training records alone."""
    folder = tmp_path_factory.mktemp("all") / "tasks"
    shutil.copytree(tasks_folder, folder, ignore=shutil.ignore_patterns("validation-*", "test-*"))
    for split in ("validation", "test"):
        write_split(folder, "member", split, [])
    return folder


@pytest.fixture(scope="module")
def refitted(trained, without_validation):
    with without_graphs():
        return train(without_validation, refit=trained)


def assert_same_weights(one, other):
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_on_the_same_training_rows_it_makes_the_model_that_was_kept(trained, refitted):
    scores = trained.result["history"]["val_score"]
    best = 1 + scores.index(max(scores))
    assert best < trained.result["epochs"]  # the kept epoch is not the last one
    assert refitted.result["epochs"] == best
    assert_same_weights(refitted.model, trained.model)
    assert refitted.result["adaptation_strength"] == refitted.model.adaptation_strength == 0.5
    assert not [name for name in refitted.result["history"] if name.startswith("val_")]


def test_the_choices_come_from_the_model_that_was_kept(trained):
    result = json.loads(json.dumps(trained.result))  # as in the file
    result["options"]["model"]["projection_shrinkage"] = 3000.0
    chosen = Chosen.of(Trained(None, result))
    expected = OPTIONS.replace(projection_shrinkage=3000.0)
    assert chosen.options == expected
    assert (chosen.adaptation_strength, chosen.task, chosen.nested) == (0.5, "member", ())


def test_of_epochs_with_equal_scores_the_first_was_kept(trained):
    history = {**trained.result["history"], "val_score": [0.5, 0.7, 0.6, 0.7, 0.7]}
    assert Chosen.of(Trained(None, {**trained.result, "history": history})).epochs == 2


def test_a_training_without_a_chosen_strength_adapts_fully(trained):
    result = {n: v for n, v in trained.result.items() if n != "adaptation_strength"}
    assert Chosen.of(Trained(None, result)).adaptation_strength == 1.0


@pytest.mark.usefixtures("no_graphs")
def test_a_refit_that_is_interrupted_resumes_to_the_same_weights(
    trained, refitted, without_validation, tmp_path
):
    class Stop(Exception):
        pass

    def stop(epoch, logs):
        if epoch == refitted.result["epochs"] - 1:
            raise Stop

    callbacks = [keras.callbacks.LambdaCallback(on_epoch_begin=stop)]
    checkpoints = CheckpointOptions(tmp_path, steps=8)
    with pytest.raises(Stop):
        train(without_validation, refit=trained, callbacks=callbacks, checkpoints=checkpoints)
    checkpoints = CheckpointOptions(tmp_path, resume=True)
    resumed = train(without_validation, refit=trained, checkpoints=checkpoints)
    assert_same_weights(resumed.model, refitted.model)
    assert resumed.result["history"] == refitted.result["history"]
    other = Trained(None, {**trained.result, "adaptation_strength": 0.75})
    with pytest.raises(LimamlError, match="belongs to a training run with refit strength"):
        train(without_validation, refit=other, checkpoints=checkpoints)


def test_without_validation_rows_nothing_can_be_chosen(without_validation):
    with pytest.raises(LimamlError, match=r"has no validation rows: choose .* --refit RUN"):
        train(without_validation, OPTIONS)


def test_records_without_the_rows_that_a_command_needs_are_refused(
    refitted, without_validation, tmp_path, capsys
):
    refitted.model.save(tmp_path / "limaml.keras")
    assert main(["evaluate", str(without_validation), "--run", str(tmp_path)]) == 2
    assert "hold no task: this split has no rows" in capsys.readouterr().err
    compare = ["compare", str(without_validation), "--output", str(tmp_path / "c"), "--seeds", "1"]
    assert main([*compare, "--rivals", "constant"]) == 2
    assert "needs training, validation and test rows; build them" in capsys.readouterr().err


def test_what_cannot_be_refitted_is_refused(trained, refitted, tasks_folder, tmp_path):
    with pytest.raises(LimamlError, match="takes options, task and nested from the earlier run"):
        train(tasks_folder, OPTIONS, refit=trained)
    with pytest.raises(LimamlError, match="without validation rows, which chose nothing"):
        train(tasks_folder, refit=refitted)
    identity = {**trained.result["identity"], "schema fingerprint": "0123"}
    other = Trained(None, {**trained.result, "identity": identity})
    with pytest.raises(LimamlError, match=r"fingerprint .* run to refit 0123; build"):
        train(tasks_folder, refit=other)
    with pytest.raises(LimamlError, match=r"has read 24 episodes, .* have 0; .*--episodes 24"):
        train(tasks_folder, refit=Trained(None, {**trained.result, "episodes": 24}))
    two_sides = json.loads(json.dumps(trained.result))
    two_sides["options"]["model"]["joint_task"] = "item"
    with pytest.raises(LimamlError, match=r"two definitions .*'item'.* cannot be trained without"):
        Chosen.of(Trained(None, two_sides))
    for content, message in [("{", "cannot read"), ("[]", "no result"), ("{}", "does not tell")]:
        file = tmp_path / "limaml.training.json"
        file.write_text(content)
        with pytest.raises(LimamlError, match=message):
            Chosen.of(file)


@pytest.mark.usefixtures("no_graphs")
def test_the_command_refits_a_run_and_takes_no_other_settings(
    trained, refitted, without_validation, tmp_path, run_limaml, capsys
):
    run, final = tmp_path / "run", tmp_path / "final"
    run.mkdir()
    (run / "limaml.training.json").write_text(json.dumps(trained.result))
    command = ["train", without_validation, "--output", final, "--refit", run]
    result = run_limaml(*command)
    assert result["epochs"] == refitted.result["epochs"]
    assert_same_weights(keras.models.load_model(final / "limaml.keras"), refitted.model)
    with pytest.warns(UserWarning, match="is complete: there is nothing to resume"):
        assert run_limaml(*command, "--resume")["identity"] == result["identity"]
    line = [*map(str, command), "--overwrite", "--seed", "2", "--no-decay", "--task", "member"]
    assert main(line) == 2
    assert "leave out --no-decay, --seed, --task" in capsys.readouterr().err
    assert main([*map(str, command), "--overwrite", "--algorithm", "vanilla"]) == 2
    assert "vanilla.training.json; name a folder that `limaml train` has" in capsys.readouterr().err


def test_the_command_says_that_it_used_the_settings_of_an_earlier_run():
    from tfrec_limaml.commands.train import COMMAND

    result = {"algorithm": "limaml", "refit": True, "epochs": 3, "seconds": 2.0, "model": "m"}
    expected = "limaml: 3 epochs in 2 s, with the settings of an earlier run; model at m"
    assert COMMAND.render(result) == expected
