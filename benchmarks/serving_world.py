"""For the serving benchmarks: a model of a realistic size, requests, and a server process."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfrec_limaml.manifest import Manifest
from tfrec_limaml.schema.schema import Feature, Label, Schema
from tfrec_limaml.schema.task_keys import joint_key_prefix
from tfrec_limaml.tensorflow_setup import import_tensorflow
from tfrec_limaml.training.options import ModelOptions

MEMBERS = 10_000
TAGS = [f"tag{n}" for n in range(60)]
COUNTRIES = [f"country{n}" for n in range(40)]


def schema() -> Schema:
    """Sixteen features of the member (role meta) and sixteen of the candidate, of every kind."""
    member = [
        Feature(name="country", role="meta", dtype="string", encoding="vocabulary"),
        Feature(
            name="interests", role="meta", dtype="string", encoding="vocabulary", separator=","
        ),
        *(
            Feature(name=f"activity_{n}", role="meta", dtype="int64", encoding="vocabulary")
            for n in range(6)
        ),
        *(Feature(name=f"member_{n}", role="meta", normalise="log") for n in range(8)),
    ]
    candidate = [
        Feature(name="item", dtype="string", encoding="hash", buckets=20_000, embedding_width=16),
        Feature(
            name="tags", dtype="string", encoding="vocabulary", separator=",", embedding_width=8
        ),
        *(Feature(name=f"kind_{n}", dtype="int64", encoding="vocabulary") for n in range(4)),
        *(Feature(name=f"item_{n}") for n in range(9)),
        Feature(name="content", width=32),
    ]
    return Schema(
        name="serving",
        label=Label(name="y"),
        timestamp="t",
        tasks={"user": ("user_id",), "item": ("item",)},
        features=(*member, *candidate),
    )


#: Meta MLP 128-32, global MLP 256-128.
PLAIN = ModelOptions.paper().replace(meta_units=(128,), global_units=(256, 128))
#: Offsets of 32 numbers for members (and for items too), multiplied with a network of the same
#: size.
ONE_SIDED = ModelOptions(meta_units=(128,), embedding_dim=32, global_units=(256, 128), dropout=0.0)
TWO_SIDED = ONE_SIDED.replace(joint_task="item")


def export(base: Path, options: ModelOptions = PLAIN) -> Path:
    """Exports an untrained model; returns EXPORT.

    Its biases are not zero, as in a trained model: TensorFlow would not add zeros. Other weights do
    not change latency.
    """
    from tfrec_limaml.export.savedmodels import export_for_serving
    from tfrec_limaml.tasks.feature_encoder import FeatureEncoder
    from tfrec_limaml.tasks.statistics import Statistics
    from tfrec_limaml.training.recipes import build_model

    vocabularies = {"country": COUNTRIES, "interests": TAGS, "tags": TAGS}
    features: dict[str, Any] = {}
    for f in schema().all_features:
        if not f.categorical:
            features[f.name] = {"mean": [0.0] * f.width, "variance": [1.0] * f.width}
        elif f.encoding == "vocabulary":
            tokens = vocabularies.get(f.name, list(range(10)))
            features[f.name] = {"vocabulary": tokens, "counts": [1] * len(tokens)}
    statistics = Statistics(
        rows=1, label_mean=0.5, window={"start": 0, "end": 1}, features=features
    )
    model = build_model("limaml", FeatureEncoder(schema(), statistics), options)
    random = np.random.default_rng(1)
    for weight in model.network.weights:
        if not weight.numpy().any():
            weight.assign(random.normal(0.0, 0.1, weight.shape))
    export_for_serving(model, base, model_version=1)
    return base


def add_version(base: Path, version: int) -> None:
    """Adds a version of the exported ranker by one rename: the same graph with its own manifest."""
    final = base / "ranker" / str(version)
    staging = final.with_name(f".writing-{version}")
    shutil.copytree(base / "ranker" / "1", staging)
    manifest = Manifest.read(staging)
    Manifest(**{**json.loads(json.dumps(vars(manifest))), "model_version": version}).write(staging)
    staging.rename(final)


def requests(
    count: int, candidates: int, items: int = 1_000_000
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Members and candidate columns as an application would hold them."""
    random = np.random.default_rng(7)

    def tags() -> str:
        return ",".join(random.choice(TAGS, 3, replace=False))

    def one() -> tuple[dict[str, Any], dict[str, Any]]:
        member: dict[str, Any] = {
            "user_id": int(random.integers(MEMBERS)),
            "country": str(random.choice(COUNTRIES)),
            "interests": tags(),
        }
        member |= {f"activity_{n}": int(random.integers(10)) for n in range(6)}
        member |= {f"member_{n}": float(random.exponential()) for n in range(8)}
        columns: dict[str, Any] = {
            "item": [f"item{n}" for n in random.integers(0, items, candidates)],
            "tags": [tags() for _ in range(candidates)],
            "content": random.standard_normal((candidates, 32), np.float32),
        }
        columns |= {f"kind_{n}": random.integers(0, 10, candidates) for n in range(4)}
        columns |= {f"item_{n}": random.standard_normal(candidates, np.float32) for n in range(9)}
        return member, columns

    return [one() for _ in range(count)]


def publish(store: Any, version: int, dim: int = 32, items: int = 0) -> None:
    """One generation of random embeddings for every member, and for items."""
    random = np.random.default_rng(version)
    keys = [str(n) for n in range(MEMBERS)]
    keys += [f"{joint_key_prefix('item')}item{n}" for n in range(items)]
    with store.new_generation(version, dim) as writer:
        writer.put(keys, random.standard_normal((len(keys), dim), np.float32))
        writer.publish(len(keys))


def _serve(models: Mapping[str, Path], pipe: Any) -> None:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    import_tensorflow(keras=False)  # as `limaml serve` does
    from limaml_serving.server import EmbeddedServer

    with EmbeddedServer(models, poll_seconds=0.5) as server:
        pipe.send(server.target)
        pipe.recv()


@contextlib.contextmanager
def served(**models: Path) -> Iterator[tuple[str, int]]:
    """The embedded server in another process; yields its target and its process id."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(models, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours.recv(), process.pid or 0
    finally:
        with contextlib.suppress(OSError):
            ours.send(None)
        process.join(30)
        if process.is_alive():
            process.kill()


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall and thread CPU time in milliseconds."""
    cpu, wall = time.thread_time(), time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - wall), 1000 * (time.thread_time() - cpu)
