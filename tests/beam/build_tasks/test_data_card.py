"""The data card: sizes of tasks, and warnings about the splits."""

from __future__ import annotations

import numpy as np
import pytest

from limaml_beam.build_tasks import card_warnings, data_card
from limaml_beam.build_tasks.data_card import describe_sizes
from limaml_beam.build_tasks.settings import TaskSettings
from limaml_beam.build_tasks.split_summary import SplitSummary
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.schema.schema import Label


def test_quantiles_of_counted_sizes_are_those_of_the_sizes():
    draw = np.random.default_rng(5)
    pairs = np.stack([draw.integers(0, 9, 300), draw.integers(1, 40, 300)], axis=1)
    shards = []
    for part in (pairs[:100], pairs[100:]):
        distinct, counts = np.unique(part, axis=0, return_counts=True)
        shards.append(("member", {"test": np.concatenate([distinct, counts[:, None]], axis=1)}))
    card = describe_sizes([*shards, ("member", {"test": np.empty((0, 3), np.int64)})])["member"][
        "test"
    ]
    assert card["tasks"] == 300
    assert [card["support_rows"], card["query_rows"]] == pairs.sum(axis=0).tolist()
    for name, sizes in (("support", pairs[:, 0]), ("query", pairs[:, 1])):
        assert card[f"{name}_quantiles"] == {
            q: pytest.approx(np.percentile(sizes, int(q))) for q in card[f"{name}_quantiles"]
        }
    assert card["share_of_tasks_with_history"] == pytest.approx((pairs[:, 0] > 0).mean())
    assert card["share_of_query_rows_with_history"] == pytest.approx(
        pairs[pairs[:, 0] > 0, 1].sum() / pairs[:, 1].sum()
    )


@pytest.mark.parametrize(
    ("rows", "sizes", "said"),
    [
        (1000, {"support_rows": 790, "query_rows": 0}, "21% of the training rows are in no record"),
        (1000, {"support_rows": 600, "query_rows": 210}, None),
        (0, {}, None),
    ],
)
def test_training_rows_that_no_record_holds_are_a_warning_with_the_remedy(rows, sizes, said):
    lines = card_warnings.unused_rows({"train": {"rows": rows}}, {"user": {"train": sizes}}, 100)
    if said is None:
        assert lines == []
    else:
        (line,) = lines
        assert line.startswith(said)
        assert "of 'user': a task keeps its latest 100; raise --max-samples" in line


@pytest.mark.parametrize(
    ("rates", "rows", "said"),
    [
        ((0.2, 1.0, 0.3), (9, 4, 4), ["all 4 rows of the validation split have the label 1:"]),
        ((0.0, 0.1, 0.0), (9, 4, 4), ["all 9 rows of the train", "all 4 rows of the test"]),
        ((0.2, 0.1, 0.3), (9, 4, 4), []),
        ((0.0, 0.0, 0.0), (9, 0, 0), []),  # a daily job has no evaluation rows
    ],
)
def test_a_split_of_one_class_is_a_warning(shop_schema, rates, rows, said):
    names = ("train", "validation", "test")
    splits = {
        name: {"rows": n, "label_rate": rate}
        for name, n, rate in zip(names, rows, rates, strict=True)
    }
    lines = card_warnings.one_class(shop_schema, splits)
    assert len(lines) == len(said)
    assert all(line.startswith(start) for line, start in zip(lines, said, strict=True))
    assert all(line.endswith("choose other split dates") for line in lines)
    stars = shop_schema.replace(label=Label(name=shop_schema.label.name, kind="regression"))
    assert card_warnings.one_class(stars, splits) == []


@pytest.mark.parametrize(
    ("labels", "recent_only", "refused"),
    [
        ((9.0, 4.0, 2.0), False, True),
        ((0.0, 0.0, 0.0), False, True),
        ((9.0, 4.0, 2.0), True, False),  # a daily job does not train
        ((9.0, 0.0, 2.0), False, False),
    ],
)
def test_a_label_with_one_value_in_all_splits_is_refused(shop_schema, labels, recent_only, refused):
    settings = TaskSettings(
        definitions=("user",), validation_start=1, test_start=2, recent_only=recent_only
    )
    summary = SplitSummary((9, 4, 2), labels)
    stars = shop_schema.replace(label=Label(name=shop_schema.label.name, kind="regression"))
    data_card.check_label(stars, summary, settings)
    if not refused:
        data_card.check_label(shop_schema, summary, settings)
        return
    with pytest.raises(LimamlError, match=r"'opened' has one value only \([01] in all 15 rows\)"):
        data_card.check_label(shop_schema, summary, settings)


def test_few_tested_tasks_are_a_warning():
    sizes = {name: {"test": {"tasks": n}} for name, n in (("one", 1), ("few", 29), ("enough", 30))}
    assert [line.split(",")[0] for line in card_warnings.few_tested({**sizes, "daily": {}})] == [
        "1 task of 'one' is tested",
        "29 tasks of 'few' are tested",
    ]


@pytest.mark.parametrize(("share", "warned"), [(79, True), (80, False)])
def test_a_vocabulary_that_lacks_many_values_is_a_warning(shop_schema, share, warned):
    features = {"kind": {"vocabulary": ["a", "b"], "counts": [share - 1, 1]}}
    features["tags"] = {"vocabulary": ["x"], "counts": [1]}  # multi-valued: not counted by row
    lines = card_warnings.low_coverage(shop_schema, {"rows": 100, "features": features})
    assert len(lines) == warned
    if warned:
        assert lines[0].startswith("21% of the training rows have a value of kind that is not in ")
        assert "its vocabulary of 2" in lines[0]


def test_files_without_rows_are_named():
    settings = TaskSettings(definitions=("user",), validation_start=1, test_start=2)
    with pytest.raises(LimamlError, match=r"no rows: a\.csv and 1 more; give files with rows"):
        data_card.check_counts({}, 0.05, settings, interactions=("a.csv", "b.csv"))
