"""Records of old and new rows are those that one `limaml prepare` makes of both."""

import pytest

from limaml_beam.build_tasks.inputs import Inputs
from limaml_beam.build_tasks.kept_rows import KeptRows
from limaml_beam.build_tasks.options import PrepareOptions
from limaml_beam.build_tasks.prepare import prepare
from limaml_beam.io.tfrecords import read_records
from limaml_beam.rows import columnar
from limaml_beam.rows.columnar import TASK
from limaml_beam.update.merging import merge_rows, recent_records
from limaml_beam.update.new_rows import read_new
from limaml_beam.update.reconcile import settings_of

OPTIONS = {"recent_only": True, "window_end": "2024-01-11", "max_samples": 20, "keep_rows": True}


@pytest.mark.parametrize("definition", ["member", "member_kind"])
@pytest.mark.parametrize("window_days", [None, 6.0])
def test_records_are_byte_for_byte_those_of_one_run_over_all_rows(
    tmp_path, shop_schema, shop_frames, write_raw, definition, window_days
):
    schema = shop_schema.replace(history=())
    frames = shop_frames(rows=900, members=12)
    log = frames["interactions"].sample(frac=1.0, random_state=1)
    whole = write_raw(tmp_path / "whole", schema, frames | {"interactions": log})
    old = write_raw(tmp_path / "old", schema, frames | {"interactions": log[:700]})
    write_raw(tmp_path / "new", schema, frames | {"interactions": log[650:]})
    options = {**OPTIONS, "tasks": (definition,), "window_days": window_days}
    prepare(PrepareOptions(raw=str(whole), **options), str(tmp_path / "all"))
    card = prepare(PrepareOptions(raw=str(old), **options), str(tmp_path / "tasks"))
    settings = settings_of(card)
    tables = {name: [str(old / f"{name}.parquet")] for name in schema.tables}
    inputs = Inputs.find(schema, str(tmp_path / "new" / "interactions.parquet"), tables)
    new = read_new(inputs, schema, settings, tmp_path / "tasks")
    keys = columnar.codes_of(new.tables[definition][TASK])[1].to_pylist()
    base = KeptRows(tmp_path / "tasks" / definition, settings.shards).read(keys)
    rows, duplicates = merge_rows(base, new.tables[definition], schema, settings)
    made, records = recent_records(rows, schema, settings, definition)
    assert 0 < duplicates <= 50
    expected = {
        record
        for file in (tmp_path / "all" / definition).glob("*.tfrecord.gz")
        for record in read_records(str(file))
    }
    assert len(records) > 8
    assert set(records) <= expected
    assert len(set(made)) == len(made)


def test_the_kept_rows_of_every_task_make_its_record(tmp_path, shop_schema, shop_frames, write_raw):
    raw = write_raw(tmp_path / "raw", shop_schema, shop_frames())
    options = PrepareOptions(raw=str(raw), tasks=("member_kind",), shards=3, **OPTIONS)
    settings = settings_of(prepare(options, str(tmp_path / "tasks")))
    folder = tmp_path / "tasks" / "member_kind"
    expected = {r for f in folder.glob("*.tfrecord.gz") for r in read_records(str(f))}
    from limaml_beam.erasure.record_rows import task_key_of

    keys = [task_key_of(record).decode() for record in expected]
    batches = KeptRows(folder, 3).read([*keys, "nobody"])
    assert len(batches) == len(keys) > 20
    table = columnar.pa.Table.from_batches(batches)
    rows, _ = merge_rows([], table, shop_schema, settings)
    assert set(recent_records(rows, shop_schema, settings, "member_kind")[1]) == expected
