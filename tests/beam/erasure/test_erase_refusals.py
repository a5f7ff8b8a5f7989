"""What ``limaml erase`` refuses, and which store proves nothing."""

import json

import pytest
from erasure_world import command, records_in

from limaml_beam.erasure.record_rows import task_key_of
from tfrec_limaml.cli import main
from tfrec_limaml.errors import UnconfirmedErasureError
from tfrec_limaml.store import open_store
from tfrec_limaml.store.lmdb_store import LmdbStore


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no task key given"),
        (["3"], "no place to erase from"),
        (["x" * 600, "--store", "lmdb:s"], "1 to 511 bytes"),
        (["3", "--manifest-of-outputs", "missing.yaml"], "no manifest of outputs"),
        (["3", "--manifest-of-outputs", "words.yaml"], "must be a list"),
        (["3", "--manifest-of-outputs", "gone.yaml"], "which do not exist"),
        (["--keys-file", "missing.txt"], "cannot read --keys-file"),
    ],
)
def test_what_cannot_be_erased_is_explained(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.yaml").write_text("tasks: x\n")
    (tmp_path / "gone.yaml").write_text("- nothing/here\n")
    assert main(["erase", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_spaces_around_a_key_of_a_file_are_refused(tmp_path, capsys):
    (tmp_path / "keys").write_text("3\n 4\n")
    keys = ["--keys-file", str(tmp_path / "keys")]
    assert main(["erase", *keys, "--store", f"lmdb:{tmp_path}/store"]) == 2
    assert "has spaces around ' 4'" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("verifying", [False, True])
def test_a_store_without_a_generation_proves_nothing(tmp_path, capsys, verifying):
    address = f"lmdb:{tmp_path}/misspelt"
    more = ["--verify"] if verifying else []
    assert main(["erase", "3", "--store", address, *more]) == 2
    assert f"no generation is in {address}: check the address" in capsys.readouterr().err
    assert (len(open_store(address).erased()) == 0) is verifying


def test_an_erasure_that_no_replica_has_confirmed_is_reported_and_ends_with_code_2(
    world, capsys, monkeypatch
):
    erase = LmdbStore.erase

    def unconfirmed(store, keys):
        raise UnconfirmedErasureError("no replica has confirmed it", erase(store, keys))

    monkeypatch.setattr(LmdbStore, "erase", unconfirmed)
    assert main(command(world, "--audit", str(world / "audit"), "--json")) == 2
    captured = capsys.readouterr()
    result, address = json.loads(captured.out), f"lmdb:{world}/store"
    assert result["unconfirmed"] == [{"store": address, "reason": "no replica has confirmed it"}]
    assert captured.err == f"limaml: error: {address}: no replica has confirmed it\n"
    assert [(p["generation"], p["keys"]) for p in result["removed"] if "store" in p] == [("g1", 2)]
    assert b"3" not in map(task_key_of, records_in(world / "tasks" / "member"))
    lines = [json.loads(line) for line in (world / "audit").read_text().splitlines()]
    assert lines[-1]["unconfirmed"] == result["unconfirmed"]
    monkeypatch.undo()
    assert main(command(world)) == 0
