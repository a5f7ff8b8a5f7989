"""Which of the settings that are left open are tried, and which model is kept."""

from pathlib import Path

import pytest

from tfrec_limaml.schema.schema import Feature, History, Label, Schema
from tfrec_limaml.training.checkpoints import CheckpointOptions
from tfrec_limaml.training.options import TrainOptions
from tfrec_limaml.training.trained import Trained
from tfrec_limaml.training.variants import (
    STRONG_SHRINKAGE,
    best_as_served,
    best_on_validation,
)

RISING = {"val_auc": [0.70, 0.72, 0.73], "val_unadapted_auc": [0.68, 0.69, 0.69]}
#: The model gets worse with and without adaptation alike.
BOTH_FALL = {"val_auc": [0.73, 0.71, 0.70], "val_unadapted_auc": [0.69, 0.67, 0.66]}
#: The last epoch alone: that may be chance.
ONCE = {"val_auc": [0.70, 0.73, 0.72], "val_unadapted_auc": [0.68, 0.69, 0.69]}
GAIN_FALLS = {"val_auc": [0.73, 0.72, 0.72], "val_unadapted_auc": [0.69, 0.69, 0.69]}


def schema(history=(), item_width=2):
    return Schema(
        name="s",
        label=Label(name="y"),
        timestamp="t",
        tasks={"user": ("u",)},
        features=(
            Feature(
                name="item", dtype="int64", encoding="hash", buckets=9, embedding_width=item_width
            ),
            Feature(name="age", role="meta"),
        ),
        history=tuple(History(keys=keys) for keys in history),
    )


class Trainer:
    """Stands for training: curves and score by (IDs, projection shrinkage)."""

    def __init__(self, outcomes):
        self.outcomes, self.asked = outcomes, []

    def __call__(self, options, checkpoints):
        choice = options.model.id_embeddings, options.model.projection_shrinkage
        self.asked.append((choice, checkpoints and checkpoints.folder))
        curves, score = self.outcomes[choice]
        return Trained(None, {"history": curves, "best_val_score": score, "choice": choice})


@pytest.mark.parametrize(
    ("curves", "options", "tried"),
    [
        (RISING, TrainOptions(), 1),
        (BOTH_FALL, TrainOptions(), 1),
        (ONCE, TrainOptions(), 1),
        (GAIN_FALLS, TrainOptions(), 2),
        (GAIN_FALLS, TrainOptions().replace(projection_shrinkage=7.0), 1),
        (GAIN_FALLS, TrainOptions().replace(id_embeddings=False), 1),
        (GAIN_FALLS, TrainOptions().replace(global_block="mlp"), 1),
        (GAIN_FALLS, TrainOptions(algorithm="vanilla"), 1),
        ({"val_auc": GAIN_FALLS["val_auc"]}, TrainOptions(), 1),
    ],
)
def test_a_strong_shrinkage_is_tried_where_the_gain_of_adaptation_falls(curves, options, tried):
    model = options.model
    train = Trainer(
        {
            (model.id_embeddings, model.projection_shrinkage): (curves, 0.70),
            (model.id_embeddings, STRONG_SHRINKAGE): (RISING, 0.71),
        }
    )
    best = best_on_validation(train, options, schema(), None)
    assert len(train.asked) == tried
    assert best.result["best_val_score"] == (0.71 if tried == 2 else 0.70)
    assert ("val_score_by_projection_shrinkage" in best.result) == (tried == 2)


def test_the_usual_shrinkage_is_kept_where_the_strong_one_is_no_better():
    train = Trainer({(None, None): (GAIN_FALLS, 0.7), (None, STRONG_SHRINKAGE): (RISING, 0.7)})
    best = best_on_validation(train, TrainOptions(), schema(), None)
    assert best.result["choice"] == (None, None)
    assert best.result["val_score_by_projection_shrinkage"] == {"usual": 0.7, "strong": 0.7}


def test_without_embedded_ids_there_is_no_projection_to_shrink():
    train = Trainer({(None, None): (GAIN_FALLS, 0.7), (None, STRONG_SHRINKAGE): (RISING, 0.71)})
    best = best_on_validation(train, TrainOptions(), schema(item_width=None), None)
    assert best.result["choice"] == (None, None)
    assert "val_score_by_projection_shrinkage" not in best.result


@pytest.mark.parametrize(
    ("with_ids", "strong", "without", "kept"),
    [
        (0.72, 0.71, 0.70, (True, None)),
        (0.70, 0.72, 0.71, (True, STRONG_SHRINKAGE)),
        (0.70, 0.71, 0.72, (False, None)),
    ],
)
def test_where_history_tells_of_an_id_training_without_ids_is_tried_too(
    with_ids, strong, without, kept
):
    train = Trainer(
        {
            (True, None): (GAIN_FALLS, with_ids),
            (True, STRONG_SHRINKAGE): (RISING, strong),
            (False, None): (GAIN_FALLS, without),
        }
    )
    with_history = schema(history=[("item",)])
    best = best_on_validation(train, TrainOptions(), with_history, CheckpointOptions(Path("c")))
    assert best.result["choice"] == kept
    assert best.result["val_score_by_id_embeddings"] == {
        "with": max(with_ids, strong),
        "without": without,
    }
    assert train.asked == [
        ((True, None), Path("c/with_ids")),
        ((True, STRONG_SHRINKAGE), Path("c/with_ids/strong_shrinkage")),
        ((False, None), Path("c/without_ids")),
    ]


