"""Shows how a few more clicks change a member's record, embedding and ranked list."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfrec_limaml.arrays import Floats
from tfrec_limaml.demo.history import SplitRows, kinds
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.manifest import ADAPTER_INPUT, META_EMBEDDING, SERVING_SIGNATURE, latest_version
from tfrec_limaml.schema.schema import Feature, Schema
from tfrec_limaml.schema.task_keys import decode_task_key
from tfrec_limaml.tasks import record_format
from tfrec_limaml.tensorflow_setup import import_tensorflow

CANDIDATES = 10
CLICKS = 5
_TYPICAL_HISTORY = 8  # long enough for a useful embedding, short enough for a few clicks to matter
_MINUTE_MS = 60_000
_SEED = 0  # of the draw of candidates


#: Description of an item, and its features.
Item = tuple[str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """One member and the candidates to rank.

    Attributes:
        key: The member's task key.
        rows: The member's interactions, in time order.
        request: A line for ``limaml rank``: ``{"member": {...}, "candidates": [{...}, ...]}``.
        names: Description of each candidate.
        kinds: Kind of each candidate.
        spare: Further items by kind, each with its description.
    """

    key: str
    rows: Sequence[Mapping[str, Any]]
    request: Mapping[str, Any]
    names: Sequence[str]
    kinds: Sequence[str]
    spare: Mapping[str, Sequence[Item]]

    def offered(self, kind: str, order: Sequence[int]) -> list[Item]:
        """The items of a kind: candidates in an order of all candidates, then spare ones."""
        items = self.request["candidates"]
        candidates = [(self.names[i], items[i]) for i in order if self.kinds[i] == kind]
        return [*candidates, *self.spare[kind]]


@dataclasses.dataclass(frozen=True)
class Reaction:
    """An imagined click, or an impression without one.

    Attributes:
        name: Description of the item.
        kind: Its kind.
        clicked: Whether the member clicked it.
    """

    name: str
    kind: str
    clicked: bool


def _items(
    schema: Schema, rows: Iterable[Mapping[str, Any]], name_columns: Sequence[str]
) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """The distinct items of some rows: their name and their features."""
    features = [f.name for f in schema.all_features if f.role == "other"]
    items: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        items.setdefault(tuple(row[n] for n in name_columns), {n: row[n] for n in features})
    if len(items) < CANDIDATES + CLICKS:
        raise LimamlError(
            f"the test period shows only {len(items)} different items; the demo needs "
            f"{CANDIDATES + CLICKS}"
        )
    return list(items.items())


def choose_scene(
    schema: Schema, recent: SplitRows, test: SplitRows, kind: Feature, name_columns: Sequence[str]
) -> Scene:
    """A member with a few interactions, and candidates drawn from the items of the test period.

    Args:
        schema: The data's schema.
        recent: The records behind the embeddings.
        test: The rows that candidates are drawn from.
        kind: A categorical feature of items.
        name_columns: Columns that name an item.
    """
    lengths = np.diff(recent.splits)
    task = int(np.argmin(np.abs(lengths - _TYPICAL_HISTORY)))
    rows = [recent.row(i) for i in recent.rows_of(task)]
    meta = [f.name for f in schema.features if f.role == "meta"]
    member = {
        **dict(zip(schema.task_columns(), decode_task_key(recent.keys[task]), strict=True)),
        **{n: rows[-1][n] for n in meta},
    }
    rows_drawn = np.random.default_rng(_SEED).permutation(len(test.columns[record_format.LABEL]))
    test_rows = (test.row(int(position)) for position in rows_drawn[: 200 * CANDIDATES])
    items = _items(schema, (row for row in test_rows if kinds(row, kind)), name_columns)
    spare: dict[str, list[Item]] = defaultdict(list)
    for name, item in items[CANDIDATES:]:
        spare[kinds(item, kind)[0]].append((_words(name), item))
    candidates = items[:CANDIDATES]
    return Scene(
        key=recent.keys[task],
        rows=rows,
        request={"member": member, "candidates": [item for _, item in candidates]},
        names=[_words(name) for name, _ in candidates],
        kinds=[kinds(item, kind)[0] for _, item in candidates],
        spare=spare,
    )


def _words(name: Iterable[Any]) -> str:
    return " ".join(str(part) for part in dict.fromkeys(name))


def imagine_clicks(scene: Scene, scores: Floats) -> tuple[list[dict[str, Any]], list[Reaction]]:
    """Simulates a change of taste.

    The member clicks items of a kind that now ranks low, those at the end of the list first, and
    passes over items of the kind that ranks first.

    Args:
        scene: The member and the items.
        scores: Current probability of each candidate.

    Returns:
        The further interactions, in time order, and what each one is.
    """
    order = np.argsort(-scores, kind="stable").tolist()
    ranked = [scene.kinds[i] for i in order]
    ignored_kind = ranked[0]
    clicked_kind = max(
        set(ranked) - {ignored_kind} or {ignored_kind},
        key=lambda kind: (min(len(scene.spare[kind]), CLICKS), ranked.index(kind)),
    )
    clicked = scene.offered(clicked_kind, order[::-1])[:CLICKS]
    ignored = scene.offered(ignored_kind, order) if clicked_kind != ignored_kind else []
    moment = int(scene.rows[-1][record_format.TIMESTAMP])
    rows, reactions = [], []
    for (name, item), kind, label in [
        *((item, clicked_kind, 1.0) for item in clicked),
        *((item, ignored_kind, 0.0) for item in ignored[: CLICKS // 2]),
    ]:
        moment += _MINUTE_MS
        rows.append(
            {**scene.rows[-1], **item, record_format.LABEL: label, record_format.TIMESTAMP: moment}
        )
        reactions.append(Reaction(name, kind, bool(label)))
    return rows, reactions


def embed_rows(
    export: Path, schema: Schema, key: str, rows: Sequence[Mapping[str, Any]]
) -> npt.NDArray[np.float32]:
    """The meta embedding ``[1, D]`` that the exported adapter computes from these rows."""
    import_tensorflow(keras=False)
    import tensorflow as tf

    adapter = tf.saved_model.load(str(latest_version(export / "adapter")))
    record = record_format.encode_task(schema, key, rows)
    outputs = adapter.signatures[SERVING_SIGNATURE](**{ADAPTER_INPUT: tf.constant([record])})
    embedding: npt.NDArray[np.float32] = outputs[META_EMBEDDING].numpy()
    return embedding
