"""The seam between packed batches and tfx-bsl."""

import numpy as np
import pytest

from limaml_beam.generate_embeddings.adapter import LogCoder
from limaml_beam.generate_embeddings.artefacts import newest_adapter
from limaml_beam.generate_embeddings.job import generate
from limaml_beam.generate_embeddings.packed_adapter import REFUSED, PackedAdapter
from limaml_beam.generate_embeddings.pipeline import EmbeddingJob
from limaml_beam.generate_embeddings.record_batches import pack
from tfrec_limaml.errors import VersionMismatchError
from tfrec_limaml.manifest import ADAPTER_INPUT, ADAPTER_OUTPUTS


class Refusal(Exception):
    pass


def fake(calls):
    def call(records):
        calls.append(len(records))
        if b"bad" in records:
            raise Refusal("Graph execution error:\n\nunusable feature\n\t [[{{node x}}]]")
        column = np.array([[float(len(r))] for r in records], np.float32)
        outputs = {name: column for name in ADAPTER_OUTPUTS}
        outputs["task_key"] = np.array([[r] for r in records], object)
        outputs["sample_count"] = column.astype(np.int64)
        return outputs

    return PackedAdapter(call, 1, Refusal)


def test_batches_of_different_sizes_come_back_one_by_one():
    outputs = fake([]).run(
        dict.fromkeys(ADAPTER_OUTPUTS, ""), {"input": [pack([b"a", b"bb"]), pack([b"ccc"])]}
    )
    assert outputs["task_key"].shape == (2,)
    assert outputs["task_key"][0].tolist() == [[b"a"], [b"bb"]]
    assert outputs["meta_embedding"][1].tolist() == [[3.0]]


def test_one_refused_record_costs_a_logarithm_of_calls_and_no_neighbour():
    calls = []
    records = [b"%d" % n for n in range(64)]
    records[37] = b"bad"
    outputs = fake(calls).adapt(records)
    assert outputs["sample_count"][:, 0].tolist() == [
        REFUSED if n == 37 else len(str(n)) for n in range(64)
    ]
    assert outputs["task_key"][37, 0] == b"unusable feature"
    assert len(calls) == 1 + 2 * 6


def test_a_log_is_coded_as_itself_and_weighed_by_its_batch():
    from tensorflow_serving.apis import prediction_log_pb2

    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.inputs[ADAPTER_INPUT].string_val.append(bytes(1000))
    coder = LogCoder()
    assert coder.decode(coder.encode(log)) == log
    assert coder.estimate_size(log) == 1000


def test_no_log_is_serialised_between_the_steps_of_the_job(
    tmp_path, export, write_tasks, encode, monkeypatch
):
    weighed = []
    monkeypatch.setattr(LogCoder, "encode", None)
    monkeypatch.setattr(LogCoder, "estimate_size", lambda _, log: weighed.append(log) or 1)
    tasks = write_tasks([encode(f"u{n}", [n]) for n in range(20)])
    generate(
        EmbeddingJob(
            tasks=str(tasks),
            adapter=f"{export}/adapter/7",
            output=f"{tmp_path}/out",
            generation="g1",
        )
    )
    assert weighed


def test_the_model_is_loaded_once_per_process_however_many_files_there_are(
    tmp_path, export, write_tasks, encode, loads
):
    tasks = write_tasks([encode(f"u{n}", [n]) for n in range(20)], files=5)
    generate(
        EmbeddingJob(
            tasks=str(tasks),
            adapter=f"{export}/adapter/7",
            output=f"{tmp_path}/out",
            generation="g1",
        )
    )
    assert loads == [str(export / "adapter" / "7")]


def test_tasks_with_different_numbers_of_parts_are_padded_with_parts_that_count_for_nothing():
    def call(records):
        if b"bad" in records:
            raise Refusal("no")
        parts = max(len(record) for record in records)
        keys = np.array([[b"k"] * len(r) + [b""] * (parts - len(r)) for r in records], object)
        definition = np.where(keys == b"", -1, 0).astype(np.int64)
        counts = (definition + 1).astype(np.int64)
        outputs = {name: np.ones((len(records), 1), np.float32) for name in ADAPTER_OUTPUTS}
        return outputs | {
            "nested_definition": definition,
            "nested_task_key": keys,
            "nested_meta_embedding": counts[..., None].astype(np.float32),
            "nested_sample_count": counts,
            "nested_last_timestamp": counts,
        }

    found = PackedAdapter(call, 1, Refusal, nested=True).adapt([b"aaa", b"bad", b"b", b"b"])
    assert found["nested_definition"].tolist() == [
        [0, 0, 0],
        [-1, -1, -1],
        [0, -1, -1],
        [0, -1, -1],
    ]
    assert found["nested_task_key"].tolist() == [
        [b"k"] * 3,
        [b""] * 3,
        [b"k", b"", b""],
        [b"k", b"", b""],
    ]
    assert found["nested_meta_embedding"].sum(axis=(1, 2)).tolist() == [3, 0, 1, 1]


def test_the_newest_adapter_is_the_highest_number_and_other_folders_are_none(tmp_path):
    with pytest.raises(VersionMismatchError, match="no exported version below"):
        newest_adapter(str(tmp_path))
    for name in ("9", "10", "²", "notes"):
        folder = tmp_path / "adapter" / name / "assets.extra"
        folder.mkdir(parents=True)
        (folder / "manifest.json").touch()
    assert newest_adapter(str(tmp_path)) == f"{tmp_path}/adapter/10"
