"""A stream beside refreshes with another model of the same version number."""

import dataclasses
import functools
import shutil

import numpy as np
import pytest

from limaml_beam.refresh import outputs
from limaml_beam.update.job import Update, Updater
from limaml_beam.update.patience import PatientUpdater
from tfrec_limaml.errors import VersionMismatchError
from tfrec_limaml.manifest import Manifest
from tfrec_limaml.store import open_store

ROWS = [(f"u{n}", 1.0, n / 100) for n in range(9)]


@pytest.fixture(scope="module")
def ten_times(export, tmp_path_factory):
    """An export of the same version whose embeddings are ten times as long."""
    import tensorflow as tf

    module, folder = tf.Module(), tmp_path_factory.mktemp("ten_times")
    module.first = tf.saved_model.load(str(export / "adapter" / "7"))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="task_records")])
    def adapt(task_records):
        outputs = module.first.signatures["serving_default"](task_records=task_records)
        return {**outputs, "meta_embedding": 10.0 * outputs["meta_embedding"]}

    module.adapt = adapt
    tf.saved_model.save(module, str(folder / "adapter" / "7"), signatures=adapt)
    described = Manifest.read(export / "adapter" / "7")
    described = dataclasses.replace(described, inner_loop={"fine_tune_steps": 2})
    described.write(folder / "adapter" / "7")
    return folder


@pytest.fixture
def world(world, export):
    """A refreshed world whose export may be replaced."""
    shutil.copytree(export, world.folder / "export")
    world.export = world.folder / "export"
    world.write(ROWS)
    assert world.refresh() == 0
    return world


def start(world, tell, sleep):
    store = open_store(world.store)
    return PatientUpdater(
        Update(work=world.work, store=store, window_end="2022-06-01"), tell, sleep
    )


def refuse_to_wait(report):
    raise AssertionError(report)


def one(world, user):
    """An update with one row of a member, x = 5."""
    path = world.write([(user, 5.0, 1)], f"{user}.parquet")
    return functools.partial(Updater.update, patterns=[path])


def replace_export(world, other):
    shutil.rmtree(world.export)
    shutil.copytree(other, world.export)


def test_a_stream_follows_a_refresh_with_an_export_that_was_replaced_in_its_place(world, ten_times):
    waits = []
    updater = start(world, lambda report: None, waits.append)
    updater.run(one(world, "u1"))
    replace_export(world, ten_times)
    updater.run(one(world, "u2"))
    assert world.sums("u0", "u1", "u2") == [(1, 1), (6, 2), (6, 2)]
    world.write([*ROWS, ("u1", 5.0, 1), ("u2", 5.0, 1)])
    assert world.refresh("--max-drift", "1e9") == 0
    updater.run(one(world, "u3"))
    assert world.sums("u0", "u1", "u3") == [(10, 10), (60, 20), (60, 20)]
    assert waits == []


def test_a_generation_of_another_model_that_is_published_during_an_update_gets_its_own_vectors(
    world, ten_times, monkeypatch
):
    updater = start(world, refuse_to_wait, refuse_to_wait)
    upsert, publish, published = Updater._upsert, outputs.publish, []

    def publish_during_an_update(*arguments, **named):
        def publish_first(self, embeddings):
            monkeypatch.setattr(Updater, "_upsert", upsert)
            published.append(publish(*arguments, **named))
            return upsert(self, embeddings)

        monkeypatch.setattr(Updater, "_upsert", publish_first)
        updater.run(one(world, "u1"))
        return published[0]

    replace_export(world, ten_times)
    monkeypatch.setattr(outputs, "publish", publish_during_an_update)
    assert world.refresh("--max-drift", "1e9") == 0
    assert len(published) == 1
    assert world.sums("u0", "u1") == [(10, 10), (60, 20)]


def test_a_stream_waits_while_the_generation_is_of_a_model_that_it_cannot_load(world, ten_times):
    with open_store(world.store).new_generation(7, 3, "zz", "another") as writer:
        writer.put(["u1"], np.zeros((1, 3), np.float32))
        writer.publish(1)
    reports = []

    def sleep(seconds):
        if len(reports) == 2:
            assert world.refresh() == 0

    start(world, reports.append, sleep).run(one(world, "u1"))
    *waits, end = reports
    assert [wait["seconds"] for wait in waits] == [1, 2]
    assert list(end) == ["waited"]
    assert "was made by another model with the same version number, 7" in reports[0]["waiting"]
    assert world.sums("u1") == [(6, 2)]


def test_an_export_that_is_replaced_before_its_model_is_loaded_is_refused(world, ten_times):
    updater = Updater(Update(work=world.work, store=open_store(world.store)))
    replace_export(world, ten_times)
    with pytest.raises(VersionMismatchError, match="replaced by another export before"):
        updater.load()
