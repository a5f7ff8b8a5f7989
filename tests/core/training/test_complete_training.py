"""``limaml train --resume`` where a training is complete."""

import json
import shutil

import pytest

from tfrec_limaml.cli import main
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.training import train as training
from tfrec_limaml.training.identity import training_identity
from tfrec_limaml.training.options import TrainOptions
from tfrec_limaml.training.recipes import load_encoder

RESULT = {
    "algorithm": "limaml",
    "epochs": 1,
    "seconds": 1.0,
    "best_val_auc": 0.7,
    "model": "run/limaml.keras",
}


@pytest.fixture
def run(tasks_folder, tmp_path):
    """Folder of a complete training with the default options; the model's content is made up."""
    identity = training_identity(tasks_folder, None, load_encoder(tasks_folder), TrainOptions())
    # Trained on two workers: with fewer, the training is as complete.
    result = RESULT | {"identity": {**identity, "number of workers": 2}}
    (tmp_path / "limaml.keras").write_bytes(b"a model")
    (tmp_path / "limaml.training.json").write_text(json.dumps(result))
    return tmp_path


def contents(run):
    return {path.name: path.read_bytes() for path in run.iterdir()}


def test_resuming_a_complete_training_reports_its_result_and_changes_nothing(
    tasks_folder, run, capsys
):
    before = contents(run)
    with pytest.warns(UserWarning, match="limaml.keras is complete: there is nothing to resume"):
        assert main(["train", str(tasks_folder), "--output", str(run), "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(before["limaml.training.json"])
    assert contents(run) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "limaml.keras exists; pass --overwrite"),
        (["--resume", "--seed", "5"], "belongs to a training run with option seed 1, received 5"),
    ],
)
def test_a_complete_training_is_not_taken_for_another_one(
    tasks_folder, run, capsys, arguments, message
):
    before = contents(run)
    assert main(["train", str(tasks_folder), "--output", str(run), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert contents(run) == before


def test_a_complete_training_on_other_records_is_not_taken_for_one_on_these(
    tasks_folder, run, tmp_path, capsys
):
    folder = tmp_path / "tasks"
    shutil.copytree(tasks_folder, folder)
    arguments = ["train", str(folder), "--output", str(run), "--resume", "--task", "member"]
    with pytest.warns(UserWarning, match="is complete"):
        assert main(arguments) == 0
    file = next((folder / "member").glob("validation-*"))
    file.write_bytes(file.read_bytes()[:-1])
    assert main(arguments) == 2
    assert "training run with digest of the record files" in capsys.readouterr().err


def test_a_run_whose_checkpoints_are_still_there_is_not_complete(
    tasks_folder, run, capsys, monkeypatch
):
    """It was killed after it wrote the model: the next one continues from the last checkpoint."""

    def resume(*arguments, checkpoints, **options):
        raise LimamlError(f"resumes {checkpoints.resume}")

    (run / "limaml.checkpoints").mkdir()
    (run / "limaml.checkpoints" / "checkpoint-000008-000000000.npz").write_bytes(b"the last one")
    monkeypatch.setattr(training, "train", resume)
    assert main(["train", str(tasks_folder), "--output", str(run), "--resume"]) == 2
    assert "resumes True" in capsys.readouterr().err


def test_a_model_without_a_record_of_its_options_is_not_taken_for_complete(
    tasks_folder, run, capsys
):
    (run / "limaml.training.json").write_text(json.dumps(RESULT))
    assert main(["train", str(tasks_folder), "--output", str(run), "--resume"]) == 2
    assert "does not tell how it was trained; pass --overwrite" in capsys.readouterr().err
