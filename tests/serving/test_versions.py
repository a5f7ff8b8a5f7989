"""Version directories: found, loaded, swapped, refused."""

from __future__ import annotations

import gc
import shutil
import threading
import time
import weakref

import numpy as np
import pytest
from serving_helpers import sample

from limaml_serving.server import VersionPolicy
from limaml_serving.server.versions import find_versions

START, LOADING, AVAILABLE, UNLOADING, END = 10, 20, 30, 40, 50


@pytest.fixture
def base(tmp_path):
    return tmp_path / "model"


def states(client):
    return {number: state for number, (state, _) in client.status().items()}


def test_only_directories_named_by_whole_numbers_are_versions(tmp_path):
    for name in ("1", "007", "12", "-3", "4.0", "٣", "²", "new", "9" * 40, "tmp5"):
        (tmp_path / name).mkdir()
    (tmp_path / "8").write_text("a file")
    (tmp_path / "6").symlink_to(tmp_path / "6")
    assert sorted(find_versions(tmp_path)) == [1, 7, 12]


@pytest.mark.parametrize(
    ("policy", "chosen"),
    [
        (VersionPolicy(), {9}),
        (VersionPolicy(count=2), {4, 9}),
        (VersionPolicy(count=5), {1, 4, 9}),
        (VersionPolicy(kind="all"), {1, 4, 9}),
        (VersionPolicy(kind="specific", versions=(1, 5)), {1}),
    ],
)
def test_a_policy_chooses_among_the_versions_found(policy, chosen):
    assert policy.choose([4, 1, 9]) == chosen


def test_a_new_version_takes_over_and_the_old_one_is_unloaded(serve_base, add_version):
    add_version(1)
    server, client = serve_base()
    assert client.logits() == [111.0, 1.0]
    add_version(2, like=2)
    server.manager.refresh()
    assert client.logits() == [112.0, 2.0]
    assert states(client) == {1: END, 2: AVAILABLE}
    available = [sample(server, "available", model="m", version=str(n)) for n in (1, 2)]
    assert available == [0.0, 1.0]


def test_of_two_versions_that_are_served_the_newer_one_answers_who_names_none(
    serve_base, add_version
):
    add_version(1)
    add_version(2, like=2)
    _, client = serve_base(VersionPolicy(count=2))
    assert states(client) == {1: AVAILABLE, 2: AVAILABLE}
    assert client.logits() == [112.0, 2.0]
    assert client.logits(version=1) == [111.0, 1.0]


def test_removing_the_newest_version_goes_back_to_the_one_before(serve_base, add_version, base):
    add_version(1)
    add_version(2, like=2)
    server, client = serve_base()
    assert client.logits() == [112.0, 2.0]
    shutil.rmtree(base / "2")
    server.manager.refresh()
    assert client.logits() == [111.0, 1.0]
    assert states(client) == {1: AVAILABLE, 2: END}


def test_a_vanished_base_directory_unloads_nothing(serve_base, add_version, base):
    add_version(1)
    server, client = serve_base()
    base.rename(base.with_name("elsewhere"))
    server.manager.refresh()
    assert client.logits() == [111.0, 1.0]


def test_the_disk_is_watched_and_swaps_lose_no_request(serve_base, add_version, base):
    add_version(1)
    server, client = serve_base(poll_seconds=0.05, workers=2, max_queue=1000)
    wrong, answered, stop = [], [], threading.Event()

    def ask():
        while not stop.is_set():
            answer = client.predict(client_rows)
            bias = 1.0 + (answer.model_spec.version.value + 1) % 2
            if answer.outputs["logit"].float_val[1] != bias:
                wrong.append(answer)
            answered.append(answer.model_spec.version.value)

    client_rows = {
        "country": [b"CH", b"XX"],
        "meta_embedding": [[1.0] * 4] * 2,
        "has_meta_embedding": [True, False],
    }
    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(2, 8):
            add_version(number, like=1 + (number + 1) % 2)
            deadline = time.monotonic() + 60
            while (
                not (answered and answered[-1] == number)
                and time.monotonic() < deadline
                and all(t.is_alive() for t in threads)
            ):
                time.sleep(0.01)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong
    assert set(answered) == set(range(1, 8))  # a failed request would have ended its thread
    while server.manager.statuses("m")[6][0] != END:
        time.sleep(0.01)


def test_a_version_in_use_is_freed_only_after_its_last_request(serve_base, add_version):
    add_version(1)
    server, client = serve_base()
    with server.manager.lease(client.request({}).model_spec) as (number, runner):
        add_version(2, like=2)
        server.manager.refresh()
        assert states(client) == {1: UNLOADING, 2: AVAILABLE}
        signature = runner.signature("total")
        assert number == 1
        assert runner.run(
            signature, {"anything": np.float32(1.0)}, signature.select_outputs([])
        ) == [2.0]
    assert states(client) == {1: END, 2: AVAILABLE}


