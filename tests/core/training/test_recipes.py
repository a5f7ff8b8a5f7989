"""From a folder of task records to an encoder, datasets and a model."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import pytest
import tensorflow as tf
from toys import write_description, write_split

from tfrec_limaml import EntireNetworkMAML, LiMAML, Vanilla
from tfrec_limaml.commands import compare
from tfrec_limaml.commands import diagnose as diagnose_command
from tfrec_limaml.errors import LimamlError, SchemaError
from tfrec_limaml.schema.schema import Label
from tfrec_limaml.tasks.record_files import record_files
from tfrec_limaml.tasks.record_format import encode_task
from tfrec_limaml.training import recipes
from tfrec_limaml.training.data import TrainingData
from tfrec_limaml.training.model_options import ModelOptions
from tfrec_limaml.training.options import TrainOptions
from tfrec_limaml.training.train import train

OPTIONS = ModelOptions.paper().replace(
    meta_units=[3],
    embedding_dim=2,
    global_units=[4],
    inner_steps=2,
    inner_learning_rate=0.3,
    unadapted_loss_weight=0.5,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, every_kind, make_rows):
    folder = tmp_path_factory.mktemp("tasks")
    for split, starts in (("train", (-1, -1, -1)), ("validation", (2, 3, 1))):
        records = [
            encode_task(every_kind[0], f"m{i}", make_rows(4, seed=i), start)
            for i, start in enumerate(starts)
        ]
        write_split(folder, "member", split, records)
    write_description(folder, *every_kind)
    return folder


def test_a_folder_gives_its_encoder_and_both_datasets(folder, every_kind):
    encoder = recipes.load_encoder(folder)
    assert (encoder.schema, encoder.statistics) == every_kind
    options = TrainOptions(batch_size=2, support_fraction=0.75, seed=0)
    data = TrainingData.of(folder, encoder, options)
    assert sorted(len(b["query"]["label"]) for b in data.training) == [1, 2]
    assert data.steps == 2
    (batch,) = data.validation
    assert sorted(
        tf.reduce_sum(tf.cast(batch["support"]["weight"] > 0, tf.int32), -1).numpy().tolist()
    ) == [1, 2, 3]


def test_a_folder_is_found_whatever_signs_its_name_has(folder, tmp_path, every_kind):
    odd = tmp_path / "run[1] *"
    shutil.copytree(folder, odd)
    files = record_files(recipes.split_pattern(odd, None, "train", every_kind[0]))
    assert {Path(file).parent.parent for file in files} == {odd}
    assert recipes.split_files(odd, every_kind[0].default_task, "train", every_kind[0]) == files
    assert recipes.split_files(odd, None, "train", every_kind[0]) == files


def test_labels_that_are_no_classes_are_refused_by_every_command_that_reads_classes(
    folder, tmp_path, every_kind
):
    ratings = tmp_path / "ratings"
    shutil.copytree(folder, ratings)
    schema, statistics = every_kind
    label = Label(name=schema.label.name, kind="regression")
    write_description(ratings, schema.replace(label=label), statistics)
    said = "`limaml {}` needs a binary label, received the regression label 'opened': declare"
    with pytest.raises(LimamlError, match=said.format("train")):
        train(ratings)
    for command, options in ((diagnose_command, []), (compare, ["--output", str(tmp_path / "o")])):
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        arguments = parser.parse_args([str(ratings), *options])
        with pytest.raises(LimamlError, match=said.format(command.__name__.split(".")[-1])):
            command.run(arguments)


def test_a_missing_schema_split_or_definition_is_named(folder, tmp_path, every_kind):
    with pytest.raises(SchemaError, match=r"no schema file at .*schema\.yaml"):
        recipes.load_encoder(tmp_path)
    with pytest.raises(LimamlError, match=r"split must be one of \['train', .*received 'dev'"):
        recipes.split_pattern(folder, None, "dev", every_kind[0])
    with pytest.raises(SchemaError, match="unknown task definition 'tab'"):
        recipes.split_pattern(folder, "tab", "train", every_kind[0])


@pytest.mark.parametrize(
    ("algorithm", "cls"), [("limaml", LiMAML), ("vanilla", Vanilla), ("maml", EntireNetworkMAML)]
)
def test_each_algorithm_gets_its_options(encoder, algorithm, cls):
    model = recipes.build_model(algorithm, encoder, OPTIONS)
    assert type(model) is cls
    assert (model.inner_learning_rate, model.fine_tune_steps, model.meta_block.embedding_dim) == (
        0.3,
        2,
        2,
    )
    if cls is not Vanilla:
        assert (model.inner_steps, model.unadapted_loss_weight) == (2, 0.5)


def test_only_limaml_gets_a_support_encoder_and_it_knows_the_mean_label(encoder):
    options = OPTIONS.replace(meta_block="offset", prior="encoder", inner_steps=0)
    model = recipes.build_model("limaml", encoder, options)
    assert model.meta_block.support_encoder.label_mean == encoder.statistics.label_mean
    assert model.meta_block.support_encoder.built
    assert (model.adaptation, model.inner_steps) == ("gauss-newton", 0)
    assert recipes.build_model("vanilla", encoder, options).meta_block.support_encoder is None


def test_nested_definitions_have_an_offset_each_and_refuse_a_prior_that_reads_rows(folder):
    encoder = recipes.load_encoder(folder, "member", ["member_tab"])
    model = recipes.build_model("limaml", encoder, ModelOptions())
    assert model.adaptation == "gauss-newton"
    assert [type(block).__name__ for block in model.meta_block.blocks] == 2 * ["OffsetMetaBlock"]
    with pytest.raises(LimamlError, match=r"\['member_tab'\] need the prior 'zero', .*'encoder'"):
        recipes.build_model("limaml", encoder, ModelOptions(prior="encoder"))
    shrunk = ModelOptions(adaptation="gradient", support_reduction="shrunk")
    with pytest.raises(LimamlError, match="need the support_reduction 'mean', received 'shrunk'"):
        recipes.build_model("limaml", encoder, shrunk)
