"""The daily job where another one runs, and under every kind of failure and violent end."""

import contextlib
import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from daily_rows import expected, sums

from limaml_beam.refresh import checks
from tfrec_limaml.cli import main
from tfrec_limaml.errors import StoreError
from tfrec_limaml.store import open_store

DRIVER = Path(__file__).with_name("refresh_driver.py")


PLACES = (
    "while preparing",
    "after preparing",
    "while writing embeddings",
    "before the checks",
    "while loading the store",
    "just before the pointer moves",
    "just after the pointer moved",
)


FOLLOWED_BY_A_WHOLE_RUN = (
    "while writing embeddings",
    "while loading the store",
    "just after the pointer moved",
)


@contextlib.contextmanager
def another_refresh(work):
    """Holds the lock of a work folder as process 4711."""
    work.mkdir(exist_ok=True)
    with open(work / "refresh.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("4711\n")
        file.flush()
        yield


def test_a_second_refresh_beside_the_first_is_refused(raw, arguments, tmp_path, capsys):
    with another_refresh(tmp_path / "work"):
        assert main(["refresh", raw(1), *arguments]) == 2
    assert "another refresh (process 4711)" in capsys.readouterr().err
    assert main(["refresh", raw(1), *arguments]) == 0


def test_a_refresh_that_the_lock_refuses_is_on_record_and_hides_nothing_of_the_other(
    raw, arguments, result, tmp_path
):
    report, metrics = tmp_path / "report.json", tmp_path / "refresh.prom"
    arguments = [*arguments, "--report", str(report), "--metrics-file", str(metrics)]
    locked = 'limaml_run_last_locked_timestamp_seconds{command="refresh"}'

    def samples():
        lines = [x.rsplit(" ", 1) for x in metrics.read_text().splitlines() if x[0] != "#"]
        return {name: float(value) for name, value in lines}

    with another_refresh(tmp_path / "work"):
        assert main(["refresh", raw(1), *arguments]) == 2
    assert json.loads(report.read_text())["stage"] == "lock"
    assert not metrics.exists()  # it would say that the last run failed
    assert not (tmp_path / "work" / "refresh.json").exists()
    assert main(["refresh", raw(1), *arguments]) == 0
    of_the_first = samples()
    assert of_the_first['limaml_run_success{command="refresh"}'] == 1
    with another_refresh(tmp_path / "work"):
        assert main(["refresh", raw(1), *arguments]) == 2
    refused = json.loads(report.read_text())
    assert (refused["outcome"], refused["stage"]) == ("refused", "lock")
    assert "another refresh (process 4711)" in refused["reason"]
    assert result()["outcome"] == "done"
    of_the_second = samples()
    first_time = of_the_second.pop(locked)
    assert of_the_second == of_the_first
    with another_refresh(tmp_path / "work"):
        assert main(["refresh", raw(1), *arguments]) == 2
    assert samples().pop(locked) > first_time


def test_a_work_folder_that_cannot_be_used_is_on_record(raw, arguments, tmp_path):
    (tmp_path / "work").write_text("a file")
    report, metrics = tmp_path / "report.json", tmp_path / "refresh.prom"
    command = ["refresh", raw(1), *arguments, "--report", str(report)]
    assert main([*command, "--metrics-file", str(metrics)]) == 2
    assert json.loads(report.read_text())["outcome"] == "failed"
    assert 'limaml_run_success{command="refresh"} 0.0' in metrics.read_text()


def test_a_full_disk_fails_the_run_and_the_next_one_succeeds(raw, arguments, tmp_path, capsys):
    store = open_store(f"lmdb:{tmp_path}/store")
    assert main(["refresh", raw(1), *arguments]) == 0
    before = store.current(7)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    folder = raw(2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, limits[1]))
    try:
        code = main(["refresh", folder, *arguments])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2
    assert "too large" in capsys.readouterr().err.lower()
    assert store.current(7) == before
    assert main(["refresh", folder, *arguments, "--max-drift", "3"]) == 0
    np.testing.assert_array_equal(sums(store), expected(2))


def test_a_publication_that_fails_is_made_up_for_without_adapting_again(
    raw, arguments, result, tmp_path, monkeypatch, capsys
):
    store = open_store(f"lmdb:{tmp_path}/store")

    def unreachable(*_, **__):
        raise StoreError("the store did not answer")

    with monkeypatch.context() as patch:
        patch.setattr("limaml_beam.refresh.outputs.publish", unreachable)
        assert main(["refresh", raw(1), *arguments]) == 2
    assert "the store did not answer" in capsys.readouterr().err
    failed = result()
    assert (failed["outcome"], failed["stage"]) == ("failed", "publish")
    assert (failed["published"], failed["embedded"]) == (None, 30)
    assert main(["refresh", raw(2), *arguments, "--max-drift", "3"]) == 0
    assert result()["published_pending"] == failed["generation"]
    assert (result()["embedded"], result()["carried"]) == (10, 20)
    np.testing.assert_array_equal(sums(store), expected(2))


