"""``limaml demo --live``: one member's ranked list, which changes with the member's clicks.

As in production, each part is a separate process: clicks are files for ``limaml stream``, which
updates the store; ``limaml rank`` ranks the list with the embedding from that store and with
``limaml serve`` as the model server.
"""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tfrec_limaml.demo.serving import LIMAML, stop_process
from tfrec_limaml.demo.story import Scene
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.schema.schema import TIMESTAMP_UNITS, Schema
from tfrec_limaml.schema.task_keys import decode_task_key

_CHANGE_SECONDS, _POLL_SECONDS = 60.0, 0.02


@contextlib.contextmanager
def streaming(folder: Path, work: Path, store: str, log: Path) -> Iterator[None]:
    """Runs ``limaml stream`` on a folder; stops it at the end."""
    command = [*LIMAML, "stream", "--from-folder", str(folder), "--work", str(work)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--store", store, "--poll-seconds", "0.05"],
            stdout=subprocess.DEVNULL,
            stderr=output,
        )
    try:
        yield
    finally:
        stop_process(process)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClickWriter:
    """Writes clicks as files of interactions.

    Attributes:
        folder: Folder that the files are written to.
        columns: Columns of the data set's interactions.
        schema: Schema of these columns.
        key: The member's task key.
    """

    folder: Path
    columns: pa.Schema
    schema: Schema
    key: str

    def write(self, item: Mapping[str, Any], clicked: bool, moment: float) -> Path:
        """Writes one interaction of the member to a new file.

        Args:
            item: Features of the item.
            clicked: The label.
            moment: Seconds since the epoch.
        """
        schema = self.schema
        member = zip(schema.task_columns(), decode_task_key(self.key), strict=True)
        row = {**item, **dict(member), schema.label.name: int(clicked)}
        row[schema.timestamp] = self._time(moment)
        arrays = [pa.array([row.get(field.name)]).cast(field.type) for field in self.columns]
        name = f"{round(moment * 1e6)}.parquet"
        pq.write_table(pa.table(arrays, schema=self.columns), self.folder / f".{name}")
        (self.folder / f".{name}").rename(self.folder / name)
        return self.folder / name

    def _time(self, moment: float) -> Any:
        kind = self.columns.field(self.schema.timestamp).type
        if pa.types.is_timestamp(kind):
            return pa.scalar(round(moment * 1000), pa.timestamp("ms")).as_py()
        if self.schema.timestamp_unit == "iso":
            return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
        return int(moment * 1000 / TIMESTAMP_UNITS[self.schema.timestamp_unit])


class LiveList:
    """The list that the page shows; takes one click at a time.

    Args:
        scene: The member and the candidates.
        rank: Returns the probability of each candidate of a request.
        writer: Writes clicks.
        words: Name and kind of each candidate, as text.
    """

    def __init__(
        self, scene: Scene, rank: Any, writer: ClickWriter, words: Sequence[tuple[str, str]]
    ) -> None:
        self._scene, self._rank, self._writer, self._words = scene, rank, writer, words
        self._lock = threading.Lock()
        self._clicks: list[dict[str, Any]] = []
        self._scores = rank(scene.request)

    def state(self) -> dict[str, Any]:
        """The list, best first, and the clicks so far with their lags."""
        order = sorted(range(len(self._scores)), key=lambda n: -self._scores[n])
        return {
            "member": self._scene.key,
            "interactions": len(self._scene.rows) + len(self._clicks),
            "clicks": self._clicks,
            "ranked": [
                {
                    "candidate": n,
                    "name": self._words[n][0],
                    "kind": self._words[n][1],
                    "probability": self._scores[n],
                }
                for n in order
            ],
        }

    def click(self, candidate: int, clicked: bool) -> dict[str, Any]:
        """Records a click on a candidate, or an impression without a click.

        Returns the state once the list has changed.

        Raises:
            LimamlError: There is no such candidate.
        """
        candidates = self._scene.request["candidates"]
        if not 0 <= candidate < len(candidates):
            raise LimamlError(
                f"candidate must lie between 0 and {len(candidates) - 1}, received {candidate}"
            )
        with self._lock:
            began = time.time()
            self._writer.write(candidates[candidate], clicked, began)
            lag = self._wait_for_change(began)
            name = self._words[candidate][0]
            self._clicks.append({"name": name, "clicked": clicked, "lag_seconds": lag})
            return self.state()

    def _wait_for_change(self, began: float) -> float | None:
        """Seconds until the scores change; None if they do not."""
        while time.time() - began < _CHANGE_SECONDS:
            scores = self._rank(self._scene.request)
            if scores != self._scores:
                self._scores = scores
                return round(time.time() - began, 3)
            time.sleep(_POLL_SECONDS)
        return None
