"""The values of the options of ``limaml train``, as they are written and as its help shows them."""

import argparse
import re

import pytest

from tfrec_limaml.commands.train_arguments import add_arguments, options_from
from tfrec_limaml.commands.train_values import recipe_values
from tfrec_limaml.training.options import TrainOptions


@pytest.fixture(scope="module")
def parser():
    made = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(made)
    return made


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("learning_rate", " (default: 0.002; paper: 0.001)"),
        ("support_fraction", " (default: 0.2-0.9; paper: 0.75)"),
        ("embedding_dim", " (default: 33; paper: 32)"),
        ("global_units", " (default: 128,64)"),
        ("dropout", " (default: 0.3; paper: 0)"),
        ("second_order_steps", ""),
    ],
)
def test_the_help_names_the_values_of_both_recipes(parser, option, text):
    assert recipe_values(option) == text
    assert text in re.sub(r"\s+", " ", parser.format_help())


def test_each_option_of_the_recipes_that_takes_a_value_names_its_default(parser):
    blocks = re.split(r"\n  (?=-)", parser.format_help())
    recipes = [block for block in blocks if re.match(r"--[a-z-]+ \S", block)]
    without = {re.match(r"--([a-z-]+)", block)[1] for block in recipes if "(default" not in block}
    # They are not part of a recipe, or are off unless they are given.
    assert without <= {
        "output", "nested-task", "joint-task", "tensorboard", "distribute", "checkpoint-steps",
        "second-order-steps", "refit",
    }  # fmt: skip


def test_values_are_read_as_the_help_writes_them(parser):
    arguments = "tasks --output run --global-units 128,64 --support-fraction 0.2-0.9 --dropout 0.3"
    assert options_from(parser.parse_args(arguments.split())) == TrainOptions()
