"""Joined tables: rows are found by key."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from limaml_beam.build_tasks.row_checks import validate
from limaml_beam.build_tasks.settings import TaskSettings, date_fields
from limaml_beam.io.sources import Source
from limaml_beam.rows import columnar
from limaml_beam.rows.feature_tables import FeatureTable, join
from tfrec_limaml.errors import LimamlError


def test_a_feature_table_with_two_rows_of_one_key_is_refused_unless_they_agree(
    tmp_path, shop_schema
):
    frame = pd.DataFrame({"member": [1, 2, 1], "country": "de", "age": [3, 4, 3]})
    frame.to_parquet(tmp_path / "members.parquet")
    source = Source.match("m", str(tmp_path / "members.parquet"))
    table = FeatureTable(shop_schema, "members", source)
    assert (table.find(pa.array(["1", "2", "3"])) >= 0).tolist() == [True, True, False]
    frame.assign(age=[3, 4, 5]).to_parquet(tmp_path / "members.parquet")
    with pytest.raises(LimamlError, match="key member = '1' more than once"):
        FeatureTable(shop_schema, "members", Source.match("m", str(tmp_path / "members.parquet")))


@pytest.mark.parametrize("hashed", ["as always", "all alike"])
def test_rows_of_a_feature_table_are_found_by_key_and_by_nothing_else(
    tmp_path, shop_schema, monkeypatch, hashed
):
    if hashed == "all alike":
        monkeypatch.setattr(
            columnar, "stable_hash", lambda column: np.zeros(len(column), np.uint64)
        )
    frame = pd.DataFrame(
        {"member": [7, 5, 6], "country": ["de", None, "fr"], "age": [1.0, 2.0, np.nan]}
    )
    frame.to_parquet(tmp_path / "members.parquet")
    table = FeatureTable(
        shop_schema, "members", Source.match("m", str(tmp_path / "members.parquet"))
    )
    rows = table.find(pa.array(["6", "x", "5", None, "", "7", "6"]))
    assert rows.tolist() == [2, -1, 1, -1, -1, 0, 2]
    country, age = (
        next(f for f in shop_schema.features if f.name == name) for name in ("country", "age")
    )
    default = country.default_value
    assert table.column(country, rows).to_pylist() == [
        "fr",
        default,
        default,
        default,
        default,
        "de",
        "fr",
    ]
    assert table.invalid(country, rows).tolist() == [False, True, True, True, True, False, False]
    assert table.column(age, rows).to_pylist() == [0.0, 0.0, 2.0, 0.0, 0.0, 1.0, 0.0]
    assert table.invalid(age, rows).tolist() == [True, True, False, True, True, False, True]


def test_keys_meet_across_types_and_odd_keys_stay_whole(tmp_path, shop_schema, shop_frames):
    frames = shop_frames(rows=20)
    frames["members"].astype({"member": str}).to_csv(tmp_path / "members.csv", index=False)
    frames["items"].to_parquet(tmp_path / "items.parquet")
    how = TaskSettings(definitions=("member_kind",), **date_fields(shop_schema))
    files = {"members": "members.csv", "items": "items.parquet"}
    tables = {
        n: FeatureTable(shop_schema, n, Source.match(n, str(tmp_path / f)))
        for n, f in files.items()
    }
    log = frames["interactions"].astype({"member": float})
    block, reasons, counts = validate(
        shop_schema, how, tables, pa.Table.from_pandas(log, preserve_index=False)
    )
    assert set(reasons) == {""}
    assert counts == {"rows_read": 20}
    assert (
        join(shop_schema, tables, block)["age"].to_pylist()
        == frames["members"].set_index("member").age[log.member.astype(int)].tolist()
    )