def served(by_strength, strength):
    return Trained(None, {"val_auc_by_strength": by_strength, "adaptation_strength": strength})


@pytest.mark.parametrize(
    ("other", "kept"),
    [
        (served({"0.25": 0.73, "1": 0.70}, 0.25), "30"),
        (served({"0": 0.71, "1": 0.73}, 1.0), "30"),
        (served({"0": 0.69, "1": 0.70}, 1.0), "1"),
    ],
)
def test_where_less_adaptation_is_better_a_large_prior_precision_is_tried(other, kept):
    models = {None: served({"0": 0.71, "0.5": 0.72, "1": 0.70}, 0.5), 30.0: other}
    asked = []

    def train(options, checkpoints):
        precision = options.model.prior_precision
        asked.append((precision, checkpoints.folder))
        return models[precision]

    best = best_as_served(train, TrainOptions(), CheckpointOptions(Path("c")), float)
    assert best is models[None if kept == "1" else 30.0]
    scores = best.result["val_auc_by_prior_precision"]
    assert max(scores, key=lambda precision: scores[precision]) == kept
    assert asked == [(None, Path("c")), (30.0, Path("c/large_precision"))]


@pytest.mark.parametrize(("largest", "kept"), [(0.74, 1000.0), (0.725, 30.0)])
def test_where_no_adaptation_is_best_the_largest_prior_precision_is_tried_too(largest, kept):
    models = {
        None: served({"0": 0.71, "0.5": 0.72, "1": 0.70}, 0.5),
        30.0: served({"0": 0.73, "1": 0.72}, 0.0),
        1000.0: served({"0": largest, "1": 0.70}, 0.0),
    }
    asked = []

    def train(options, checkpoints):
        asked.append(checkpoints.folder)
        return models[options.model.prior_precision]

    best = best_as_served(train, TrainOptions(), CheckpointOptions(Path("c")), float)
    assert best is models[kept]
    assert best.result["val_auc_by_prior_precision"] == {"1": 0.72, "30": 0.73, "1000": largest}
    assert asked == [Path("c"), Path("c/large_precision"), Path("c/largest_precision")]


@pytest.mark.parametrize(
    ("options", "model", "of_chief"),
    [
        (TrainOptions(), served({"0": 0.70, "1": 0.71}, 1.0), None),
        (TrainOptions(), Trained(None, {}), None),  # does not adapt
        (TrainOptions().replace(prior_precision=1.0), served({"0": 0.7}, 0.0), None),
        (TrainOptions.paper(), served({"0": 0.7}, 0.0), None),  # gradient steps
        (TrainOptions().replace(prior="encoder", inner_steps=0), served({"0": 0.7}, 0.0), None),
        (TrainOptions(), served({"0": 0.7}, 0.0), 1.0),  # the first worker has the say
    ],
)
def test_otherwise_one_model_is_trained(options, model, of_chief):
    calls = []

    def train(options, checkpoints):
        calls.append(options)
        return model

    def agree(strength):
        return strength if of_chief is None else of_chief

    assert best_as_served(train, options, None, agree) is model
    assert calls == [options]


def test_the_command_says_what_was_tried():
    from tfrec_limaml.commands.train import COMMAND

    result = {
        **{"algorithm": "limaml", "epochs": 3, "seconds": 1.0, "best_val_auc": 0.75},
        **{"model": "m", "support_loss_before": 0.6, "support_loss_after": 0.5},
        "total_seconds": 4.0,
        "val_score_by_id_embeddings": {"with": 0.7312, "without": 0.74},
        "val_auc_by_prior_precision": {"1": 0.739, "30": 0.7436},
    }
    text = COMMAND.render(result)
    assert "limaml: 3 epochs in 1 s (4 s for all models that were tried)" in text
    assert "tried on the validation tasks, ID embeddings: with 0.7312, without 0.7400" in text
    assert "initial prior precision: 1 0.7390, 30 0.7436" in text
    assert "shrinkage" not in text
    assert "fine-tuning changed the support loss of validation tasks from 0.6000 to 0.5000" in text
    del result["support_loss_before"], result["support_loss_after"]
    assert "fine-tuning" not in COMMAND.render(result)


@pytest.mark.parametrize(
    ("strength", "said"),
    [
        (1.0, "validation AUC 0.7500; model at m\n"),
        (0.25, "validation AUC 0.7500 (0.7600 with the adaptation strength 0.25, as saved)"),
        (0.0, "adaptation strength 0 (adapting lowers the AUC of the validation tasks: the model"),
    ],
)
def test_the_command_names_the_auc_of_the_strength_that_is_saved(strength, said):
    from tfrec_limaml.commands.train import COMMAND

    result = {
        **{"algorithm": "limaml", "epochs": 3, "seconds": 1.0, "best_val_auc": 0.75},
        **{"model": "m", "support_loss_before": 0.6, "support_loss_after": 0.5},
        "adaptation_strength": strength,
        "val_auc_by_strength": {"0": 0.77, "0.25": 0.76, "1": 0.75},
    }
    assert said in COMMAND.render(result)
