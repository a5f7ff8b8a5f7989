"""Raw rows, a work folder and a store, by the command line."""

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tfrec_limaml.cli import main

START = 1_650_000_000_000
DAY = 86_400_000
END = "2022-06-01"


def after(days: float) -> str:
    """A moment so many days after the start, ISO 8601."""
    return dt.datetime.fromtimestamp((START + days * DAY) / 1000, dt.UTC).isoformat()


class World:
    """Raw rows, a work folder and a store, by the command line."""

    def __init__(self, folder: Path, exported: Path) -> None:
        self.folder, self.export = folder, exported
        self.work, self.store = folder / "work", f"lmdb:{folder}/store"

    def write(self, rows, name="raw/interactions.parquet"):
        """Rows: (member, x, days after the start)."""
        table = pa.table(
            {
                "user_id": [user for user, _, _ in rows],
                "x": pa.array([x for _, x, _ in rows], pa.float32()),
                "note": ["n"] * len(rows),
                "click": [1] * len(rows),
                "time": [START + round(day * DAY) for _, _, day in rows],
            }
        )
        pq.write_table(table, self.folder / name)
        return str(self.folder / name)

    def refresh(self, *more):
        return main(
            [
                *("refresh", str(self.folder / "raw"), "--export", str(self.export)),
                *("--work", str(self.work), "--store", self.store, "--window-end", END),
                *("--keep-rows", "--max-drift", "100", "--max-norm-ratio", "100", *more),
            ]
        )

    def update(self, *files, more=()):
        return main(
            [
                *("update", *files, "--work", str(self.work), "--store", self.store),
                *("--window-end", END, "--json", *more),
            ]
        )
