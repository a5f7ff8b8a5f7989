import json

import pytest
import yaml

from tfrec_limaml.cli import main
from tfrec_limaml.schema.schema import Schema


def fails(capsys, *arguments):
    """Runs ``limaml datasets`` and returns its one line of complaint."""
    assert main(["datasets", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("limaml: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_list_names_every_data_set_with_its_licence(run_limaml):
    found = run_limaml("datasets", "list")["datasets"]
    assert set(found) == {
        "kuairand-1k",
        "kuairand-27k",
        "kuairand-pure",
        "movielens-100k",
        "movielens-1m",
        "movielens-latest-small",
        "simulated",
        "vk-lsvd",
    }
    assert all(facts["licence"] and facts["citation"] for facts in found.values())


def test_prepare_writes_what_describe_then_shows(run_limaml, capsys, tmp_path):
    card = run_limaml(
        "datasets",
        "prepare",
        "simulated",
        "--members",
        40,
        "--days",
        12,
        "--seed",
        3,
        "--output",
        tmp_path / "raw",
    )
    assert card["tasks"] == 40
    assert card["written"] == str(tmp_path / "raw")
    again = run_limaml("datasets", "describe", tmp_path / "raw")
    assert {k: v for k, v in card.items() if k != "written"} == again
    assert main(["datasets", "describe", str(tmp_path / "raw")]) == 0
    text = capsys.readouterr().out
    assert "tasks by member: 40" in text
    assert "split: " in text
    # Without a split in the schema: `limaml prepare` takes its dates as options.
    Schema.load(tmp_path / "raw" / "schema.yaml").replace(split=None).save(
        tmp_path / "raw" / "schema.yaml"
    )
    without = run_limaml("datasets", "describe", tmp_path / "raw")
    assert (without["tasks"], without["split"]["rows"]) == (40, {})
    assert main(["datasets", "describe", str(tmp_path / "raw")]) == 0
    assert "split: none in the schema; `limaml prepare`" in capsys.readouterr().out


def test_json_may_stand_before_or_after_the_action(capsys):
    for arguments in (["datasets", "--json", "list"], ["datasets", "list", "--json"]):
        assert main(arguments) == 0
        assert "simulated" in json.loads(capsys.readouterr().out)["datasets"]


def test_own_files_go_through_the_command_line(
    run_limaml, capsys, tmp_path, own_schema, own_frame, own_users
):
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(own_schema))
    own_frame.to_csv(tmp_path / "clicks.csv", index=False)
    own_users.to_csv(tmp_path / "users.csv", index=False)
    card = run_limaml(
        "datasets", "prepare", "--schema", tmp_path / "my.yaml", "--interactions", tmp_path / "clicks.csv",  # noqa: E501
        "--table", f"users={tmp_path / 'users.csv'}", "--output", tmp_path / "raw",
    )  # fmt: skip
    assert card["rows"] == 40
    assert main(["datasets", "describe", str(tmp_path / "clicks.csv")]) == 0
    drawn = capsys.readouterr().out
    assert "check: label: bought" in drawn
    assert yaml.safe_load(drawn[drawn.index("\nname:") :])["tasks"] == {"user": ["user_id"]}


def test_the_card_of_a_split_within_tasks_has_its_shares(capsys, tmp_path, own_schema, own_frame):
    schema = {**own_schema, "split": {"per_task": [0.6, 0.2, 0.2]}}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(schema))
    own_frame.to_csv(tmp_path / "clicks.csv", index=False)
    file, schema_file = str(tmp_path / "clicks.csv"), str(tmp_path / "my.yaml")
    assert main(["datasets", "describe", file, "--schema", schema_file]) == 0
    drawn = capsys.readouterr().out
    assert "  split: within tasks, 0.6 train, 0.2 validation, 0.2 test\n" in drawn


@pytest.mark.parametrize("own_features", [True, False])
def test_a_schema_whose_meta_features_are_in_a_table_describes_the_interactions(
    run_limaml, tmp_path, own_schema, own_frame, own_features
):
    kept = [f for f in own_schema["features"] if own_features or "table" in f]
    (tmp_path / "my.yaml").write_text(yaml.safe_dump({**own_schema, "features": kept}))
    own_frame.to_csv(tmp_path / "clicks.csv", index=False)
    card = run_limaml(
        "datasets", "describe", tmp_path / "clicks.csv", "--schema", tmp_path / "my.yaml"
    )
    assert card["rows"] == 40


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["prepare", "kuairand", "--output", "RAW"], "unknown data set 'kuairand'"),
        (["prepare", "--output", "RAW"], "give either the NAME"),
        (["prepare", "simulated", "--schema", "x.yaml", "--output", "RAW"], "not both"),
        (
            ["prepare", "--schema", "x.yaml", "--output", "RAW"],
            "need both --schema FILE and --interactions FILE",
        ),
        (
            [
                "prepare",
                "--schema",
                "x.yaml",
                "--interactions",
                "x.csv",
                "--history",
                "--output",
                "RAW",
            ],
            "--history applies to built-in data sets",
        ),
        (
            [
                "prepare",
                "--schema",
                "x.yaml",
                "--interactions",
                "x.csv",
                "--table",
                "users",
                "--output",
                "RAW",
            ],
            "--table must look like",
        ),
        (
            ["prepare", "simulated", "--label", "liked", "--output", "RAW"],
            "simulated has no label 'liked'",
        ),
        (
            ["prepare", "simulated", "--tasks", "member,team", "--output", "RAW"],
            "no task definition 'team'",
        ),
        (
            ["prepare", "kuairand-pure", "--days", "5", "--output", "RAW"],
            "kuairand-pure has no setting 'days'",
        ),
        (
            ["prepare", "kuairand-pure", "--data-dir", "nowhere", "--output", "RAW"],
            "--data-dir nowhere is not a folder",
        ),
        (["describe", "nothing.csv"], "neither a file"),
        (["describe", "simulated", "--write-schema", "x.yaml"], "need a CSV or Parquet file"),
    ],
)
def test_bad_arguments_are_one_readable_line(capsys, tmp_path, monkeypatch, arguments, complaint):
    monkeypatch.chdir(tmp_path)
    assert complaint in fails(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_an_output_in_the_way_is_left_alone(capsys, tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "precious.txt").write_text("x")
    assert "exists already" in fails(capsys, "prepare", "simulated", "--output", tmp_path / "raw")
    assert "is not a prepared data set" in fails(
        capsys, "prepare", "simulated", "--overwrite", "--output", tmp_path / "raw"
    )
    assert (tmp_path / "raw" / "precious.txt").read_text() == "x"
