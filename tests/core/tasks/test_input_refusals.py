"""What the input pipeline refuses, and by which name."""

from __future__ import annotations

import pytest
import tensorflow as tf
from numbered_rows import ENCODER, SCHEMA

from tfrec_limaml.errors import LimamlError
from tfrec_limaml.schema.schema import Feature
from tfrec_limaml.tasks.input_pipeline import task_dataset


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"support_fraction": 1.2}, r"between 0 and 1, .* received 1\.2"),
        ({"support_fraction": (0.9, 0.2)}, r"received \(0\.9, 0\.2\)"),
        ({"support_fraction": [0.2, 0.9, 1.0]}, r"received \[0\.2, 0\.9, 1\.0\]"),
        ({"support_fraction": "0.5"}, "received '0.5'"),
        ({"seed": 1.5}, "seed must be a whole number of at least 0, received 1.5"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, received 0"),
        ({"batch_size": 2.5}, "batch_size must be a whole number of at least 1, received 2.5"),
        ({"batch_size": "8"}, "batch_size must be a whole number of at least 1, received '8'"),
        ({"batch_size": None}, "batch_size must be a whole number of at least 1, received None"),
        ({"encoder": None}, "encoder must be a FeatureEncoder, received None"),
        ({"max_samples": 0}, "max_samples must be a whole number of at least 1, received 0"),
        ({"max_samples": -1}, "max_samples must be a whole number of at least 1, received -1"),
        ({"epoch": 3}, r"epoch must be tf\.Variable\(0, dtype=tf\.int64\), received 3"),
        ({"epoch": tf.Variable(0)}, r"received <tf\.Variable .*dtype=int32"),
        ({"batches": [3]}, r"batches needs an epoch, received batches \[3\]"),
        (
            {"epoch": tf.Variable(0, dtype=tf.int64), "batches": [3, 4]},
            r"one number for each of 1 pattern, received \[3, 4\]",
        ),
    ],
)
def test_arguments_out_of_range_are_named(write, arguments, said):
    with pytest.raises(LimamlError, match=said):
        task_dataset(write([(2, -1)]), **{"encoder": ENCODER, **arguments})


def test_a_pattern_without_files_is_told_with_what_writes_them(tmp_path):
    with pytest.raises(
        LimamlError, match=r"no task records match \['.*train-\*'\]; `limaml prepare` writes them"
    ):
        task_dataset(str(tmp_path / "train-*"), ENCODER)


def test_a_folder_in_place_of_files_is_told_what_to_name(tmp_path):
    folder = tmp_path / "user"
    folder.mkdir()
    with pytest.raises(LimamlError, match=r"user is a folder: name the .* such as .*user/train-\*"):
        task_dataset(folder, ENCODER)


def _without_kind():
    return SCHEMA.replace(features=SCHEMA.features[:1])


def _text_kind():
    text = Feature(name="kind", dtype="string", encoding="vocabulary")
    return SCHEMA.replace(features=(SCHEMA.features[0], text))


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (_without_kind(), r"`kind` does not hold one value per sample"),
        (_text_kind(), r"kind.*Data types don't match. Expected type: int64"),
    ],
)
def test_records_of_another_schema_are_refused_at_once_by_file_and_feature(write, schema, said):
    with pytest.raises(
        LimamlError,
        match=rf"train-.*gz does not hold task records of schema 'rows' \(.*{said}.*`limaml prepare`",  # noqa: E501
    ):
        task_dataset(write([(3, -1)], schema=schema), ENCODER)


def test_files_that_are_cut_short_or_no_records_are_refused_by_name(write, tmp_path):
    path = write([(3, -1)], "train-0.tfrecord")
    whole = (tmp_path / "train-0.tfrecord").read_bytes()
    for content, said in (
        (whole[:-9], "truncated record"),
        (b"timestamp,clicked\n" * 9, "corrupted record"),
    ):
        (tmp_path / "train-0.tfrecord").write_bytes(content)
        with pytest.raises(
            LimamlError, match=rf"train-0\.tfrecord does not hold task records .*{said}"
        ):
            task_dataset(path, ENCODER)


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ([(3, -1), (0, -1)], "holds no samples"),
        ([(3, -1), (3, 4)], "query_start is after its last"),
    ],
)
def test_a_broken_record_further_on_stops_with_its_reason(write, tasks, said):
    with pytest.raises(tf.errors.InvalidArgumentError, match=said):
        list(task_dataset(write(tasks), ENCODER))
