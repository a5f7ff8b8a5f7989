import numpy as np
import pandas as pd
import pytest

from tfrec_limaml import datasets
from tfrec_limaml.errors import LimamlError, SchemaError
from tfrec_limaml.schema.schema import Schema

REACTIONS = ["like", "dislike", "share", "bookmark", "click_on_author", "open_comments"]
PARTS = {23: "train", 24: "train", 25: "validation", 26: "test"}


@pytest.fixture
def official(tmp_path):
    """VK-LSVD/ in the official layout: four weeks of 12 rows, 3 of 5 users, 4 of 6 videos."""
    base = tmp_path / "official" / "VK-LSVD"
    for week, part in PARTS.items():
        n = np.arange(12)
        rows = {
            "user_id": (n % 3).astype("uint32"),
            "item_id": ((n + week) % 4).astype("uint32"),
            "place": (n % 2).astype("uint8"),
            "platform": np.zeros(12, "uint8"),
            "agent": np.ones(12, "uint8"),
            "timespent": (5 * n).astype("uint8"),
            **{name: n % (k + 2) == 0 for k, name in enumerate(REACTIONS)},
        }
        path = base / "subsamples" / "ur0.01_ir0.01" / part / f"week_{week:02}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows).to_parquet(path)
    users = {"user_id": range(5), "age": [20, 30, 40, 50, 60], "gender": [1, 2, 1, 2, 1]}
    items = {"item_id": range(6), "author_id": [7, 7, 8, 8, 9, 9]}
    items["duration"] = [10, 20, 30, 60, 5, 5]
    (base / "metadata").mkdir()
    for name, columns in (("users", {**users, "geo": 3}), ("items", items)):
        frame = pd.DataFrame(columns).astype({f"{name[:-1]}_id": "uint32"})
        frame = frame.assign(train_interactions_rank=1)
        frame.to_parquet(base / "metadata" / f"{name}_metadata.parquet")
    return base


@pytest.fixture
def prepared(official, tmp_path):
    def run(**options):
        options = {"data_dir": official.parent, "overwrite": True, **options}
        card = datasets.prepare("vk-lsvd", tmp_path / "raw", **options)
        raw = tmp_path / "raw"
        names = ("interactions", "users", "items")
        return (
            card,
            Schema.load(raw / "schema.yaml"),
            {name: pd.read_parquet(raw / f"{name}.parquet") for name in names},
        )

    return run


def test_weeks_are_read_in_order_and_rows_spread_evenly_over_their_week(prepared):
    card, schema, frames = prepared()
    rows = frames["interactions"]
    assert card["rows"] == len(rows) == 48
    assert [path.split("/")[-2] for path in card["source"]["files"][:4]] == list(PARTS.values())
    hours = np.diff(rows.time_ms) / 3_600_000
    assert (hours == 7 * 24 / 12).all()
    assert rows.user_id.astype(int).tolist() == [0, 1, 2] * 16
    starts = [rows.time_ms.iloc[24], rows.time_ms.iloc[36]]
    marks = [schema.split.validation_start, schema.split.test_start]
    assert [pd.Timestamp(mark).timestamp() * 1000 for mark in marks] == starts


def test_watched_means_half_of_the_videos_length(prepared):
    _, schema, frames = prepared()
    rows = frames["interactions"]
    lengths = {0: 10, 1: 20, 2: 30, 3: 60}
    expected = []
    for week in PARTS:
        expected += [float(5 * n >= lengths[(n + week) % 4] / 2) for n in range(12)]
    assert rows.watched.tolist() == expected
    assert 0 < np.mean(expected) < 1
    assert schema.label.name == "watched"


@pytest.mark.parametrize("label", ["watched", *REACTIONS])
def test_no_outcome_but_the_label_and_no_rank_of_the_future_is_read(prepared, label):
    _, schema, frames = prepared(label=label, history=True)
    outcomes = {"timespent", "watched", *REACTIONS}
    assert outcomes & set(frames["interactions"].columns) == {label}
    used = {f.name for f in schema.all_features}
    assert not {*outcomes, "train_interactions_rank", "time_ms"} & used
    assert len(schema.history) == 5


def test_tables_hold_the_users_and_videos_of_the_rows_only(prepared):
    _, _, frames = prepared()
    assert len(frames["users"]) == 3
    assert len(frames["items"]) == 4


def test_place_is_a_meta_feature_where_a_task_is_keyed_by_it(prepared):
    for tasks, role in ((["user"], "other"), (["user", "user_place"], "meta")):
        _, schema, _ = prepared(tasks=tasks)
        assert next(f.role for f in schema.features if f.name == "place") == role


def test_all_rows_are_read_from_the_folder_of_interactions(prepared, official):
    (official / "subsamples" / "ur0.01_ir0.01").rename(official / "interactions")
    card, _, _ = prepared(settings={"subset": "whole"})
    assert card["source"]["files"][0] == "interactions/train/week_23.parquet"


def test_the_folder_of_the_data_set_itself_is_accepted_too(prepared, official):
    assert prepared(data_dir=official)[0]["rows"] == 48


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("metadata/items_metadata.parquet", r"lacks \['metadata/items_metadata.parquet'\]"),
        ("metadata/users_metadata.parquet", r"lacks \['metadata/users_metadata.parquet'\]"),
        (
            "subsamples/ur0.01_ir0.01/validation/week_25.parquet",
            r"lacks \['subsamples/ur0.01_ir0.01/validation/week_25.parquet'\], but has weeks",
        ),
    ],
)
def test_official_files_that_are_missing_are_named_and_nothing_is_fetched(
    prepared, official, monkeypatch, lost, message
):
    monkeypatch.setattr("tfrec_limaml.datasets.download.fetch", None)
    (official / lost).unlink()
    with pytest.raises(SchemaError, match=message):
        prepared()


def test_a_file_that_is_broken_or_lacks_a_column_is_a_schema_error(prepared, official):
    path = official / "metadata" / "items_metadata.parquet"
    pd.read_parquet(path).drop(columns="duration").to_parquet(path)
    with pytest.raises(SchemaError, match=r"items_metadata.parquet has no columns \['duration'\]"):
        prepared()
    path.write_text("no parquet")
    with pytest.raises(SchemaError, match=r"cannot read .*items_metadata.parquet"):
        prepared()


def test_without_any_week_the_official_files_are_fetched_with_their_published_checksum(
    tmp_path, monkeypatch
):
    asked = {}

    def fetch(url, folder, checksum):
        asked[url] = (folder, checksum)

    monkeypatch.setattr("tfrec_limaml.datasets.download.fetch", fetch)
    with pytest.raises(LimamlError, match=r"was downloaded from .* but has no week of"):
        datasets.prepare("vk-lsvd", tmp_path / "raw", data_dir=tmp_path)
    home = "https://huggingface.co/datasets/deepvk/VK-LSVD"
    week = "subsamples/ur0.01_ir0.01/validation/week_25.parquet"
    expected = (tmp_path / "VK-LSVD" / week).parent, f"{home}/raw/main/{week}"
    assert asked[f"{home}/resolve/main/{week}"] == expected
    assert len(asked) == 27 + 2


def test_a_subset_that_is_no_name_is_refused(prepared):
    with pytest.raises(LimamlError, match="--subset must be 'whole' or the name"):
        prepared(settings={"subset": "../other"})
