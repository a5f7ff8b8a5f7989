"""A folder of interactions that grows day by day, and the command line of its refresh."""

import json

import pyarrow.parquet as pq
import pytest
from daily_rows import daily_rows


@pytest.fixture
def raw(tmp_path, schema):
    """``raw(days)`` writes a folder with the interactions of the first days; returns the folder."""
    folder = tmp_path / "raw"
    folder.mkdir()
    schema.save(folder / "schema.yaml")

    def write(days, members=30, scale=1.0):
        table = daily_rows(days, members, scale)
        pq.write_table(table, folder / "interactions.parquet")
        return str(folder)

    return write


@pytest.fixture
def arguments(tmp_path, export):
    """The arguments of ``limaml refresh`` except RAW."""
    address = f"lmdb:{tmp_path}/store"
    return [
        "--export",
        str(export),
        "--store",
        address,
        "--work",
        str(tmp_path / "work"),
        "--window-end",
        "2022-06-01",
    ]


@pytest.fixture
def result(tmp_path):
    return lambda: json.loads((tmp_path / "work" / "refresh.json").read_text())
