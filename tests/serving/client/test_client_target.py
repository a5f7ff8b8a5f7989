"""The client against the conformance models: the embedded server, or a real one named by
``--serving-target``.
"""

from __future__ import annotations

import numpy as np
import pytest
from toys import toy_schema

from limaml_serving import Ranker, ServingError
from tfrec_limaml.schema.schema import Feature

CANDIDATES = {
    "country": ["CH", "XX", "NZ"]
}  # the model adds 100, 0 and 200 to its bias, which is the version's number


@pytest.fixture
def make_conformance_ranker(target, store, make_manifest):
    """``make(version_label="stable")``: a client of the conformance model, whose embeddings sum up
    to ten times the version.
    """
    schema = toy_schema(
        Feature(name="country", role="meta", dtype="string", encoding="vocabulary"),
        label="y",
        timestamp="t",
    )
    store.versions = {version: {"7": [10.0 * version, 0.0, 0.0, 0.0]} for version in (1, 2)}
    manifest = {
        "schema": schema.to_dict(),
        "schema_fingerprint": schema.fingerprint(),
        "embedding_dim": 4,
    }
    made = []

    def make(known=1, **changes):
        settings = {
            "manifest": make_manifest(known, **manifest),
            "model_name": "conformance",
            "signature": "serving_default",
            "timeout": 20.0,
        }
        made.append(Ranker(target, store, **{**settings, **changes}))
        return made[-1]

    yield make
    for ranker in made:
        ranker.close()


@pytest.mark.parametrize(("label", "version"), [("stable", 1), ("canary", 2)])
def test_a_label_is_followed_with_the_embeddings_of_its_version(
    make_conformance_ranker, label, version
):
    ranker = make_conformance_ranker(known=version, version_label=label)
    ranked = ranker.rank({"user_id": 7}, CANDIDATES)
    assert ranked.model_version == version
    np.testing.assert_allclose(ranked.logit, [200 + 11 * version, 100 + 11 * version, 11 * version])
    assert ranked.order.tolist() == [2, 0, 1]
    assert ranked.used_embedding.all()


def test_without_a_label_the_newest_version_answers(make_conformance_ranker):
    assert make_conformance_ranker(known=2).rank({"user_id": 7}, CANDIDATES).model_version == 2


def test_members_with_and_without_embedding_share_a_call(make_conformance_ranker):
    known, unknown = make_conformance_ranker(version=1).rank_many(
        [({"user_id": 7}, CANDIDATES), ({"user_id": 8}, CANDIDATES)]
    )
    np.testing.assert_allclose(known.logit - unknown.logit, [10.0, 10.0, 10.0])
    assert (known.used_embedding.all(), unknown.used_embedding.any()) == (True, False)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"model_name": "absent"}, "NOT_FOUND"),
        ({"version": 9}, "NOT_FOUND"),
        ({"version_label": "absent"}, "INVALID_ARGUMENT"),
    ],
)
def test_what_the_server_does_not_have_is_its_error(make_conformance_ranker, change, code):
    with pytest.raises(ServingError) as caught:
        make_conformance_ranker(**change).rank({"user_id": 7}, CANDIDATES)
    assert caught.value.code == code


def test_an_input_that_the_model_does_not_have_is_refused(make_conformance_ranker, make_manifest):
    with pytest.raises(ServingError) as caught:
        make_conformance_ranker(manifest=make_manifest(1), version=1).rank(
            {"user_id": 7, "country": "CH"}, {"price": [1.0]}
        )
    assert caught.value.code == "INVALID_ARGUMENT"
