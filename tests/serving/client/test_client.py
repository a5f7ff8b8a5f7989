"""The blocking client against a scripted server that parses requests with TensorFlow's own
protos.
"""

from __future__ import annotations

import threading
from concurrent import futures

import grpc
import numpy as np
import pytest
import tensorflow as tf

from limaml_serving import RequestError, ServingError
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.store import open_store


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


def test_a_faulty_request_among_many_is_named_by_position(make_ranker, member, candidates):
    with pytest.raises(RequestError, match=r"request 1: .*price.* is missing"):
        make_ranker().rank_many([(member, candidates), (member, {"tab": [1]})])


def test_a_failing_store_is_counted_and_the_model_scores_unadapted(
    make_ranker, store, store_failure, member, candidates
):
    store.failure = store_failure
    ranker = make_ranker()
    assert not ranker.rank(member, candidates).used_embedding.any()
    assert ranker.counters.store_errors == 1


def test_a_slow_server_ends_in_deadline_exceeded_without_a_second_attempt(
    make_ranker, server, member, candidates
):
    import threading

    release = threading.Event()
    server.script = lambda call, request, context: release.wait(20) and None
    ranker = make_ranker(version=1)
    try:
        with pytest.raises(ServingError) as caught:
            ranker.rank(member, candidates, timeout=1.0)
    finally:
        release.set()
    assert caught.value.code == "DEADLINE_EXCEEDED"
    assert len(server.requests) == 1
    assert ranker.counters.deadline_exceeded == 1


def test_a_store_that_hangs_is_given_up_in_time_to_ask_the_server(
    make_ranker, server, store, member, candidates
):
    hung = threading.Event()
    get_many = store.get_many
    store.get_many = lambda keys, version: hung.wait(60) and get_many(keys, version)
    ranker = make_ranker(version=1)
    try:
        ranked = ranker.rank(member, candidates, timeout=2.0)
    finally:
        hung.set()
    assert not ranked.used_embedding.any()
    assert (ranker.counters.store_errors, ranker.counters.deadline_exceeded) == (1, 0)


@pytest.mark.parametrize(
    "failure",
    [OverflowError("cannot convert float infinity"), UnicodeDecodeError("utf-8", b"", 0, 1, "x")],
    ids=["overflow", "unicode"],
)
def test_a_fault_that_a_store_did_not_foresee_costs_the_embeddings_and_no_more(
    make_ranker, store, member, candidates, failure
):
    store.failure = failure
    ranker = make_ranker()
    assert not ranker.rank(member, candidates).used_embedding.any()
    assert ranker.counters.store_errors == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_stored_vector_that_is_not_finite_never_reaches_a_score(
    make_ranker, store, member, candidates, bad
):
    store.versions[1]["7"][1] = bad
    ranker = make_ranker()
    ranked = ranker.rank(member, candidates)
    assert np.isfinite(ranked.probability).all()
    assert not ranked.used_embedding.any()
    assert (ranker.counters.damaged, ranker.counters.missing) == (1, 4)


@pytest.mark.parametrize("bad_id", ["", "x" * 600, "\ud800"], ids=["empty", "long", "surrogate"])
def test_one_id_that_no_store_can_hold_costs_the_others_nothing(
    make_ranker, member, candidates, tmp_path, bad_id
):
    store = open_store(f"lmdb:{tmp_path}")
    with store.new_generation(1, 3) as writer:
        writer.put(["7"], np.array([[1, 0, 0]], np.float32))
        writer.publish()
    ranker = make_ranker(store=store)
    first, second, third = ranker.rank_many(
        [(member, candidates), ({**member, "user_id": bad_id}, candidates), (member, candidates)]
    )
    assert first.used_embedding.all()
    assert third.used_embedding.all()
    assert not second.used_embedding.any()
    assert (ranker.counters.anonymous, ranker.counters.store_errors) == (4, 0)


def test_candidates_without_a_column_that_the_model_knows_are_refused(make_ranker, member, server):
    everything = {**member, "price": 1.0, "tab": 2}
    with pytest.raises(RequestError, match=r"no column that the model knows: .*'colour'"):
        make_ranker().rank(everything, {"colour": ["red", "blue"]})
    assert server.requests == []


@pytest.mark.parametrize("code", ["UNAVAILABLE", "RESOURCE_EXHAUSTED"])
def test_safe_codes_are_tried_again_until_the_server_answers(
    make_ranker, server, member, candidates, code
):
    import grpc

    server.script = lambda call, request, context: (
        context.abort(grpc.StatusCode[code], "later") if call < 3 else None
    )
    assert make_ranker(retries=2).rank(member, candidates).model_version == 1
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    "code", ["INVALID_ARGUMENT", "INTERNAL", "ABORTED", "FAILED_PRECONDITION", "UNKNOWN"]
)
def test_other_codes_are_never_tried_again(make_ranker, server, member, candidates, code):
    import grpc

    server.script = lambda call, request, context: context.abort(grpc.StatusCode[code], "no")
    ranker = make_ranker(retries=4)
    with pytest.raises(ServingError) as caught:
        ranker.rank(member, candidates)
    assert caught.value.code == code
    assert len(server.requests) == 1
    assert ranker.counters.failed == 1


def test_a_server_that_is_not_there_is_unavailable(make_ranker, member, candidates):
    ranker = make_ranker(target="127.0.0.1:1", timeout=5.0)
    with pytest.raises(ServingError) as caught:
        ranker.rank(member, candidates)
    assert caught.value.code == "UNAVAILABLE"
    assert ranker.counters.unavailable == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"retries": 5}, r"retries must lie in 0\.\.4"),
        ({"timeout": 0.0}, "timeout must be a positive"),
        ({"version": 1, "version_label": "stable"}, "not both"),
        ({"version": 0}, "version must be positive"),
        ({"signature": "serve_examples"}, "signature must be 'rank' or 'serving_default'"),
        ({"on_version_mismatch": "ignore"}, "on_version_mismatch must be"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(make_ranker, change, message):
    with pytest.raises(LimamlError, match=message):
        make_ranker(**change)


def test_a_server_that_starts_late_is_waited_for(make_ranker):
    late = grpc.server(futures.ThreadPoolExecutor(1))
    ranker = make_ranker(target=f"127.0.0.1:{late.add_insecure_port('127.0.0.1:0')}")
    try:
        with pytest.raises(
            ServingError, match=r"no server answers at 127.0.0.1:\d+ after 0.2 seconds"
        ) as error:
            ranker.wait_for_server(0.2)
        assert error.value.code == "UNAVAILABLE"
        threading.Timer(0.3, late.start).start()
        ranker.wait_for_server(30)
    finally:
        late.stop(None)
