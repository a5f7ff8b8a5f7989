"""Training again with the choices of an earlier run, without validation rows."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfrec_limaml.errors import LimamlError
from tfrec_limaml.tasks.feature_encoder import FeatureEncoder
from tfrec_limaml.training.model_options import ModelOptions
from tfrec_limaml.training.options import TrainOptions
from tfrec_limaml.training.trained import Trained


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chosen:
    """What a training run has chosen on its validation rows.

    Attributes:
        options: The options of the model that was kept. `epochs` is the maximum number, over which
            the learning rate falls.
        epochs: Number of the best epoch, from 1.
        adaptation_strength: The chosen strength.
        task: Task definition.
        nested: Further definitions that refine it.
        episodes: Number of episodes that the model was trained on; 0 for plain training records.
        fingerprint: Fingerprint of the schema.
    """

    options: TrainOptions
    epochs: int
    adaptation_strength: float
    task: str
    nested: tuple[str, ...]
    episodes: int
    fingerprint: str

    @classmethod
    def of(cls, run: Chosen | Trained | str | Path) -> Chosen:
        """Reads the choices of a training run.

        Args:
            run: The result of `train`, or the file ``<algorithm>.training.json`` that ``limaml
                train`` has written. Choices that were read before are returned.

        Raises:
            LimamlError: The file is missing or of an earlier version, or the run adapts two sides
                or was a refit itself.
        """
        if isinstance(run, Chosen):
            return run
        result = run.result if isinstance(run, Trained) else _read(Path(run))
        name = "the result" if isinstance(run, Trained) else str(run)
        if "refit" in result:
            raise LimamlError(
                f"{name} is of a run without validation rows, which chose nothing; refit the run "
                "that it repeats"
            )
        try:
            options = _options(result["options"])
            scores, identity = result["history"]["val_score"], result["identity"]
            task, *nested = identity["task definitions"]
            chosen = cls(
                options=options.replace(epochs=result["max_epochs"]),
                epochs=1 + scores.index(max(scores)),
                adaptation_strength=result.get("adaptation_strength", 1.0),
                task=task,
                nested=tuple(nested),
                episodes=result["episodes"],
                fingerprint=identity["schema fingerprint"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise LimamlError(
                f"{name} does not tell what the run chose: it is damaged, or of another "
                "version; train again with validation rows"
            ) from error
        if options.model.joint_task is not None:
            raise LimamlError(
                f"{name} is of a model of two definitions (joint_task "
                f"{options.model.joint_task!r}), which cannot be trained without validation rows"
            )
        return chosen

    def check(self, encoder: FeatureEncoder) -> None:
        """Raises `LimamlError` if task records have another schema."""
        fingerprint = encoder.schema.fingerprint()
        if fingerprint != self.fingerprint:
            raise LimamlError(
                f"the task records have the schema fingerprint {fingerprint}, those of the "
                f"run to refit {self.fingerprint}; build both with the same schema"
            )

    def check_episodes(self, episodes: int) -> None:
        """Raises `LimamlError` if the task records have another number of episodes."""
        if episodes != self.episodes:
            raise LimamlError(
                f"the run to refit has read {self.episodes} episodes, these task records have "
                f"{episodes}; build them with limaml prepare --episodes {self.episodes}"
            )

    def identity(self) -> dict[str, Any]:
        """What determines the weights beside the options, by name."""
        return {"refit epochs": self.epochs, "refit strength": self.adaptation_strength}


def _read(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LimamlError(
            f"there is no {path}; name a folder that `limaml train` has written, with the same "
            "--algorithm"
        ) from error
    except (OSError, ValueError) as error:
        raise LimamlError(f"cannot read {path}: {error}") from error
    if not isinstance(result, dict):
        raise LimamlError(f"{path} holds no result of a training run")
    return result


def _options(values: Mapping[str, Any]) -> TrainOptions:
    model = ModelOptions(**_with_tuples(values["model"]))
    return TrainOptions(**{**_with_tuples(values), "model": model})


def _with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has lists for tuples."""
    return {n: tuple(value) if isinstance(value, list) else value for n, value in values.items()}