def test_a_retired_version_is_freed_at_once_and_not_by_the_collector_some_day(
    serve_base, add_version, rows
):
    add_version(1)
    server, client = serve_base()
    gc.collect()
    gc.disable()
    try:
        with server.manager.lease(client.request({}).model_spec) as (_, runner):
            graph, session = weakref.ref(runner._graph), weakref.ref(runner._session)
        del runner
        client.predict(rows)
        add_version(2, like=2)
        server.manager.refresh()
        assert client.logits() == [112.0, 2.0]
        assert (graph(), session()) == (None, None)
    finally:
        gc.enable()


def test_a_link_out_of_the_base_directory_is_refused_and_one_inside_is_followed(
    serve_base, add_version, base, tmp_path
):
    add_version(1)
    outside = add_version(2, like=2).rename(tmp_path / "outside")
    (base / "3").symlink_to(outside)
    inner = add_version(4, like=2)
    variables = (inner / "variables").rename(tmp_path / "variables")
    (inner / "variables").symlink_to(variables)
    (base / "5").symlink_to(base / "1")
    _, client = serve_base(VersionPolicy(kind="all"))
    assert states(client) == {1: AVAILABLE, 3: END, 4: END, 5: AVAILABLE}
    for number in (3, 4):
        assert "leads out of" in client.status()[number][1]
    assert client.logits(version=5) == [111.0, 1.0]


def test_labels_move_only_to_versions_that_are_available(serve_base, add_version, base, refusal):
    def config(stable, versions="1, 2"):
        return f"""model_config_list {{ config {{ name: "m" base_path: "{base}" model_platform: "tensorflow"
            model_version_policy {{ specific {{ versions: [{versions}] }} }} version_labels {{ key: "stable" value: {stable} }} }} }}"""  # noqa: E501

    add_version(1)
    _, client = serve_base(VersionPolicy(kind="specific", versions=(1,)), {"stable": 1})
    add_version(2, like=2)
    assert client.logits(label="stable") == [111.0, 1.0]
    code, message = refusal(client.reload, config(stable=2))
    assert code == "FAILED_PRECONDITION"
    assert "version 2 of model m, which is not currently available" in message
    assert states(client) == {1: AVAILABLE}
    client.reload(config(stable=1))
    assert client.logits(label="stable") == [111.0, 1.0]
    assert states(client) == {1: AVAILABLE, 2: AVAILABLE}
    client.reload(config(stable=2))
    assert client.logits(label="stable") == [112.0, 2.0]
    client.reload(config(stable=2, versions="2"))
    assert states(client) == {1: END, 2: AVAILABLE}


def test_a_reload_adds_and_removes_models_and_says_where_a_new_one_cannot_serve(
    serve_base, add_version, base, refusal, tmp_path
):
    add_version(1)
    _, client = serve_base()
    text = 'config {{ name: "{}" base_path: "{}" model_platform: "tensorflow" }}'
    client.reload("model_config_list { " + text.format("other", base) + " }")
    assert client.logits(name="other") == [111.0, 1.0]
    assert refusal(client.logits)[0] == "NOT_FOUND"
    code, message = refusal(
        client.reload, "model_config_list { " + text.format("empty", tmp_path / "nowhere") + " }"
    )
    assert code == "UNKNOWN"
    assert "empty" in message
    code, message = refusal(
        client.reload, "model_config_list { " + text.format("m", "relative/path") + " }"
    )
    assert code == "INVALID_ARGUMENT"
    assert "absolute" in message


@pytest.mark.parametrize("name", ["team/ranker", "_v2", "naïve", "..", "../etc", ".hidden"])
def test_a_model_name_is_any_text_and_never_a_path(serve, connect, add_version, base, name):
    add_version(1)
    server = serve({name: base})
    assert connect(server.target, name=name).logits() == [111.0, 1.0]


def test_a_specific_version_that_is_absent_unloads_the_others(
    serve_base, add_version, base, refusal
):
    add_version(1)
    _, client = serve_base()
    assert client.logits() == [111.0, 1.0]
    client.reload(
        f"""model_config_list {{ config {{ name: "m" base_path: "{base}" model_type: TENSORFLOW
        model_version_policy {{ specific {{ versions: 7 }} }} }} }}"""
    )
    assert states(client) == {1: END}
    assert refusal(client.logits)[0] == "NOT_FOUND"
