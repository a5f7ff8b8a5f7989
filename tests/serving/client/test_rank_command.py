"""``limaml rank`` as a user runs it: files in, lines out, exit codes."""

from __future__ import annotations

import io
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from tfrec_limaml.cli import main
from tfrec_limaml.store import open_store

GOOD = {
    "member": {"user_id": 7, "age": 41, "country": "CH"},
    "candidates": [{"price": 3.0, "tab": 0}, {"price": 9.0, "tab": 1}],
}


@pytest.fixture
def rank(server, make_manifest, tmp_path, monkeypatch, capsys):
    make_manifest().write(tmp_path / "export" / "ranker" / "1")
    address = f"lmdb:{tmp_path / 'store'}"
    store = open_store(address)
    with store.new_generation(1, 3) as writer:
        writer.put(["7"], np.array([[1, 0, 0]], np.float32))
        writer.publish()
    store.close()

    def run(lines, *more: str) -> tuple[int, list[dict], list[str]]:
        source = io.BytesIO(lines) if isinstance(lines, bytes) else lines
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=source))
        settings = [
            "--target",
            server.target,
            "--export",
            str(tmp_path / "export"),
            "--store",
            address,
            "--timeout",
            "20",
        ]
        code = main(["rank", *settings, *more])
        out, err = capsys.readouterr()
        return code, [json.loads(line) for line in out.splitlines()], err.splitlines()

    return run


def _lines(*items):
    return b"".join(
        (item if isinstance(item, bytes) else json.dumps(item).encode()) + b"\n" for item in items
    )


def test_every_line_is_ranked_with_the_stored_embedding(rank):
    code, out, err = rank(_lines(GOOD, GOOD))
    assert code == 0
    assert [line["line"] for line in out] == [1, 2]
    assert [r["candidate"] for r in out[0]["ranked"]] == [1, 0]
    assert out[0]["ranked"][0]["logit"] == 10109.0
    assert out[0]["ranked"][0]["used_embedding"] is True
    assert out[0]["model_version"] == 1
    assert out[0]["filled"] == ["image"]
    assert "ranked 2 of 2 lines; 4 candidates, 4 with a meta embedding" in err[-1]


def test_a_store_without_a_generation_is_named(rank, tmp_path):
    address = f"lmdb:{tmp_path / 'misspelt'}"
    code, (answer,), err = rank(_lines(GOOD), "--store", address)
    assert code == 0
    assert not answer["ranked"][0]["used_embedding"]
    assert f"the store {address} holds no generation" in err[0]


def test_a_store_that_cannot_be_read_does_not_keep_candidates_from_being_ranked(rank, tmp_path):
    (tmp_path / "file").write_text("not a store")
    code, (answer,), err = rank(_lines(GOOD), "--store", f"lmdb:{tmp_path / 'file'}")
    assert code == 0
    assert not answer["ranked"][0]["used_embedding"]
    assert not any("holds no generation" in line for line in err)


def test_a_line_is_written_before_the_next_one_comes(rank, tmp_path, monkeypatch):
    written, line = [], json.dumps(GOOD).encode()

    def lines():
        for _ in range(2):
            yield line
            written.append((tmp_path / "ranked").read_text().count("\n"))

    with open(tmp_path / "ranked", "w") as file, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", file)
        assert rank(lines())[0] == 0
    assert written == [1, 2]


def test_the_example_that_it_shows_is_a_line_that_it_ranks(rank):
    code, (example,), _ = rank(b"", "--example")
    assert code == 0
    assert set(example["member"]) == {"user_id", "age", "country"}
    assert [set(candidate) for candidate in example["candidates"]] == [
        {"price", "tab", "image"}
    ] * 2
    code, (line,), _ = rank(_lines(example))
    assert code == 0
    assert len(line["ranked"]) == 2
    assert "filled" not in line


@pytest.mark.parametrize("option", ["--target", "--store"])
def test_without_a_server_or_a_store_it_says_which_option_is_missing(option, tmp_path, capsys):
    other = {"--target": ["--store", "lmdb:x"], "--store": ["--target", "localhost:1"]}[option]
    assert main(["rank", "--export", str(tmp_path), *other]) == 2
    assert f"{option} is missing" in capsys.readouterr().err


def test_top_limits_what_is_written(rank):
    assert [len(line["ranked"]) for line in rank(_lines(GOOD), "--top", "1")[1]] == [1]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b"{not json", "not a JSON object"),
        (b"\xff\xfe\xfa", "not a JSON object"),
        (b"[" * 100_000, "not a JSON object"),
        (b"3", "expected"),
        ({"member": {}}, "expected"),
        ({"member": {"user_id": 7}, "candidates": [1]}, "candidates must be"),
        ({"member": {"user_id": 7}, "candidates": [{"tab": 1}]}, "'price' is missing"),
        ({"member": {"user_id": [7]}, "candidates": [{"price": 1}]}, "key columns"),
        ({"member": {"user_id": 7}, "candidates": [{"price": "dear"}]}, "'price' needs numbers"),
        ({**GOOD, "member": {"user_id": "\ud800"}}, "not valid Unicode"),
        (b'{"member": {"user_id": "\\uDFFF"}, "candidates": [{"price": 1}]}', "not valid Unicode"),
        (
            {"member": {"price": 1, "tab": 2, "user_id": 7}, "candidates": [{"x": 1}, {}]},
            "no column",
        ),
    ],
)
def test_a_bad_line_is_named_by_number_and_the_others_are_ranked(rank, bad, message):
    code, out, err = rank(_lines(GOOD, b"", bad, GOOD))
    assert code == 2
    assert [line["line"] for line in out] == [1, 4]
    named = [line for line in err if line.startswith("limaml: line 3: ")]
    assert len(named) == 1
    assert message in named[0]
    assert "1 of 3 lines could not be ranked" in err[-1]


def test_the_signature_for_batching_servers_repeats_the_members_columns(rank, server):
    code, (line,), _ = rank(_lines(GOOD), "--signature", "serving_default")
    assert code == 0
    assert line["ranked"][0]["logit"] == 10109.0
    (request,) = server.requests
    assert request.model_spec.signature_name == "serving_default"
    assert {tensor.tensor_shape.dim[0].size for tensor in request.inputs.values()} == {2}


def test_a_server_that_is_away_ends_the_run_with_one_message(rank):
    code, out, err = rank(_lines(GOOD, GOOD), "--target", "127.0.0.1:1", "--wait", "0.2")
    assert (code, out) == (2, [])
    assert len(err) == 1
    assert "no server answers at 127.0.0.1:1 after 0.2 seconds" in err[0]


def test_an_export_without_manifests_is_refused(rank, tmp_path):
    code, _, err = rank(_lines(GOOD), "--export", str(tmp_path / "nowhere"))
    assert code == 2
    assert "limaml export" in err[-1]


def test_a_model_that_predicts_no_probability_has_lines_without_one(rank, make_manifest, tmp_path):
    make_manifest(binary=False).write(tmp_path / "export" / "ranker" / "1")
    _, out, _ = rank(_lines(GOOD))
    assert out[0]["ranked"][0] == {"candidate": 1, "prediction": 10109.0, "used_embedding": True}
