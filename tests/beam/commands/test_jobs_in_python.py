"""The jobs as a notebook calls them: with `pathlib.Path`s, and again in the same folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from limaml_beam import (
    EmbeddingJob,
    PrepareOptions,
    generate,
    newest_adapter,
    prepare,
    publish,
    read_manifest,
)
from tfrec_limaml import open_store
from tfrec_limaml.errors import LimamlError


@pytest.fixture
def raw(tmp_path, shop_schema, shop_frames, write_raw):
    return write_raw(tmp_path / "raw", shop_schema, shop_frames(rows=150))


def test_task_records_are_built_from_paths_and_not_replaced_without_being_told(raw, tmp_path):
    options = PrepareOptions(
        schema=raw / "schema.yaml",
        interactions=[raw / "interactions.parquet"],
        tables={path.stem: path for path in raw.glob("*.parquet") if path.stem != "interactions"},
    )
    card = prepare(options, tmp_path / "tasks")
    assert card["output"] == str(tmp_path / "tasks")
    assert card["rows"]["used"] > 0
    assert (tmp_path / "tasks" / "schema.yaml").exists()
    with pytest.raises(LimamlError, match=r"give --overwrite \(in Python overwrite=True\)"):
        prepare(PrepareOptions(raw=raw), tmp_path / "tasks")


def test_values_in_place_of_paths_are_refused_with_the_way_to_make_a_file(
    shop_schema, shop_frames, tmp_path
):
    frame = shop_frames(rows=20)["interactions"]
    with pytest.raises(LimamlError, match=r"interactions .*received a DataFrame.*to_parquet"):
        PrepareOptions(schema="s.yaml", interactions=frame)
    with pytest.raises(LimamlError, match=r"table 'members' .*received a DataFrame.*to_parquet"):
        PrepareOptions(raw="raw", tables={"members": frame})
    with pytest.raises(LimamlError, match=r"schema .*received a Schema; .* save"):
        PrepareOptions(schema=shop_schema, interactions=["clicks.parquet"])
    with pytest.raises(LimamlError, match=r"PrepareOptions\(raw=FOLDER\), received 'raw'"):
        prepare("raw", tmp_path / "tasks")


def test_embeddings_are_computed_and_published_with_paths(tmp_path, export, write_tasks, encode):
    write_tasks([encode(f"u{n}", [n]) for n in range(5)])
    adapter = newest_adapter(Path(export))
    job = EmbeddingJob(
        tasks=tmp_path / "tasks", adapter=Path(adapter), output=tmp_path / "out", generation="g1"
    )
    assert generate(job)["rows"] == 5
    version = read_manifest(Path(adapter)).model_version
    with open_store(tmp_path / "store") as store:
        publish(tmp_path / "out", store)
        assert store.get_many(["u3"], version)[1].all()
