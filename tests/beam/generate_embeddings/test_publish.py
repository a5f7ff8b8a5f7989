"""From the job's Parquet into a store that has seen newer events, and erasures."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from limaml_beam.generate_embeddings import publish as publishing
from limaml_beam.generate_embeddings import tables
from limaml_beam.generate_embeddings.publish import event_times, publish
from tfrec_limaml.store import open_store


@pytest.fixture
def output(tmp_path):
    """Writes a finished output; ``output("g1", {"u1": (value, time)})``."""

    def write(generation, rows):
        folder = tmp_path / generation
        folder.mkdir()
        table = tables.embeddings_table(
            keys=list(rows),
            definitions=["user"] * len(rows),
            embeddings=np.array([[value] * 2 for value, _ in rows.values()], np.float32),
            timestamps=np.array([time for _, time in rows.values()]),
            sample_counts=np.ones(len(rows), np.int64),
            losses=None,
            digests=[bytes(16)] * len(rows),
            model_version=1,
            generation=generation,
        )
        for part in range(2):
            pq.write_table(
                table.take(list(range(part, len(rows), 2))), folder / f"embeddings-{part}.parquet"
            )
        report = {
            "model_version": 1,
            "generation": generation,
            "embedding_dim": 2,
            "rows": len(rows),
        }
        (folder / "report.json").write_text(json.dumps(report))
        return str(folder)

    return write


def values(store, *keys):
    matrix, found = store.get_many(keys, 1)
    return [float(row[0]) if hit else None for row, hit in zip(matrix, found, strict=True)]


def test_an_output_tells_each_tasks_last_interaction_and_its_oldest_for_others(output):
    folder = output("g1", {"a": (1, 50), "b": (2, 30), "c": (3, 70)})
    assert event_times(folder, ["c", "nobody", "b"]).tolist() == [70, 30, 30]
    assert event_times(folder, []).tolist() == []


def test_embeddings_newer_than_the_output_outlive_its_publication(output, tmp_path):
    store = open_store(f"lmdb:{tmp_path}/store")
    publish(output("g1", {"a": (1, 50), "b": (2, 30), "c": (3, 70)}), store)
    upserted = np.array([[10, 10], [20, 20], [40, 40], [50, 50]], np.float32)
    store.upsert(1, "g1", ["a", "b", "new", "gone"], upserted, [100, 100, 100, 29])
    publish(output("g2", {"a": (4, 99), "b": (5, 100), "c": (6, 70), "d": (7, 30)}), store)
    assert values(store, "a", "b", "c", "d", "new", "gone") == [10, 5, 6, 7, 40, None]


def test_an_output_is_published_without_the_keys_that_were_erased_since(
    output, tmp_path, monkeypatch
):
    store = open_store(f"lmdb:{tmp_path}/store")
    folder = output("g1", {"a": (1, 50), "b": (2, 30), "c": (3, 70)})
    loaded = publishing._load
    calls = []

    def load(*arguments):
        """An erasure comes while the output is loaded for the first time."""
        calls.append(1)
        if len(calls) == 1:
            other = open_store(f"lmdb:{tmp_path}/store")
            with store.new_generation(1, 2, "g1") as writer:
                writer.put(["a"], np.ones((1, 2), np.float32))
                other.erase(["b"])
                writer.publish(1)
        return loaded(*arguments)

    monkeypatch.setattr(publishing, "_load", load)
    assert publish(folder, store).count == 2
    assert values(store, "a", "b", "c") == [1, None, 3]
    assert len(calls) == 2
    assert publish(folder, store).identifier == "g1"
    assert len(calls) == 2


@pytest.mark.parametrize("keep", [1, 2])
def test_a_publication_leaves_as_many_generations_as_it_is_told(
    output, tmp_path, monkeypatch, keep
):
    monkeypatch.setattr(publishing, "GRACE_SECONDS", 0.0)
    store = open_store(f"lmdb:{tmp_path}/store")
    for number in range(4):
        publish(output(f"g{number}", {"a": (1, number), "b": (1, 1)}), store, keep=keep)
    assert [each.identifier for each in store.generations()] == ["g2", "g3"][2 - keep :]
