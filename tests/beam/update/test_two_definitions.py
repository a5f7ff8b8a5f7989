"""Models of two definitions are not updated between refreshes, and say so."""

from __future__ import annotations

import pytest

from limaml_beam.build_tasks.options import PrepareOptions
from limaml_beam.update.job import Update, Updater
from limaml_beam.update.plan import Plan, write_plan
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.manifest import Manifest


def test_an_updater_refuses_a_model_of_two_definitions_by_their_names(tmp_path):
    Manifest(
        model_version=3,
        schema={},
        schema_fingerprint="",
        task_definition="user",
        joint_definitions=("video",),
        embedding_dim=2,
        inner_loop={},
    ).write(tmp_path / "adapter" / "3")
    options = PrepareOptions(schema="schema.yaml", interactions=("rows.parquet",))
    write_plan(tmp_path, Plan(str(tmp_path / "adapter" / "3"), options))
    with pytest.raises(LimamlError, match=r"version 3 adapts two definitions, \['user', 'video'\]"):
        Updater(Update(work=tmp_path, store=None))
