import pandas as pd
import pytest

from tests.core.datasets.conftest import write_kuairand
from tfrec_limaml import datasets
from tfrec_limaml.errors import LimamlError, SchemaError
from tfrec_limaml.schema.schema import Schema, parse_time

OUTCOMES = {"is_click", "is_like", "is_follow", "is_comment", "is_forward", "is_hate", "long_view", "play_time_ms", "profile_stay_time",  # noqa: E501
            "comment_stay_time", "is_profile_enter"}  # fmt: skip


@pytest.fixture
def prepared(tiny_kuairand, tmp_path):
    def run(**options):
        card = datasets.prepare(
            "kuairand-pure", tmp_path / "raw", data_dir=tiny_kuairand, overwrite=True, **options
        )
        return (
            card,
            Schema.load(tmp_path / "raw" / "schema.yaml"),
            pd.read_parquet(tmp_path / "raw" / "interactions.parquet"),
        )

    return run


def test_both_standard_logs_are_read_and_exact_duplicates_dropped(prepared):
    card, schema, frame = prepared()
    assert card["rows"] == len(frame) == 40
    assert card["duplicates_dropped"] == 1
    assert card["source"]["files"] == [
        "log_standard_4_08_to_4_21_pure.csv",
        "log_standard_4_22_to_5_08_pure.csv",
    ]
    assert schema.label.name == "is_click"
    assert dict(schema.tasks) == {"user": ("user_id",)}


@pytest.mark.parametrize("label", ["is_click", "long_view", "is_like"])
def test_no_outcome_but_the_label_reaches_the_prepared_rows(prepared, label):
    _, schema, frame = prepared(label=label)
    assert OUTCOMES & set(frame.columns) == {label}
    assert not OUTCOMES & {f.name for f in schema.all_features}


def test_the_hour_is_that_of_the_apps_local_time(prepared):
    _, _, frame = prepared()
    local = pd.to_datetime(frame.time_ms, unit="ms", utc=True).dt.tz_convert("Asia/Shanghai")
    assert (local.dt.hour == frame.hour).all()
    assert frame.hour.iloc[0] == 0


def test_tab_is_a_meta_feature_exactly_where_a_task_is_keyed_by_it(prepared):
    def role(schema):
        return next(f.role for f in schema.features if f.name == "tab")

    assert role(prepared()[1]) == "other"
    assert role(prepared(tasks=["user_tab"])[1]) == "meta"
    both = prepared(tasks=["user", "user_tab"])[1]
    assert role(both) == "meta"
    assert both.default_task == "user"


def test_history_features_are_declared_on_request_only(prepared):
    assert prepared()[1].history == ()
    assert ("user_id", "author_id") in {h.keys for h in prepared(history=True)[1].history}


def test_the_random_log_is_read_on_request_only(prepared, tiny_kuairand):
    assert prepared(settings={"random_log": True})[0]["rows"] == 80
    (tiny_kuairand / "KuaiRand-Pure/data/log_random_4_22_to_5_08_pure.csv").unlink()
    with pytest.raises(LimamlError, match="lacks log_random"):
        prepared(settings={"random_log": True})


def test_without_the_later_log_the_split_is_by_quantile(prepared, tiny_kuairand):
    data = tiny_kuairand / "KuaiRand-Pure" / "data"
    usual = prepared()[1].split
    (data / "log_standard_4_22_to_5_08_pure.csv").unlink()
    card, schema, _ = prepared()
    assert card["rows"] == 4
    assert usual.test_start == "2022-05-06T00:00:00+08:00" != schema.split.test_start


def test_the_folder_of_the_data_set_itself_is_accepted_too(tiny_kuairand, tmp_path):
    assert (
        datasets.prepare(
            "kuairand-pure", tmp_path / "raw", data_dir=tiny_kuairand / "KuaiRand-Pure"
        )["rows"]
        == 40
    )


def test_a_file_cut_short_is_a_schema_error(prepared, tiny_kuairand):
    (tiny_kuairand / "KuaiRand-Pure/data/user_features_pure.csv").write_text("")
    with pytest.raises(SchemaError, match=r"cannot read .*user_features_pure.csv"):
        prepared()


RELEASES = {
    "kuairand-1k": ("KuaiRand-1K", ("",)),
    "kuairand-27k": ("KuaiRand-27K", ("_part1", "_part2")),
}
PERIODS = ("4_08_to_4_21", "4_22_to_5_08")


@pytest.mark.parametrize("name", RELEASES)
def test_the_larger_releases_give_the_rows_and_the_schema_of_pure(name, prepared, tmp_path):
    card, schema, frame = prepared(history=True, tasks=["user_tab"])
    release, parts = RELEASES[name]
    official = write_kuairand(tmp_path / name, release, parts)
    options = {"data_dir": official, "history": True, "tasks": ["user_tab"]}
    other = datasets.prepare(name, tmp_path / "other", **options)
    assert len(other["source"]["files"]) == 2 * len(parts)
    assert other["duplicates_dropped"] == card["duplicates_dropped"] == 1
    written = pd.read_parquet(tmp_path / "other" / "interactions.parquet")
    pd.testing.assert_frame_equal(written, frame)
    assert Schema.load(tmp_path / "other" / "schema.yaml") == schema.replace(name=name)