def test_what_another_export_left_unpublished_is_adapted_again(
    raw, arguments, export, result, tmp_path, monkeypatch
):
    def unreachable(*_, **__):
        raise StoreError("the store did not answer")

    with monkeypatch.context() as patch:
        patch.setattr("limaml_beam.refresh.outputs.publish", unreachable)
        assert main(["refresh", raw(1), *arguments]) == 2
    other = shutil.copytree(export, tmp_path / "other")
    for manifest in other.glob("*/7/assets.extra/manifest.json"):
        content = json.loads(manifest.read_text()) | {"created": "2022-06-02T00:00:00+00:00"}
        manifest.write_text(json.dumps(content))
    arguments[arguments.index("--export") + 1] = str(other)
    assert main(["refresh", raw(1), *arguments]) == 0
    assert "published_pending" not in result()
    assert (result()["embedded"], result()["carried"]) == (30, 0)


def test_vectors_of_a_generation_that_is_rolled_back_during_a_run_do_not_come_back(
    raw, arguments, result, tmp_path, monkeypatch, capsys
):
    store = open_store(f"lmdb:{tmp_path}/store")
    assert main(["refresh", raw(1), *arguments]) == 0
    assert main(["refresh", raw(2), *arguments, "--max-drift", "3"]) == 0
    bad = store.current(7).identifier
    check = checks.check_run

    def rolled_back(*given):
        store.rollback(7)
        return check(*given)

    with monkeypatch.context() as patch:
        patch.setattr("limaml_beam.refresh.checks.check_run", rolled_back)
        assert main(["refresh", raw(2), *arguments]) == 2
    assert f"generation {bad}, whose vectors were carried over, was rolled back" in (
        capsys.readouterr().err
    )
    assert main(["refresh", raw(1), *arguments]) == 0
    assert result().get("published_pending") is None
    assert (result()["embedded"], result()["carried"]) == (0, 30)
    np.testing.assert_array_equal(sums(store), expected(1))


def test_a_run_that_fails_before_anything_is_read_is_on_record(raw, arguments, result):
    assert main(["refresh", raw(1), *arguments]) == 0
    assert result()["outcome"] == "done"
    place = arguments.index("--export") + 1
    broken = [*arguments[:place], "/nowhere", *arguments[place + 1 :]]
    assert main(["refresh", raw(1), *broken]) == 2
    assert (result()["outcome"], result()["stage"]) == ("failed", "start")
    assert "no exported version" in result()["reason"]
    assert "published" not in result()


@pytest.mark.slow
def test_a_refresh_killed_anywhere_leaves_the_published_generation_whole(raw, arguments, tmp_path):
    store = open_store(f"lmdb:{tmp_path}/store")
    arguments = [*arguments, "--max-drift", "100", "--max-norm-ratio", "100"]
    assert main(["refresh", raw(1), *arguments]) == 0
    published = 1
    with subprocess.Popen(
        [sys.executable, DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as driver:
        for days, place in enumerate(PLACES, start=2):
            # Each starts from what the one killed before it has left.
            driver.stdin.write(json.dumps([place, "refresh", raw(days), *arguments]) + "\n")
            driver.stdin.flush()
            answer = json.loads(driver.stdout.readline())
            assert "reached" in answer, (place, answer)
            os.kill(answer["reached"], signal.SIGKILL)
            assert json.loads(driver.stdout.readline()) == {"ended": signal.SIGKILL}
            if place == "just after the pointer moved":
                published = days - 1  # it publishes first what the one before it could not
            np.testing.assert_array_equal(sums(store), expected(published), place)
            assert store.current(7).count == 30
            if place in FOLLOWED_BY_A_WHOLE_RUN:
                assert main(["refresh", raw(days), *arguments]) == 0, place
                published = days
                np.testing.assert_array_equal(sums(store), expected(days), place)
                kept = {p.name for p in (tmp_path / "work" / "embeddings").iterdir()}
                assert kept == {g.identifier for g in store.generations(7)}, place
                assert not list((tmp_path / "work").glob("*partial*")), place
        driver.stdin.close()


@pytest.mark.slow
def test_a_store_that_goes_away_fails_the_run_and_may_come_back(
    raw, arguments, tmp_path, redis_server, capsys
):
    address = f"{redis_server.address}?prefix={tmp_path.name}"
    arguments = [*arguments, "--store", address]
    assert main(["refresh", raw(1), *arguments]) == 0
    redis_server.stop()
    assert main(["refresh", raw(2), *arguments]) == 2
    assert "did not answer" in capsys.readouterr().err
    redis_server.start()
    assert main(["refresh", raw(2), *arguments, "--max-drift", "3"]) == 0
    np.testing.assert_array_equal(sums(open_store(address)), expected(2))
