"""One set of defaults, a preset for the paper's recipe, and the command line on top."""

from __future__ import annotations

import argparse
import math

import pytest

from tfrec_limaml.commands.train_arguments import add_arguments, options_from
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.training.model_options import ModelOptions
from tfrec_limaml.training.options import TrainOptions, recipe


def _parsed(*flags):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return options_from(parser.parse_args(["tasks", "--output", "run", *flags]))


def test_the_command_line_without_flags_trains_with_the_defaults_of_python():
    assert _parsed() == TrainOptions()
    assert _parsed("--recipe", "paper") == TrainOptions.paper() == recipe("paper")


def test_flags_change_what_they_name_and_nothing_else():
    actual = _parsed(
        "--epochs", "3", "--embedding-dim", "9", "--no-ids", "--support-fraction", "0.5"
    )
    assert actual == TrainOptions().replace(
        epochs=3, embedding_dim=9, id_embeddings=False, support_fraction=0.5
    )


def test_steps_and_adaptation_follow_the_meta_block_where_they_are_left_open():
    assert ModelOptions().chosen_adaptation == "gauss-newton"
    assert ModelOptions().chosen_inner_steps == 2
    mlp = ModelOptions(meta_block="mlp")
    assert (mlp.chosen_adaptation, mlp.chosen_inner_steps) == ("gradient", 3)


@pytest.mark.parametrize(
    ("batches", "epochs"), [(1, 50), (8, 50), (11, 37), (50, 8), (58, 8), (10_000, 8)]
)
def test_small_data_are_trained_on_for_more_epochs(batches, epochs):
    options = TrainOptions()
    assert options.epochs_for(batches) == epochs
    assert options.replace(epochs=3).epochs_for(batches) == 3


def test_the_papers_recipe_takes_one_gradient_step_on_the_query_loss_alone():
    paper = TrainOptions.paper()
    assert paper.model.chosen_adaptation == "gradient"
    assert (paper.model.inner_steps, paper.model.unadapted_loss_weight) == (1, 0.0)
    assert paper.support_fraction == 0.75


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"meta_block": "lstm"}, r"meta_block must be one of .*received 'lstm'"),
        ({"algorithm": "reptile"}, r"algorithm must be one of .*received 'reptile'"),
        ({"epochs": 0}, "epochs must be at least 1, received 0"),
        ({"average_weights": 1.0}, "average_weights must be .*received 1.0"),
        (
            {"adaptation": "gauss-newton", "meta_block": "mlp"},
            "'gauss-newton' needs the meta_block 'offset', received 'mlp'",
        ),
        ({"support_reduction": "median"}, "support_reduction must be one of .*received 'median'"),
        ({"support_reduction": "sum"}, "support_reduction 'sum' is for gradient steps; the closed"),
        ({"embedding_dim": 1}, "embedding_dim must be at least 2, received 1"),
        ({"embedding_dim": 0, "global_block": "mlp"}, "embedding_dim must be at least 1"),
        ({"inner_steps": -1}, "inner_steps must be at least 0, received -1"),
        ({"inner_learning_rate": math.nan}, "inner_learning_rate must be at least 0, received nan"),
        ({"dropout": 1.0}, "dropout must be less than 1, received 1.0"),
        ({"prior_precision": 0.0}, "prior_precision must be positive, received 0.0"),
        ({"prior_precision": 1e6}, "prior_precision must be between 0.00034 and 2980, received"),
        ({"meta_units": (8, 0)}, r"meta_units must be at least 1 each, received \(8, 0\)"),
        ({"global_units": ()}, "global_units needs at least one width"),
        ({"global_units": (), "global_block": "dcn"}, "global_units needs at least one width"),
        ({"averaging": "row"}, r"averaging must be one of .*received 'row'"),
        ({"pooling": "sum"}, r"pooling must be one of .*received 'sum'"),
        ({"projection_shrinkage": -5.0}, "projection_shrinkage must be at least 0, received -5.0"),
        ({"batch_size": 0}, "batch_size must be at least 1, received 0"),
        ({"patience": -1}, "patience must be at least 0, received -1"),
        ({"learning_rate": -1e-3}, "learning_rate must be positive, received -0.001"),
        ({"support_fraction": 2.0}, "support_fraction must lie between 0 and 1, .* received 2.0"),
        ({"seed": -1}, "seed must be at least 0, received -1"),
        ({"seed": 2**32}, r"seed must be less than 2\*\*32, received 4294967296"),
        ({"epochs": 1.5}, r"epochs must be a whole number, received 1\.5"),
        ({"inner_steps": 1.5}, r"inner_steps must be a whole number, received 1\.5"),
        (
            {"first_order": True, "second_order_steps": 1},
            "first_order leaves no second-order steps, received second_order_steps 1",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(changes, said):
    with pytest.raises(LimamlError, match=said):
        TrainOptions().replace(**changes)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--first-order"], "closed form, which does not read --first-order"),
        (["--recipe=paper", "--meta-block=offset", "--inner-learning-rate=0.2"], "does not read"),
        (["--learn-inner-rates", "--second-order-steps=1"], "read --learn-inner-rates, --second"),
        (["--meta-block=mlp", "--prior-precision=2"], "steps, which do not read --prior-precision"),
        (["--sweeps=3"], "--sweeps needs --joint-task"),
        (["--batch-size=3", "--batch-rows=9"], "both set the batches; leave out one"),
        (["--no-decay", "--warmup-steps=9"], "--warmup-steps is part of the schedule"),
        (["--global-block=mlp", "--shrinkage=3"], "'dot_product' reads --shrinkage, received 'mlp"),
        (
            ["--global-block=mlp", "--shrinkage=3", "--projection-shrinkage=3"],
            "--projection-shrinkage and --shrinkage, .*; leave them out, or use --global-block dot",
        ),
    ],
)
def test_an_option_that_the_chosen_adaptation_does_not_read_is_refused(flags, said):
    with pytest.raises(LimamlError, match=said):
        _parsed(*flags)


def test_a_reference_is_trained_with_the_options_of_limaml():
    given = _parsed("--algorithm", "maml", "--inner-learning-rate", "0.2", "--first-order")
    assert given.model.first_order


def test_widths_that_are_no_numbers_are_refused_in_plain_words(capsys):
    with pytest.raises(SystemExit):
        _parsed("--meta-units", "64,a")
    assert "must be whole numbers such as 128,64, received '64,a'" in capsys.readouterr().err
