"""Raw rows, a work folder and a store, changed through the command line."""

import datetime as dt
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tfrec_limaml.cli import main
from tfrec_limaml.store import open_store

START = 1_650_000_000_000
DAY = 86_400_000
END = "2022-06-01"
#: The rows of the first refresh: user, x, days after the start.
ROWS = [(f"u{n}", 1.0, n / 100) for n in range(40)]


def after(days: float) -> str:
    """The time this many days after the start, in ISO 8601."""
    return dt.datetime.fromtimestamp((START + days * DAY) / 1000, dt.UTC).isoformat()


def report(capsys: Any) -> Any:
    """The JSON object that a command printed last."""
    out = capsys.readouterr().out
    return json.loads(out[out.rindex("\n{") + 1 :] if not out.startswith("{") else out)


class World:
    """Raw rows, a work folder and a store, changed through the command line."""

    version = 7
    #: Positions of the sum of x and the number of rows in the toy adapter's embeddings.
    sum_at, count_at = 1, 2
    types = pa.schema(
        {
            "user_id": pa.string(),
            "x": pa.float32(),
            "note": pa.string(),
            "click": pa.int64(),
            "time": pa.int64(),
        }
    )

    def __init__(self, folder: Path, exported: Path) -> None:
        self.folder, self.export = folder, exported
        self.work, self.store = folder / "work", f"lmdb:{folder}/store"

    def copy(self, folder):
        """A copy of this world in another folder."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return type(self)(folder, self.export)

    @staticmethod
    def row(user, x, day):
        """An interaction: member, x, days after the start."""
        time = START + round(day * DAY)
        return {"user_id": user, "x": x, "note": "n", "click": 1, "time": time}

    def write(self, rows, name="raw/interactions.parquet"):
        """Writes a file of interactions, the arguments of `row`; returns its path."""
        table = pa.Table.from_pylist([self.row(*row) for row in rows], self.types)
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

    def result(self):
        """The report of the last refresh."""
        return json.loads((self.work / "refresh.json").read_text())

    def stored(self, *keys):
        """Embeddings by key; None for keys that are not in the store."""
        store = open_store(self.store)
        matrix, found = store.get_many(keys, self.version)
        store.close()
        return {k: v.tolist() if f else None for k, v, f in zip(keys, matrix, found, strict=True)}

    def sums(self, *keys):
        """Sum of x and number of rows for each key; None for keys that are not in the store."""
        found = self.stored(*keys).values()
        return [row and (row[self.sum_at], int(row[self.count_at])) for row in found]

    def letters(self):
        """Dead letters of updates."""
        files = (self.work / "updates" / "dead_letter").glob("*.jsonl")
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]
