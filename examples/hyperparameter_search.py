"""Searches LiMAML's hyperparameters with Optuna, on validation AUC after fine-tuning.

Needs task records (``limaml prepare``) and ``pip install 'tfrec-limaml[search]'``. Run::

    python examples/hyperparameter_search.py runs/tasks --trials 20

The study is kept in a file, so that an interrupted search continues where it stopped, and several
processes can share it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import keras

try:
    import optuna
except ImportError:  # `--help` works without it
    optuna = None

from tfrec_limaml.training.data import EpochNumber, TrainingData
from tfrec_limaml.training.model_options import ModelOptions
from tfrec_limaml.training.options import TrainOptions
from tfrec_limaml.training.recipes import build_model, load_encoder


class ReportToOptuna(keras.callbacks.Callback):
    """Reports the validation AUC of every epoch to Optuna and stops trials that lag behind."""

    def __init__(self, trial: optuna.Trial) -> None:
        super().__init__()
        self.trial = trial
        self.best = 0.0

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Reports and prunes."""
        value = (logs or {})["val_auc"]
        self.best = max(self.best, value)
        self.trial.report(value, epoch)
        if self.trial.should_prune():
            raise optuna.TrialPruned


def objective(trial: optuna.Trial, tasks: Path, epochs: int) -> float:
    """Best validation AUC of one set of hyperparameters."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(1)
    encoder = load_encoder(tasks)
    options = ModelOptions.paper().replace(
        meta_units=(trial.suggest_categorical("meta_units", [32, 64, 128]),),
        embedding_dim=trial.suggest_categorical("embedding_dim", [16, 32, 64]),
        dropout=trial.suggest_float("dropout", 0.0, 0.4),
        inner_steps=trial.suggest_int("inner_steps", 1, 5),
        inner_learning_rate=trial.suggest_float("inner_learning_rate", 0.02, 1.0, log=True),
        unadapted_loss_weight=trial.suggest_float("unadapted_loss_weight", 0.0, 1.0),
    )
    model = build_model("limaml", encoder, options)
    rate = trial.suggest_float("learning_rate", 3e-4, 5e-3, log=True)
    model.compile(keras.optimizers.Adam(rate, global_clipnorm=1.0))
    data = TrainingData.of(tasks, encoder, TrainOptions())
    report = ReportToOptuna(trial)
    stopping = keras.callbacks.EarlyStopping("val_auc", mode="max", patience=2)
    callbacks = [EpochNumber(data.epoch), stopping, report]
    model.fit(
        data.training,
        validation_data=data.validation,
        epochs=epochs,
        callbacks=callbacks,
        verbose=0,
    )
    return report.best


def main() -> None:
    """Reads the command line and searches."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", type=Path, help="folder written by `limaml prepare`")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument(
        "--study", type=Path, default=Path("limaml_study.log"), help="where trials are kept"
    )
    args = parser.parse_args()
    if optuna is None:
        parser.error("Optuna is missing: pip install 'tfrec-limaml[search]'")
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(args.study))
    )
    study = optuna.create_study(
        study_name="limaml",
        storage=storage,
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_warmup_steps=2),
    )
    study.optimize(lambda trial: objective(trial, args.tasks, args.epochs), n_trials=args.trials)
    print(f"best validation AUC {study.best_value:.4f} with {study.best_params}")  # noqa: T201


if __name__ == "__main__":
    main()
