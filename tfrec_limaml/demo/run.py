"""The whole demo: stages, serving, one member's story, the table and the report."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfrec_limaml.cli import say
from tfrec_limaml.demo import history, serving, story
from tfrec_limaml.demo.stages import STORY, Workspace, run_stage, stages
from tfrec_limaml.demo.summary import facts, next_steps
from tfrec_limaml.manifest import Manifest, latest_version
from tfrec_limaml.report import EmbeddingMap, MemberStory, RankedItem, Report, write_report
from tfrec_limaml.report.projection import NOTHING
from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.store import open_store
from tfrec_limaml.tasks.folder import SCHEMA_FILE


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoData:
    """How the demo describes a data set.

    Attributes:
        title: Name of the data set in headings.
        kind: The categorical feature with the kind of item that a row shows.
        kind_words: Format string for a value of `kind`, for example ``"tag {}"``.
        names: Columns that name an item.
        name_words: Format string for the values of `names`.
    """

    title: str
    kind: str
    kind_words: str = "{}"
    names: tuple[str, ...]
    name_words: str = "{}"


DATA = {
    "simulated": DemoData(
        title="simulated notifications",
        kind="notification_type",
        names=("notification_type", "topic"),
    ),
    "kuairand-pure": DemoData(
        title="KuaiRand-Pure",
        kind="tag",
        kind_words="tag {}",
        names=("video_id",),
        name_words="video {}",
    ),
}


#: Of each line of ``evaluation.json``.
_OF_EACH = (
    *("algorithm", "fine_tune", "served"),
    *("auc", "auc_low", "auc_high", "gain", "gain_low", "gain_high"),
)


def run_demo(
    dataset: str,
    root: Path,
    *,
    data: Sequence[str] = (),
    training: Sequence[str] = (),
    overwrite: bool = False,
) -> dict[str, Any]:
    """Runs the stages that are not finished and returns the results.

    Args:
        dataset: A key of `DATA`.
        root: The workspace.
        data: Further options of ``limaml datasets prepare``.
        training: Further options of ``limaml train``.
        overwrite: Start again from the first stage.
    """
    words = DATA[dataset]
    workspace = Workspace(root=root)
    state = workspace.open(
        {"dataset": dataset, "data": list(data), "training": list(training)}, overwrite
    )
    todo = stages(workspace, dataset, data=data, training=training)
    redo = False
    for number, stage in enumerate(todo, 1):
        if redo:  # computed from outputs that an earlier stage has just replaced
            state["stages"].pop(stage.name, None)
        redo = run_stage(stage, f"{number}/{len(todo) + 1}", workspace, state) or redo
    schema = Schema.load(workspace.tasks / SCHEMA_FILE)
    recent = history.read_history(workspace.tasks, schema, "recent")
    position = f"[{len(todo) + 1}/{len(todo) + 1}] serve, and rank one member's candidates"
    if STORY in state:
        say(f"{position}: done before")
    else:
        say(f"{position} through gRPC")
        state[STORY] = dataclasses.asdict(_member_story(workspace, schema, recent, words))
        workspace.save(state)
    member_story = _story(state[STORY])
    result = _result(dataset, workspace, state, member_story)
    write_report(workspace.report, _report(words, workspace, schema, recent, member_story, result))
    say(f"      report at {workspace.report}")
    return result


def _member_story(
    workspace: Workspace, schema: Schema, recent: history.SplitRows, words: DemoData
) -> MemberStory:
    """Ranks the candidates without an embedding, with the published one, and after a few clicks."""
    kind = next(f for f in schema.all_features if f.name == words.kind)
    scene = story.choose_scene(
        schema, recent, history.read_history(workspace.tasks, schema, "test"), kind, words.names
    )
    version = Manifest.read(latest_version(workspace.export / "ranker")).model_version
    with serving.serving(workspace.export / "ranker") as target:

        def scores(store: str) -> Any:
            address, log = workspace.store(store), workspace.root / "rank.log"
            with serving.ranking(target, workspace.export, address, log) as rank:
                return rank(scene.request)[0]

        without = scores("no_embeddings")
        before = scores("store")
        rows, reactions = story.imagine_clicks(scene, before)
        embedding = story.embed_rows(workspace.export, schema, scene.key, [*scene.rows, *rows])
        store = open_store(workspace.store("after_clicks"))
        with store.new_generation(version, embedding.shape[1]) as writer:
            writer.put([scene.key], embedding)
            writer.publish(expected_count=1)
        store.close()
        after = scores("after_clicks")
    items = [
        RankedItem(
            name=words.name_words.format(n),
            group=words.kind_words.format(k),
            without=float(w),
            before=float(b),
            after=float(a),
        )
        for n, k, w, b, a in zip(scene.names, scene.kinds, without, before, after, strict=True)
    ]
    return MemberStory(
        task_key=scene.key,
        seen=len(scene.rows),
        clicks=[_click_text(words, reaction) for reaction in reactions],
        items=items,
    )


def _click_text(words: DemoData, reaction: story.Reaction) -> str:
    name = words.name_words.format(reaction.name)
    kind = "" if words.kind in words.names else f" ({words.kind_words.format(reaction.kind)})"
    return f"{name}{kind}: {'clicked' if reaction.clicked else 'passed over'}"


def _story(saved: Mapping[str, Any]) -> MemberStory:
    return MemberStory(**{**saved, "items": [RankedItem(**item) for item in saved["items"]]})


def _result(
    dataset: str, workspace: Workspace, state: dict[str, Any], member_story: MemberStory
) -> dict[str, Any]:
    evaluation = json.loads((workspace.run / "evaluation.json").read_text(encoding="utf-8"))
    embedded = state["stages"]["embed"]["result"]
    return {
        "dataset": dataset,
        "test_rows": evaluation["rows"],
        "test_tasks": evaluation["tasks"],
        "auc": [{key: row[key] for key in _OF_EACH if key in row} for row in evaluation["results"]],
        "warnings": evaluation["warnings"],
        **({"best_possible_auc": evaluation["bayes_auc"]} if "bayes_auc" in evaluation else {}),
        "embeddings": {
            "count": embedded["embedded"],
            "dimension": embedded["embedding_dim"],
            "seconds": embedded["seconds"],
        },
        "ranking": {
            "member": member_story.task_key,
            "interactions": member_story.seen,
            "clicks": list(member_story.clicks),
            "candidates": [dataclasses.asdict(item) for item in member_story.items],
        },
        "seconds": {name: stage["seconds"] for name, stage in state["stages"].items()},
        "written": {"workspace": str(workspace.root), "report": str(workspace.report)},
    }


def _report(
    words: DemoData,
    workspace: Workspace,
    schema: Schema,
    recent: history.SplitRows,
    member_story: MemberStory,
    result: dict[str, Any],
) -> Report:
    kind = next(f for f in schema.all_features if f.name == words.kind)
    version = Manifest.read(latest_version(workspace.export / "ranker")).model_version
    store = open_store(workspace.store())
    matrix, stored = store.get_many(recent.keys, version)
    store.close()
    liked = [
        words.kind_words.format(name) if name != NOTHING else name
        for name in history.likes(recent, kind)
    ]
    training = [
        json.loads((workspace.run / f"{name}.training.json").read_text(encoding="utf-8"))
        for name in ("vanilla", "limaml")
    ]
    return Report(
        title=f"LiMAML on {words.title}",
        summary=(
            "A model that adapts to each member from a handful of interactions; each adaptation "
            "is one vector, computed offline and served as an ordinary feature. This page shows "
            "one run of the demo."
        ),
        facts=facts(result),
        training=training,
        evaluation=json.loads((workspace.run / "evaluation.json").read_text(encoding="utf-8")),
        embedding_map=EmbeddingMap(
            embeddings=matrix[stored],
            groups=[name for name, ok in zip(liked, stored, strict=True) if ok],
            meaning=f"most clicked {words.kind.replace('_', ' ')}",
        ),
        story=member_story,
        next_steps=next_steps(result["dataset"], workspace.root),
    )
