"""The processes of ``limaml demo --live``, started one after another."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

import pyarrow.parquet as pq

from tfrec_limaml.cli import say
from tfrec_limaml.demo import history, serving, story
from tfrec_limaml.demo.live import ClickWriter, LiveList, streaming
from tfrec_limaml.demo.live_page import LiveServer
from tfrec_limaml.demo.run import DATA
from tfrec_limaml.demo.stages import Workspace, call
from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.tasks.folder import SCHEMA_FILE


def run_live(dataset: str, root: Path, port: int) -> None:
    """Serves the page until SIGINT or SIGTERM, then ends its processes.

    Args:
        dataset: The demo's data set.
        root: Its workspace, which `run_demo` has filled.
        port: Port of the page; 0 for a free one.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    workspace = Workspace(root=root)
    work, store = root / "live" / "work", workspace.store("live/store")
    say("limaml refresh --keep-rows: embeddings that updates can build on")
    call(
        [
            *("refresh", str(workspace.raw), "--export", str(workspace.export)),
            *("--work", str(work), "--store", store, "--keep-rows"),
            *("--min-loss-improvement", "-1000"),  # a demo publishes whatever it computes
        ]
    )
    with (
        _live_list(dataset, workspace, work, store) as live_list,
        LiveServer(live_list, port) as server,
    ):
        say(f"one member's list is at {server.address} (Ctrl-C ends it)")
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _live_list(dataset: str, workspace: Workspace, work: Path, store: str) -> Iterator[LiveList]:
    """The list, over `limaml serve`, `limaml rank` and `limaml stream`."""
    words, clicks = DATA[dataset], work.parent / "clicks"
    clicks.mkdir(exist_ok=True)
    schema = Schema.load(work / "tasks" / SCHEMA_FILE)
    recent = history.read_history(work / "tasks", schema, "recent")
    test_history = history.read_history(workspace.tasks, schema, "test")
    kind = next(f for f in schema.all_features if f.name == words.kind)
    scene = story.choose_scene(schema, recent, test_history, kind, words.names)
    columns = pq.read_schema(workspace.raw / "interactions.parquet").remove_metadata()
    writer = ClickWriter(folder=clicks, columns=columns, schema=schema, key=scene.key)
    item_words = [
        (words.name_words.format(name), words.kind_words.format(item_kind))
        for name, item_kind in zip(scene.names, scene.kinds, strict=True)
    ]
    ranker, logs = workspace.export / "ranker", work.parent
    with (
        serving.serving(ranker) as target,
        streaming(clicks, work, store, logs / "stream.log"),
        serving.ranking(target, workspace.export, store, logs / "rank.log") as rank,
    ):
        yield LiveList(scene, lambda request: rank(request)[0].tolist(), writer, item_words)