def test_some_members_are_read_with_all_of_their_rows_and_their_videos_only(
    prepared, tiny_kuairand, tmp_path, monkeypatch
):
    _, _, everyone = prepared()
    monkeypatch.setattr("tfrec_limaml.datasets.kuairand.CHUNK", 7)
    data = tiny_kuairand / "KuaiRand-Pure" / "data" / "video_features_basic_pure.csv"
    videos = pd.read_csv(data)
    pd.concat([videos, videos.assign(video_id=videos.video_id + 100)]).to_csv(data, index=False)
    _, _, some = prepared(settings={"members": 2})
    kept = set(some.user_id)
    assert len(kept) == 2
    expected = everyone[everyone.user_id.isin(kept)].reset_index(drop=True)
    pd.testing.assert_frame_equal(some, expected)
    table = pd.read_parquet(tmp_path / "raw" / "videos.parquet")
    assert set(table.video_id) == set(some.video_id)
    assert set(prepared(settings={"members": 1})[2].user_id) < kept
    with pytest.raises(LimamlError, match="--members must be at least 1, received 0"):
        prepared(settings={"members": 0})


@pytest.mark.parametrize(
    "lost",
    [
        ["user_features_27k.csv"],
        ["video_features_basic_27k.csv"],
        ["log_standard_4_22_to_5_08_27k_part2.csv"],
        [f"log_standard_{p}_27k_part{i}.csv" for p in PERIODS for i in (1, 2)],
    ],
)
def test_official_files_that_are_missing_are_named_and_nothing_is_fetched(
    lost, tmp_path, monkeypatch
):
    def no_network(*_):
        raise AssertionError("fetched")

    monkeypatch.setattr("tfrec_limaml.datasets.download.fetch", no_network)
    official = write_kuairand(tmp_path, *RELEASES["kuairand-27k"])
    for name in lost:
        (official / "KuaiRand-27K" / "data" / name).unlink()
    with pytest.raises(SchemaError) as error:
        datasets.prepare("kuairand-27k", tmp_path / "raw", data_dir=official)
    assert f"lacks {lost}; download them from https://zenodo.org" in str(error.value)


def test_without_any_file_the_official_archive_is_fetched(tmp_path, monkeypatch):
    asked = []

    def fetch(url, folder, checksum):
        asked.append((url, checksum))
        raise LimamlError("no network")

    monkeypatch.setattr("tfrec_limaml.datasets.download.fetch", fetch)
    with pytest.raises(LimamlError, match="no network"):
        datasets.prepare("kuairand-1k", tmp_path / "raw", data_dir=tmp_path)
    archive = "https://zenodo.org/records/10439422/files/KuaiRand-1K.tar.gz"
    assert asked == [(archive, "6b0b9c8222d67fcd4c676218edca3f1f")]


@pytest.mark.parametrize("column", ["time_ms", "is_click", "user_id"])
def test_a_log_without_a_column_is_a_schema_error_naming_both(column, prepared, tiny_kuairand):
    log = tiny_kuairand / "KuaiRand-Pure/data/log_standard_4_22_to_5_08_pure.csv"
    pd.read_csv(log).drop(columns=column).to_csv(log, index=False)
    with pytest.raises(SchemaError, match=rf"{log.name}.*{column}"):
        prepared()


@pytest.mark.real_data
def test_the_real_log_has_the_known_counts_and_the_split_follows_its_dates(kuairand_dir, tmp_path):
    card = datasets.prepare(
        "kuairand-pure",
        tmp_path / "raw",
        data_dir=kuairand_dir,
        tasks=["user", "user_tab"],
        history=True,
    )
    assert card["rows"] > 200_000
    assert card["duplicates_dropped"] >= 5_000
    assert 0.3 < card["label_rate"] < 0.6
    assert card["share_of_test_tasks_with_history"] > 0.9
    schema, frame = (
        Schema.load(tmp_path / "raw" / "schema.yaml"),
        pd.read_parquet(tmp_path / "raw" / "interactions.parquet"),
    )
    one_hot = sum(
        f.max_vocabulary + 1
        for f in schema.features
        if f.role == "meta" and f.encoding == "vocabulary"
    )
    assert 200 <= one_hot <= 300
    log = pd.read_csv(
        kuairand_dir / "KuaiRand-Pure/data/log_standard_4_22_to_5_08_pure.csv",
        usecols=["date", "time_ms"],
    )
    for mark, date in (
        (schema.split.validation_start, 20220503),
        (schema.split.test_start, 20220506),
    ):
        after = log.time_ms >= parse_time(mark)
        assert (after != (log.date >= date)).mean() < 0.001
        assert (log.date[after] >= date).all()
    assert frame.time_ms.is_monotonic_increasing
