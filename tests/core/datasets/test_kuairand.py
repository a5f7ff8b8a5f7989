import pandas as pd
import pytest

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
