"""Several workers make the steps that one process makes on the whole batch; none waits for ever."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from ports import free_ports

from tfrec_limaml.errors import LimamlError, VersionMismatchError
from tfrec_limaml.tasks.record_files import Share
from tfrec_limaml.training.distribution import (
    Workers,
    check_equal,
)
from tfrec_limaml.training.lost_workers import TimeLimit

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("two_workers.py")
#: Sums of float32 in another order; losses are near 1.5.
BOUND = 1e-5


@pytest.fixture(scope="module")
def start(forks, tasks_folder):
    """``start(when, run, *arguments, TF_CONFIG=...)``: a worker."""
    return lambda when, run, *arguments, **environment: forks().start(
        SCRIPT, when, tasks_folder, run, *arguments, **environment
    )


@pytest.fixture(scope="module")
def pair(start):
    """``pair(run, *arguments)``: return codes and standard errors of two workers."""

    def run_them(run, *arguments, whens=("never", "never"), further=((), ())):
        hosts = [f"127.0.0.1:{port}" for port in free_ports(2)]
        workers = [
            start(
                *(whens[index], run, *arguments, *further[index]),
                TF_CONFIG=json.dumps(
                    {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}}
                ),
            )
            for index in range(2)
        ]
        done = [worker.wait(400) for worker in workers]
        return [each.returncode for each in done], [each.stderr for each in done]

    return run_them


def outcome(run):
    history = json.loads((run / "limaml.training.json").read_text())["history"]
    return history, keras.models.load_model(run / "limaml.keras").get_weights()


def assert_close(one, other, bound, of_weights=None):
    assert one[0].keys() == other[0].keys()
    assert len(one[0]["loss"]) == 3
    for name, values in one[0].items():
        np.testing.assert_allclose(values, other[0][name], rtol=0, atol=bound, err_msg=name)
    for a, b in zip(one[1], other[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=bound if of_weights is None else of_weights)


@pytest.fixture(scope="module")
def two_workers(pair, tmp_path_factory):
    run = tmp_path_factory.mktemp("two")
    codes, errors = pair(run)
    assert codes == [0, 0], errors[0][-2000:] + errors[1][-2000:]
    assert sorted(path.name for path in run.iterdir()) == ["limaml.keras", "limaml.training.json"]
    return *outcome(run), errors


def test_two_workers_have_the_loss_curve_of_one_process_on_the_whole_batch(
    two_workers, start, tmp_path
):
    done = start("alone", tmp_path).wait(300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert_close(two_workers, outcome(tmp_path), BOUND)


def test_a_step_of_two_workers_packs_its_all_reduces_and_sets_them_no_time_limit(two_workers):
    for error in two_workers[2]:
        # Counted in the text: TensorFlow's own lines may come in between. Validation has none; a
        # graph may be traced twice. Without packing there are seven, and more in validation.
        count = error.count("all-reduce with the time limit None")
        assert 1 <= count <= 2
        assert error.count("all-reduce with the time limit") == count


def test_a_killed_worker_ends_the_other_one_and_both_resume_to_the_same_weights(
    two_workers, pair, tmp_path
):
    arguments = ("--checkpoint-steps", "3", "--resume")
    codes, errors = pair(tmp_path, *arguments, whens=("never", "batch:12"))
    assert codes == [2, -signal.SIGKILL]
    assert "another worker is gone" in errors[0]
    assert "Traceback" not in errors[0]
    codes, errors = pair(tmp_path, *arguments)
    assert codes == [0, 0], errors[0][-2000:] + errors[1][-2000:]
    # The checkpoint holds an epoch's sums as one number, workers hold their parts.
    assert_close(outcome(tmp_path), two_workers, 1e-6, of_weights=0.0)


def test_a_worker_with_other_options_is_refused_by_all(pair, tmp_path):
    codes, errors = pair(tmp_path, further=((), ("--seed", "7")))
    assert codes == [2, 2]
    for error in errors:
        assert "worker 1 has option seed 7, worker 0 has 1; start all workers with" in error
    assert not list(tmp_path.iterdir())


def test_two_replicas_of_one_process_have_the_loss_curve_of_one(start, tmp_path):
    done = start("mirrored", tmp_path).wait(300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert_close(outcome(tmp_path), outcome(tmp_path / "alone"), BOUND)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("schema fingerprint", "0123456789abcdef"),
        ("version", "0.0.1"),
        ("number of files", [7]),
        ("option dropout", 0.5),
    ],
)
def test_a_worker_that_differs_is_named_with_what_differs(name, value):
    identity = {
        "schema fingerprint": "f",
        "version": "1",
        "number of files": [8],
        "option dropout": 0.0,
    }
    check_equal([identity, identity])
    with pytest.raises(VersionMismatchError, match=f"worker 2 has {name} .*, worker 0 has"):
        check_equal([identity, identity, {**identity, name: value}])


def test_steps_per_epoch_are_those_of_the_worker_with_the_most_tasks():
    workers = Workers(None, Share(0, 3), replicas=2)
    assert workers.all_replicas == 6
    assert workers.per_replica(13) == 3
    assert workers.steps([6, 7, 0], 3) == 2  # 3 batches of 3 tasks, 2 at once
    assert workers.steps([6, 6, 6], 3) == 1


def test_a_time_limit_ends_what_stands_still_and_a_renewed_one_does_not():
    ended, over = [], threading.Event()

    def end(message):
        ended.append(message)
        over.set()

    with TimeLimit(0.2, "the start", end):
        assert over.wait(30)
    assert "no progress in 0.2 s, waiting for the start" in ended[0]
    with TimeLimit(30, "the start", end) as limit:
        limit.renew()
    assert len(ended) == 1


def test_other_strategies_are_refused():
    with pytest.raises(LimamlError, match="received str"):
        Workers.of("parameter-server")


def test_a_strategy_is_passed_and_not_entered():
    with (
        tf.distribute.MirroredStrategy(["CPU:0"]).scope(),
        pytest.raises(LimamlError, match="leave the scope and pass strategy="),
    ):
        Workers.of(None)
