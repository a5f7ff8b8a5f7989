"""The blocking client against a scripted server, which reads requests with TensorFlow's protos."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import tensorflow as tf

from limaml_serving import RequestError
from tfrec_limaml.errors import LimamlError


def _inputs(request):
    return {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}


def test_candidates_come_back_best_first_with_the_members_embedding(
    make_ranker, member, candidates
):
    ranked = make_ranker().rank(member, candidates)
    assert ranked.order.tolist() == [1, 2, 0, 3]
    np.testing.assert_allclose(ranked.logit, [10109, 10105, 10103, 10101])
    assert ranked.used_embedding.all()
    assert ranked.model_version == 1
    assert ranked.filled == ()


def test_the_request_carries_each_feature_once_in_its_own_type(
    make_ranker, server, member, candidates
):
    make_ranker().rank(member, candidates)
    request = server.requests[0]
    assert request.model_spec.signature_name == "rank"
    assert request.model_spec.version.value == 1
    assert list(request.output_filter) == ["probability", "logit"]
    inputs = _inputs(request)
    assert sorted(inputs) == [
        "age",
        "country",
        "has_meta_embedding",
        "image",
        "meta_embedding",
        "price",
        "tab",
    ]
    assert inputs["age"].tolist() == [41.0]
    assert inputs["country"].tolist() == [b"CH"]
    assert inputs["tab"].dtype == np.int64
    assert inputs["tab"].tolist() == [0, 1, 1, 2]
    assert inputs["image"].shape == (4, 2)
    assert inputs["meta_embedding"].tolist() == [[1.0, 0.0, 0.0]]
    assert inputs["has_meta_embedding"].tolist() == [True]


def test_a_list_of_mappings_ranks_like_columns(make_ranker, member, candidates):
    ranker = make_ranker()
    rows = [{name: values[i] for name, values in candidates.items()} for i in range(4)]
    np.testing.assert_array_equal(
        ranker.rank(member, rows).logit, ranker.rank(member, candidates).logit
    )


def test_equal_scores_keep_their_order(make_ranker, member):
    assert make_ranker().rank(member, {"price": np.repeat([5.0, 7.0], 40)}).order.tolist() == [
        *range(40, 80),
        *range(40),
    ]


def test_a_server_that_batches_is_sent_columns_of_one_length(
    make_ranker, server, member, candidates
):
    expected = make_ranker().rank(member, candidates)
    ranked = make_ranker(signature="serving_default").rank(member, candidates)
    assert server.requests[-1].model_spec.signature_name == "serving_default"
    assert {len(values) for values in _inputs(server.requests[-1]).values()} == {4}
    np.testing.assert_array_equal(ranked.logit, expected.logit)


def test_top_returns_the_best_only(make_ranker, member, candidates):
    ranked = make_ranker().rank(member, candidates, top=2)
    assert ranked.order.tolist() == [1, 2]
    assert len(ranked.probability) == len(ranked.used_embedding) == 2


@pytest.mark.parametrize("top", ["2", 2.0, True, 0, [1]])
def test_a_top_that_is_no_number_of_candidates_is_refused(make_ranker, member, candidates, top):
    with pytest.raises(RequestError, match="top must be a whole number of at least 1, received"):
        make_ranker().rank(member, candidates, top=top)


def test_a_member_without_embedding_is_scored_unadapted_and_counted(
    make_ranker, member, candidates
):
    ranker = make_ranker()
    ranked = ranker.rank({**member, "user_id": 99}, candidates)
    assert not ranked.used_embedding.any()
    np.testing.assert_allclose(ranked.logit, [10009, 10005, 10003, 10001])
    assert (ranker.counters.missing, ranker.counters.adapted, ranker.counters.candidates) == (
        4,
        0,
        4,
    )


def test_a_store_of_another_make_may_hold_other_floats(
    make_ranker, server, store, member, candidates, monkeypatch
):
    monkeypatch.setattr(
        store, "get_many", lambda keys, version: (np.array([[1.0, 2.0, 3.0]]), [True])
    )
    ranked = make_ranker().rank(member, candidates)
    assert _inputs(server.requests[0])["meta_embedding"].tolist() == [[1.0, 2.0, 3.0]]
    assert ranked.used_embedding.all()


def test_someone_unknown_is_scored_unadapted_without_a_look_up(
    make_ranker, store, member, candidates
):
    ranker = make_ranker()
    assert not ranker.rank({**member, "user_id": None}, candidates).used_embedding.any()
    assert store.asked == []
    assert ranker.counters.anonymous == 4


def test_no_candidates_give_an_empty_ranking_without_asking_the_server(make_ranker, server, member):
    ranked = make_ranker().rank(member, [])
    assert ranked.order.tolist() == []
    assert server.requests == []


def test_keys_that_vary_by_candidate_are_looked_up_once_each(
    make_ranker, make_manifest, server, store, member, candidates
):
    store.versions[1] = {"7|0": [1.0, 0, 0], "7|1": [2.0, 0, 0]}
    ranker = make_ranker(manifest=make_manifest(task_definition="user_tab"))
    ranked = ranker.rank(member, candidates)
    assert store.asked == [(("7|0", "7|1", "7|2"), 1)]
    assert dict(zip(ranked.order.tolist(), ranked.used_embedding.tolist(), strict=True)) == {
        0: True,
        1: True,
        2: True,
        3: False,
    }
    assert _inputs(server.requests[0])["meta_embedding"][:, 0].tolist() == [1.0, 2.0, 2.0, 0.0]
    assert (ranker.counters.adapted, ranker.counters.missing) == (3, 1)


def test_nested_definitions_share_the_look_up_and_have_an_input_of_their_own(
    make_ranker, make_manifest, server, store, member, candidates
):
    store.versions[1] |= {"7|0": [10.0, 0, 0], "7|1": [20.0, 0, 0]}
    ranker = make_ranker(manifest=make_manifest(nested_definitions=("user_tab",)))
    ranked = ranker.rank(member, candidates)
    assert store.asked == [(("7", "7|0", "7|1", "7|2"), 1)]
    inputs = _inputs(server.requests[0])
    assert inputs["meta_embedding"].tolist() == [[1.0, 0.0, 0.0]]
    assert inputs["has_meta_embedding"].tolist() == [True]
    assert inputs["meta_embedding_user_tab"][:, 0].tolist() == [10.0, 20.0, 20.0, 0.0]
    assert inputs["has_meta_embedding_user_tab"].tolist() == [True, True, True, False]
    assert ranked.used_embedding.all()
    assert (ranker.counters.adapted, ranker.counters.missing) == (4, 0)


def test_nested_definitions_are_laid_end_to_end_for_many_requests(
    make_ranker, make_manifest, server, store, member, candidates
):
    store.versions[1] |= {"7|1": [20.0, 0, 0], "8|2": [30.0, 0, 0]}
    ranker = make_ranker(manifest=make_manifest(nested_definitions=("user_tab",)))
    one = {"price": np.array([3.0]), "image": np.ones((1, 2), np.float32)}
    ranker.rank_many(
        [
            (member, candidates),
            ({**member, "user_id": 8, "tab": 2}, one),
            ({**member, "user_id": 99, "tab": 1}, one),
        ]
    )
    inputs = _inputs(server.requests[0])
    assert inputs["meta_embedding"][:, 0].tolist() == [1, 1, 1, 1, 2, 0]
    assert inputs["meta_embedding_user_tab"][:, 0].tolist() == [0, 20, 20, 0, 30, 0]
    assert inputs["has_meta_embedding_user_tab"].tolist() == [False, True, True, False, True, False]


def test_many_requests_are_one_look_up_and_one_call_with_the_same_scores(
    make_ranker, server, store, member, candidates
):
    ranker = make_ranker()
    unknown_member = {**member, "user_id": 99}
    short = {name: values[:1] for name, values in candidates.items()}
    answers = ranker.rank_many(
        [
            (member, candidates),
            (unknown_member, short),
            (member, []),
            ({**member, "user_id": 8}, candidates),
        ]
    )
    assert len(server.requests) == len(store.asked) == 1
    assert server.requests[0].model_spec.signature_name == "serving_default"
    assert {len(v) for v in _inputs(server.requests[0]).values()} == {9}
    for answer, request in zip(
        answers,
        [
            (member, candidates),
            (unknown_member, short),
            (member, []),
            ({**member, "user_id": 8}, candidates),
        ],
        strict=True,
    ):
        alone = ranker.rank(*request)
        np.testing.assert_array_equal(answer.logit, alone.logit)
        np.testing.assert_array_equal(answer.order, alone.order)
        np.testing.assert_array_equal(answer.used_embedding, alone.used_embedding)


def test_someone_unknown_among_members_gets_nobodys_embedding(make_ranker, member, candidates):
    ranker = make_ranker()
    known, unknown = ranker.rank_many(
        [(member, candidates), ({**member, "user_id": None}, candidates)]
    )
    assert known.used_embedding.all()
    assert not unknown.used_embedding.any()
    assert (ranker.counters.adapted, ranker.counters.anonymous) == (4, 4)


def test_a_time_limit_without_end_is_refused(make_ranker, member, candidates):
    with pytest.raises(RequestError, match="timeout must be a number of seconds, received inf"):
        make_ranker().rank(member, candidates, timeout=float("inf"))


@pytest.mark.parametrize("seconds", [np.float32(20), np.int64(20), Fraction(20)])
def test_a_time_limit_may_be_any_number(make_ranker, member, candidates, seconds):
    for ranker, limit in ((make_ranker(), seconds), (make_ranker(timeout=seconds), None)):
        assert ranker.rank(member, candidates, timeout=limit).model_version == 1
    with pytest.raises(RequestError, match="timeout must be a number of seconds, received '20'"):
        make_ranker().rank(member, candidates, timeout="20")


def test_requests_of_another_form_are_refused_and_may_come_one_by_one(
    make_ranker, member, candidates
):
    ranker = make_ranker()
    assert len(ranker.rank_many((member, candidates) for _ in range(3))) == 3
    for bad in (member, (member,), (member, candidates, 3), None):
        with pytest.raises(RequestError, match=r"request 1: must be a pair \(member, candidates\)"):
            ranker.rank_many([(member, candidates), bad])


def test_a_faulty_request_among_many_is_named_by_position(make_ranker, member, candidates):
    with pytest.raises(RequestError, match=r"request 1: .*price.* is missing"):
        make_ranker().rank_many([(member, candidates), (member, {"tab": [1]})])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"retries": 5}, "retries must be a whole number from 0 to 4"),
        ({"timeout": 0.0}, "timeout must be a positive"),
        ({"timeout": float("inf")}, "timeout must be a positive number of seconds, received inf"),
        ({"tls": True}, r"tls must be a limaml_serving\.Tls, received True"),
        ({"version": 1, "version_label": "stable"}, "not both"),
        ({"version": 0}, "version must be a positive whole number"),
        ({"version": "1"}, "version must be a positive whole number, received '1'"),
        ({"version": 1.5}, "version must be a positive whole number, received 1.5"),
        ({"version_label": ""}, "version_label must be a label's name, received ''"),
        ({"version_label": 3}, "version_label must be a label's name, received 3"),
        ({"retries": 1.5}, r"retries must be a whole number from 0 to 4 .*received 1\.5"),
        ({"retries": "2"}, "retries must be a whole number from 0 to 4 .*received '2'"),
        ({"signature": "serve_examples"}, "signature must be 'rank' or 'serving_default'"),
        ({"on_version_mismatch": "ignore"}, "on_version_mismatch must be"),
        ({"timeout": "1"}, "timeout must be a positive number of seconds, received '1'"),
        ({"target": None}, "target must be HOST:PORT, received None"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(make_ranker, change, message):
    with pytest.raises(LimamlError, match=message):
        make_ranker(**change)


def test_a_model_of_another_loss_has_predictions_and_no_probabilities(
    make_ranker, make_manifest, server, member, candidates
):
    expected = make_ranker().rank(member, candidates, top=3)
    assert expected.is_probability
    np.testing.assert_array_equal(expected.prediction, expected.probability)
    ranker = make_ranker(manifest=make_manifest(binary=False))
    for answer in (
        ranker.rank(member, candidates, top=3),
        ranker.rank_many([(member, candidates), (member, candidates)], top=3)[1],
    ):
        assert not answer.is_probability
        np.testing.assert_array_equal(answer.order, expected.order)
        np.testing.assert_array_equal(answer.prediction, expected.logit)
        assert np.isnan([answer.probability, answer.logit]).all()
    assert list(server.requests[-1].output_filter) == ["prediction"]
    assert len(ranker.rank(member, []).prediction) == 0
