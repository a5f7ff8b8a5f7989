"""No score ever mixes the model of one version with the embedding of another."""

from __future__ import annotations

import asyncio
import json
import logging
import threading

import numpy as np
import pytest

from limaml_serving import AsyncRanker, ServingError
from limaml_serving.client.versions import KnownVersions, VersionLock
from tfrec_limaml.errors import LimamlError, VersionMismatchError
from tfrec_limaml.manifest import read_digest
from tfrec_limaml.store.base import LookUpResult


@pytest.fixture
def export(tmp_path, make_manifest):
    """An export with the manifests of versions 1 to 3, whose embeddings hold the version's
    number.
    """
    for version in (1, 2, 3):
        make_manifest(version).write(tmp_path / "export" / "ranker" / str(version))
    return tmp_path / "export"


@pytest.fixture
def rollout_store(store):
    store.versions = {version: {"7": [float(version), 0.0, 0.0]} for version in (1, 2, 3)}
    return store


def _sources(ranked, price):
    """The model version and the embedding's version that each score tells of."""
    rest = np.round(ranked.logit - price[ranked.order]).astype(int)
    return set((rest // 10000).tolist()), set((rest % 10000 // 100).tolist())


def _roll_out(server, count):
    """Adds a version, moves the label, retires the old one; every 40 requests, driven by the
    traffic itself.
    """
    steps = {
        40: lambda: server.versions.add(2),
        80: lambda: server.labels.update(stable=2),
        120: lambda: server.versions.discard(1),
        160: lambda: server.versions.add(3),
        161: lambda: (
            server.labels.update(stable=3),
            server.versions.discard(2),
        ),  # retired at once, without a drain
        240: lambda: (server.versions.add(2), server.labels.update(stable=2)),  # rolled back
    }
    if count in steps:
        steps[count]()


@pytest.mark.parametrize("label", ["stable", None])
def test_a_roll_out_under_load_fails_no_request_and_mixes_no_score(
    make_ranker, server, rollout_store, export, member, candidates, label
):
    server.labels = {"stable": 1}
    server.script = lambda call, request, context: _roll_out(server, call)
    ranker = make_ranker(manifest=export, version_label=label, refresh_seconds=0.01)
    seen, problems = set(), []

    def load():
        for _ in range(100):
            try:
                ranked = ranker.rank(member, candidates)
                models, embeddings = _sources(ranked, candidates["price"])
                if not models == embeddings == {ranked.model_version}:
                    problems.append((models, embeddings, ranked.model_version))
                seen.add(ranked.model_version)
            except LimamlError as error:
                problems.append(error)

    threads = [threading.Thread(target=load) for _ in range(3)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert problems == []
    assert seen == {1, 2, 3}
    assert ranker.counters.version_changes >= 2
    assert ranker.counters.adapted == ranker.counters.candidates


def test_the_asyncio_client_mixes_no_score_either(
    server, rollout_store, export, member, candidates
):
    server.labels = {"stable": 1}
    server.script = lambda call, request, context: _roll_out(server, call)

    async def load():
        settings = {
            "manifest": export,
            "version_label": "stable",
            "refresh_seconds": 0.01,
            "timeout": 20.0,
        }
        async with AsyncRanker(server.target, rollout_store, **settings) as ranker:
            answers = []
            for _ in range(30):
                answers += await asyncio.gather(
                    *(ranker.rank(member, candidates) for _ in range(10))
                )
            return answers

    answers = asyncio.run(load())
    for ranked in answers:
        assert _sources(ranked, candidates["price"]) == (
            {ranked.model_version},
            {ranked.model_version},
        )
    assert {ranked.model_version for ranked in answers} == {1, 2, 3}


def test_a_pinned_version_never_moves_and_is_never_resolved(
    make_ranker, server, rollout_store, export, member, candidates
):
    server.versions = {1, 2}
    ranker = make_ranker(manifest=export, version=1)
    assert ranker.rank(member, candidates).model_version == 1
    assert server.resolutions == 0
    server.versions = {2}
    with pytest.raises(ServingError) as caught:
        ranker.rank(member, candidates)
    assert caught.value.code == "NOT_FOUND"


def test_an_answer_by_another_version_is_dropped(make_ranker, server, member, candidates):
    server.answers_as = 5
    with pytest.raises(
        VersionMismatchError, match="asked ranker for version 1, but version 5 answered"
    ):
        make_ranker().rank(member, candidates)


def test_a_version_without_published_embeddings_is_scored_unadapted_or_refused(
    make_ranker, server, rollout_store, export, member, candidates
):
    server.versions = {1, 2}
    del rollout_store.versions[2]
    ranker = make_ranker(manifest=export)
    ranked = ranker.rank(member, candidates)
    assert ranked.model_version == 2
    assert not ranked.used_embedding.any()
    assert ranker.counters.version_mismatches == 1
    strict = make_ranker(manifest=export, on_version_mismatch="raise")
    with pytest.raises(
        VersionMismatchError, match=r"version 2 .* none are published: run `limaml embed`"
    ):
        strict.rank(member, candidates)


def test_embeddings_of_another_width_are_not_sent(
    make_ranker, rollout_store, server, export, member, candidates
):
    rollout_store.versions[1] = {"7": [1.0, 2.0]}
    assert not make_ranker(manifest=export, version=1).rank(member, candidates).used_embedding.any()
    strict = make_ranker(manifest=export, version=1, on_version_mismatch="raise")
    with pytest.raises(VersionMismatchError, match="the store's have width 2"):
        strict.rank(member, candidates)


def test_a_version_without_manifest_gets_no_embedding(
    make_ranker, make_manifest, server, rollout_store, member, candidates
):
    server.versions = {2}
    ranker = make_ranker(manifest=make_manifest(1))
    ranked = ranker.rank(member, candidates)
    assert ranked.model_version == 2
    assert not ranked.used_embedding.any()
    assert rollout_store.asked == []
    with pytest.raises(VersionMismatchError, match="version 2 serves, but its manifest"):
        make_ranker(manifest=make_manifest(1), on_version_mismatch="raise").rank(member, candidates)


def test_an_unknown_label_is_the_servers_error(make_ranker, export, member, candidates):
    with pytest.raises(ServingError, match="Unrecognized servable version label: canary"):
        make_ranker(manifest=export, version_label="canary").rank(member, candidates)


def test_a_failed_refresh_keeps_the_version_known(
    make_ranker, server, rollout_store, export, member, candidates
):
    server.labels = {"stable": 1}
    ranker = make_ranker(manifest=export, version_label="stable", refresh_seconds=0.0)
    ranker.rank(member, candidates)
    server.labels = {}
    assert ranker.rank(member, candidates).model_version == 1
    assert server.resolutions == 2


def test_one_caller_at_a_time_resolves():
    lock = VersionLock(None, "stable", refresh_seconds=60.0)
    assert lock.claim()
    lock.resolved(4)
    assert not lock.claim()
    expired = VersionLock(None, "stable", refresh_seconds=0.0)
    expired.resolved(4)
    assert expired.claim()
    assert expired.current == 4


def test_manifests_are_found_from_the_export_the_ranker_or_one_version(export, make_manifest):
    assert KnownVersions(export).newest.version == 3
    assert KnownVersions(export / "ranker").get(1).version == 1
    assert KnownVersions(export / "ranker" / "2").get(1) is None
    file = export / "ranker" / "2" / "assets.extra" / "manifest.json"
    assert KnownVersions(file).newest.version == 2
    assert KnownVersions(make_manifest(9)).newest.version == 9
    numbered = export.rename(export.with_name("1"))
    assert KnownVersions(numbered).newest.version == 3
    squared = (numbered / "ranker").rename(export.with_name("²"))  # a digit, but no number
    assert KnownVersions(squared).newest.version == 3


def test_a_folder_that_holds_another_versions_manifest_is_refused(export):
    path = export / "ranker" / "2" / "assets.extra" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_version": 1}))
    with pytest.raises(VersionMismatchError, match="holds the manifest of version 1"):
        KnownVersions(export).get(2)


def test_a_version_exported_later_is_found(export, make_manifest):
    known = KnownVersions(export)
    assert known.get(4) is None
    make_manifest(4, embedding_dim=8).write(export / "ranker" / "4")
    assert known.get(4).embedding_dim == 8


def test_embeddings_of_another_model_with_the_same_number_are_not_used(
    make_ranker, store, make_manifest, member, candidates, tmp_path, caplog
):
    caplog.set_level(logging.WARNING, logger="limaml_serving")
    folder = tmp_path / "1"
    make_manifest(1).write(folder)
    get_many = store.get_many

    def ranker(digest, **settings):
        store.get_many = lambda *look_up: LookUpResult(*get_many(*look_up), model=digest)
        return make_ranker(manifest=folder, version=1, **settings)

    assert ranker(read_digest(folder)).rank(member, candidates).used_embedding.any()
    other = ranker("another")
    for _ in range(3):
        assert not other.rank(member, candidates).used_embedding.any()
    assert other.counters.version_mismatches == 3
    lines = [line for line in caplog.messages if "another model with the same version" in line]
    assert len(lines) == 1  # once a minute
    with pytest.raises(VersionMismatchError, match="another model with the same version number, 1"):
        ranker("another", on_version_mismatch="raise").rank(member, candidates)


def test_a_version_is_resolved_again_once_its_time_is_up_and_by_one_caller(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("limaml_serving.client.versions.time.monotonic", lambda: now[0])
    lock = VersionLock(None, "stable", refresh_seconds=5.0)
    assert lock.claim(), "no version is known yet"
    assert lock.claim(), "so that each caller has to ask"
    assert not lock.resolved(1), "the first version is no change"
    now[0] += 4.9
    assert not lock.claim()
    now[0] += 0.2
    assert lock.claim()
    assert not lock.claim(), "the others keep the old version while one asks"
    assert lock.resolved(2)
    assert not lock.resolved(2)
    now[0] += 4.9
    assert not lock.claim(), "an answer is trusted as long as the first"
