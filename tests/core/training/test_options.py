"""One set of defaults, a preset for the paper's recipe, and the command line on top."""

from __future__ import annotations

import argparse

import pytest

from tfrec_limaml.commands.train_arguments import add_arguments, options_from
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.training.options import ModelOptions, TrainOptions, recipe


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
    ],
)
def test_what_cannot_be_is_refused_by_name(changes, said):
    with pytest.raises(LimamlError, match=said):
        TrainOptions().replace(**changes)
