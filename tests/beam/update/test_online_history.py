"""History features of new rows: the values of the nightly run, by their definition."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from limaml_beam.build_tasks.inputs import Inputs
from limaml_beam.build_tasks.options import PrepareOptions
from limaml_beam.build_tasks.prepare import prepare
from limaml_beam.rows.columnar import TASK, TIME
from limaml_beam.update.new_rows import read_new
from limaml_beam.update.reconcile import settings_of
from tfrec_limaml.schema.columns import DAY_MS
from tfrec_limaml.schema.schema import History, parse_time

END, SMOOTHING = "2024-01-08", 2.0
HISTORY = (
    History(keys=("member",), smoothing=SMOOTHING),
    History(keys=("kind", "tags"), smoothing=0.0, per_token=True),
)


def values(rows, smoothing, prior):
    """Rate, count and recency in days at the end of the nightly run's window."""
    weight = len(rows) + smoothing
    rate = (rows.opened.sum() + smoothing * prior) / weight if weight else prior
    recency = (parse_time(END) - rows.time.max()) / DAY_MS if len(rows) else -1.0
    return rate, len(rows), recency


def tokens(tags):
    return set(tags.split(",")) - {""} or {""}


@pytest.mark.parametrize("given", [0.25, None])
def test_new_rows_have_the_history_that_the_nightly_run_froze_and_unknown_keys_have_none(
    tmp_path, shop_schema, shop_frames, write_raw, given
):
    schema, frames = shop_schema.replace(history=HISTORY), shop_frames(rows=300)
    log = frames["interactions"]
    is_old = log.time < parse_time(END)
    # Two members and one kind of notification are new.
    old = log[is_old & (log.member < 10) & (log.kind != "mail")]
    raw = write_raw(tmp_path / "raw", schema, frames | {"interactions": old})
    write_raw(tmp_path / "new", schema, frames | {"interactions": log[~is_old]})
    options = PrepareOptions(
        raw=str(raw), recent_only=True, window_end=END, tasks=("member",), history_prior=given
    )
    card = prepare(options, str(tmp_path / "tasks"))
    settings = dataclasses.replace(settings_of(card), last=parse_time("2024-02-01"))
    tables = {name: [str(raw / f"{name}.parquet")] for name in schema.tables}
    inputs = Inputs.find(schema, str(tmp_path / "new" / "interactions.parquet"), tables)
    new = read_new(inputs, schema, settings, tmp_path / "tasks").tables["member"].to_pandas()
    assert len(new) == (~is_old).sum()
    prior = old.opened.mean() if given is None else given
    old = old.merge(frames["items"][["item", "tags"]], on="item")
    for row in new.to_dict("records"):
        assert row[TIME] >= parse_time(END)
        own = values(old[old.member == int(row[TASK])], SMOOTHING, prior)
        of_kind = old[old.kind == row["kind"]]
        by_token = [
            values(of_kind[[token in tokens(tags) for tags in of_kind.tags]], 0.0, prior)
            for token in tokens(row["tags"])
        ]
        found = {
            stem: [row[f"history_{stem}_{value}"] for value in ("rate", "count", "recency")]
            for stem in ("member", "kind_tags")
        }
        assert found["member"] == pytest.approx(own, rel=1e-5)
        assert found["kind_tags"] == pytest.approx(np.mean(by_token, 0).tolist(), rel=1e-5)
    unknown = new[pd.to_numeric(new[TASK]) >= 10]
    assert len(unknown) > 5
    assert set(unknown.history_member_recency) == {-1.0}
    assert (new.history_kind_tags_count == 0).sum() > 5
