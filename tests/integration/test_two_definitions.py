"""A model of two definitions on its whole way: records, training, evaluation, export, embeddings,
one store, and lists ranked with the member's vector and each candidate's own.
"""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from graphs import without_graphs

from tfrec_limaml.cli import main

TASK = ("--task", "member,item")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A small world, all the way to the store."""
    root = tmp_path_factory.mktemp("two")
    commands = [
        "datasets prepare simulated --members 60 --catalogue 20 --days 14 --tasks member,item "
        "--output {0}/raw",
        "prepare {0}/raw --task member,item --output {0}/tasks",
        "train {0}/tasks --output {0}/run --joint-task item --epochs 1 --embedding-dim 5 "
        "--global-units 8 --meta-units 4 --inner-steps 1 --no-strength",
        "evaluate {0}/tasks --run {0}/run",
        "export {0}/run --output {0}/export",
        "embed {0}/tasks --export {0}/export --output {0}/embeddings --store lmdb:{0}/store",
    ]
    with without_graphs():
        for command in commands:
            assert main([*command.format(root).split(), "--json"]) == 0, command
    return root


@pytest.fixture(scope="module")
def model(work):
    """The trained model with the table of the recent records."""
    import keras

    from tfrec_limaml.training.joint import fill_table

    made = keras.saving.load_model(work / "run" / "limaml.keras")
    with without_graphs():
        made.sides = fill_table(made, work / "tasks", "recent")
    return made


@pytest.fixture(scope="module")
def target(work, serving_here):
    """Address of a server of the exported model."""
    with serving_here(work / "export" / "ranker") as address:
        yield address


@pytest.fixture(scope="module")
def candidates(work):
    """Test rows of one member, and what is known of the member."""
    rows = pq.read_table(work / "raw" / "interactions.parquet").to_pandas()
    members = pq.read_table(work / "raw" / "members.parquet").to_pandas()
    early = rows[rows.timestamp < rows.timestamp.median()]
    one = rows[rows.member_id == early.member_id.mode()[0]].tail(8)
    member = members[members.member_id == one.member_id.iloc[0]].iloc[0].to_dict()
    names = (
        "item_id notification_type topic item_quality item_age_hours sender_closeness hour weekday"
    )
    return member, {name: one[name].tolist() for name in names.split()}


@pytest.mark.slow
def test_the_job_s_embeddings_are_the_model_s_table(work, model):
    import tensorflow as tf

    files = sorted((work / "embeddings").glob("embeddings-*.parquet"))
    rows = pa.concat_tables([pq.read_table(file) for file in files]).to_pandas()
    assert set(rows.task_definition) == {"member", "item"}
    assert rows.task_key[rows.task_definition == "item"].str.startswith("%|item|i").all()
    assert not rows.task_key.duplicated().any()
    report = json.loads((work / "embeddings" / "report.json").read_text())
    assert report["rows"] == len(rows) == model.sides.rows - 1
    assert report["by_definition"] == rows.task_definition.value_counts().to_dict()
    places = model.sides.lookup.lookup(tf.constant(rows.task_key.tolist())).numpy()
    assert sorted(places) == list(range(1, model.sides.rows))
    made = np.stack(rows.embedding)
    np.testing.assert_allclose(made, model.table.numpy()[places], rtol=1e-3, atol=1e-4)
    assert np.abs(made).max(axis=1).min() > 1e-4


@pytest.mark.slow
def test_evaluation_shows_either_side_alone_and_both(work):
    results = json.loads((work / "run" / "evaluation.json").read_text())["results"]
    forms = [
        r.get("side") or ("served" if r.get("served") else "adapted" if r["fine_tune"] else "none")
        for r in results
    ]
    assert forms == ["none", "adapted", "member", "item", "served"]
    by_form = dict(zip(forms, results, strict=True))
    assert by_form["served"]["auc"] == by_form["adapted"]["auc"]
    assert len({round(r["log_loss"], 6) for r in results}) == 4


def expected(model, member, candidates, known):
    """Logits under the stored offsets of those of the two sides that are known."""
    import tensorflow as tf

    from tfrec_limaml.tasks.feature_encoder import DTYPES

    count = len(candidates["item_id"])
    columns = {
        f.name: tf.constant(
            candidates.get(f.name) or [member[f.name]] * count,
            DTYPES[f.dtype],
        )
        for f in model.encoder.schema.all_features
    }
    features = model.encoder(columns)
    unadapted = model.meta_block(features).numpy()
    keys = [[member["member_id"]] * count, [f"%|item|{item}" for item in candidates["item_id"]]]
    offsets = [
        model.table.numpy()[model.sides.lookup.lookup(tf.constant(each)).numpy()] * wanted
        for each, wanted in zip(keys, known, strict=True)
    ]
    return model.global_block(features, unadapted + np.concatenate(offsets, 1)).numpy()


@pytest.mark.slow
def test_both_clients_rank_with_the_member_s_vector_and_each_candidate_s_own(
    work, model, candidates, target
):
    from limaml_serving import AsyncRanker, Ranker
    from tfrec_limaml.store import open_store

    member, given = candidates
    asked = []

    class Watched:
        def __init__(self, store):
            self.store = store

        def get_many(self, keys, version):
            asked.append(list(keys))
            return self.store.get_many(keys, version)

    async def asynchronous(store):
        async with AsyncRanker(target, store, manifest=work / "export", timeout=30) as ranker:
            return await ranker.rank(member, given)

    store = Watched(open_store(f"lmdb:{work}/store"))
    nobody = {**member, "member_id": None}
    unknown_items = {**given, "item_id": ["nobody knows it"] * len(given["item_id"])}
    options = {"manifest": work / "export", "timeout": 30.0}
    with Ranker(target, store, **options) as ranker:
        found = {
            (1, 1): ranker.rank(member, given),
            (0, 1): ranker.rank(nobody, given),
            (1, 0): ranker.rank(member, unknown_items),
            (0, 0): ranker.rank(nobody, unknown_items),
        }
    with Ranker(target, store, signature="serving_default", **options) as ranker:
        repeated = ranker.rank(member, given)
    also = asyncio.run(asynchronous(store))
    wanted = [member["member_id"], *dict.fromkeys(f"%|item|{i}" for i in given["item_id"])]
    assert asked[0] == wanted  # one look-up for all
    for known, ranked in found.items():
        logits = expected(model, member, given, known)
        np.testing.assert_allclose(ranked.logit, logits[ranked.order], rtol=1e-3, atol=1e-3)
        assert (np.diff(ranked.logit) <= 0).all()
        assert ranked.used_embedding.tolist() == [bool(known[0])] * len(logits)
    spread = [np.sort(ranked.logit) for ranked in found.values()]
    assert all(np.abs(a - b).max() > 1e-3 for a in spread for b in spread if a is not b)
    for other in (repeated, also):
        np.testing.assert_allclose(other.logit, found[1, 1].logit, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_command_line_ranks_and_shows_what_a_line_must_hold(
    work, model, candidates, target, capsys
):
    from tfrec_limaml.demo import serving

    assert main(["rank", "--export", str(work / "export"), "--example"]) == 0
    example = json.loads(capsys.readouterr().out)
    assert "member_id" in example["member"]
    assert all(candidate["item_id"] == "1" for candidate in example["candidates"])
    member, given = candidates
    rows = [dict(zip(given, row, strict=True)) for row in zip(*given.values(), strict=True)]
    request = {"member": member, "candidates": rows}
    store = f"lmdb:{work}/store"
    with serving.ranking(target, work / "export", store, work / "rank.log") as rank:
        scores, used = rank(request)
    logits = expected(model, member, given, (1, 1))
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits)), atol=1e-3)
    assert used


@pytest.mark.slow
def test_an_update_of_both_sides_comes_close_to_the_batch_over_all_rows(work, tmp_path):
    from tfrec_limaml.store import open_store

    (tmp_path / "raw").mkdir()
    for file in (work / "raw").iterdir():
        (tmp_path / "raw" / file.name).write_bytes(file.read_bytes())
    rows = pq.read_table(work / "raw" / "interactions.parquet")
    members = np.array(rows["member_id"].to_pylist())
    one = members[-1]
    is_new = members == one
    is_new[np.flatnonzero(is_new)[:-6]] = False
    new, old = rows.filter(pa.array(is_new)), rows.filter(pa.array(~is_new))
    touched = [one, *(f"%|item|{item}" for item in dict.fromkeys(new["item_id"].to_pylist()))]

    def run(command):
        assert main([*command.format(tmp_path, work).split(), "--window-end", "2030-01-01"]) == 0
        (version,) = (int(path.name) for path in (work / "export" / "adapter").iterdir())
        return open_store(f"lmdb:{tmp_path}/store").get_many(touched, version)[0].copy()

    refresh = "refresh {0}/raw --export {1}/export --work {0}/work --store lmdb:{0}/store "
    refresh += "--keep-rows --max-drift 100 --max-norm-ratio 100 --min-rows-per-day-ratio 0 --full"
    pq.write_table(old, tmp_path / "raw" / "interactions.parquet")
    before = run(refresh)
    pq.write_table(new, tmp_path / "new.parquet")
    updated = run("update {0}/new.parquet --work {0}/work --store lmdb:{0}/store")
    pq.write_table(rows, tmp_path / "raw" / "interactions.parquet")
    batch = run(refresh)
    moved, left = (np.linalg.norm(each - batch, axis=1) for each in (before, updated))
    assert left[0] < 0.25 * moved[0]
    assert left.sum() < 0.25 * moved.sum()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            "embed {0}/tasks --export {0}/export --output {0}/next --previous {0}/embeddings",
            "leave out --previous",
        ),
        (
            "embed {0}/tasks --export {0}/export --output {0}/next --max-age-days 3",
            "leave out --max-age-days",
        ),
        (
            "embed {0}/tasks --export {0}/export --output {0}/next --with-variance",
            "leave out --with-variance",
        ),
        (
            "embed {0}/tasks --export {0}/export --output {0}/next --launch-only",
            "leave out --launch-only",
        ),
        (
            "train {0}/tasks --output {0}/run2 --joint-task item --checkpoint-steps 3",
            "leave out --checkpoint-steps",
        ),
        (
            "train {0}/tasks --output {0}/run2 --joint-task item --tensorboard {0}/logs",
            "leave it out",
        ),
        (
            "train {0}/tasks --output {0}/run2 --joint-task item --nested-task member_type",
            "cannot be combined",
        ),
        ("evaluate {0}/tasks --run {0}/run --overwrite --task topic", "'topic'"),
        ("export {0}/run --output {0}/export2 --task item", "cannot be exported for"),
    ],
)
def test_what_a_model_of_two_definitions_cannot_do_is_refused_by_name(work, command, said, capsys):
    assert main(command.format(work).split()) == 2
    assert said in capsys.readouterr().err
