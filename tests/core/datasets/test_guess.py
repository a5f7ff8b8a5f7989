"""The guessed schema: columns that the user names, leaks, and the choice of the timestamp."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tfrec_limaml import datasets
from tfrec_limaml.datasets.text_remarks import whole_floats
from tfrec_limaml.datasets.unordered_numbers import is_unordered
from tfrec_limaml.errors import LimamlError, SchemaError

N = 2000


@pytest.fixture
def log():
    rng = np.random.default_rng(0)
    user = rng.integers(0, 100, N)
    return pd.DataFrame(
        {
            "who": [f"u{number}" for number in user],
            "born": user * 86_400 * 50 + 100_000_000,
            "when": 1_700_000_000 + np.arange(N) * 1200,
            "price": rng.random(N).round(3),
            "clicked": rng.integers(0, 2, N),
            "Stars": rng.integers(1, 6, N),
        }
    )


@pytest.fixture
def describe(tmp_path):
    def of(frame, **known):
        frame.to_csv(tmp_path / "log.csv", index=False)
        result = datasets.describe(tmp_path / "log.csv", **known)
        return result["schema_yaml"], result["warnings"]

    return of


def test_a_column_that_is_named_like_a_time_is_shown_with_its_values(describe):
    frame = pd.DataFrame(
        {"user_id": ["u1", "u2"], "clicked": [0, 1], "timestamp": ["01.02.2024", "02.02.2024"]}
    )
    with pytest.raises(SchemaError, match=r"\('timestamp' has values such as '01\.02\.2024', "):
        describe(frame)


def test_columns_with_unusual_names_are_named_by_the_user(log, describe):
    with pytest.raises(SchemaError, match="name it with --timestamp"):
        describe(log)
    with pytest.raises(SchemaError, match="name it with --task"):
        describe(log, timestamp="when")
    with pytest.raises(SchemaError, match="--label 'nope' is no column of the file; there are"):
        describe(log, label="nope")
    schema, _ = describe(log, timestamp="when", task="who")
    assert "timestamp: when\n" in schema
    assert "- who\n" in schema
    schema, _ = describe(log, timestamp="when", task="who", label="Stars")
    assert "name: Stars\n  kind: regression" in schema


@pytest.mark.parametrize("name", ["student", "Player", "visitor", "subscriber_key", "memberid"])
def test_usual_names_of_people_are_task_keys(log, describe, name):
    schema, _ = describe(log.rename(columns={"who": name}), timestamp="when")
    assert f"- {name}\n" in schema


@pytest.mark.parametrize("given", [{"label": "Stars"}, {"write_schema": "new.yaml"}])
def test_options_of_the_guess_are_refused_with_a_schema(log, describe, tmp_path, given):
    describe(log, timestamp="when", task="who")
    with pytest.raises(LimamlError, match="with --schema nothing is guessed: leave out"):
        datasets.describe(tmp_path / "log.csv", schema=tmp_path / "none.yaml", **given)


def test_history_features_are_offered_with_the_lines_to_add(log, describe):
    _, remarks = describe(log, timestamp="when", task="who")
    (remark,) = [text for text in remarks if text.startswith("history: ")]
    assert "history: [{keys: [who], encoding: quantiles}]" in remark


def test_columns_that_give_the_label_away_are_left_out_whatever_they_hold(log, describe):
    leaks = {
        "result": np.where(log.clicked == 1, "won", "lost"),
        "basket": np.where(log.clicked == 1, log.price, np.nan),
    }
    _, remarks = describe(log.assign(**leaks), timestamp="when", task="who")
    left_out = [remark for remark in remarks if remark.startswith("left out")]
    assert any("result alone ranks clicked with AUC 1.000" in remark for remark in left_out)
    assert any("basket has a value only with certain values" in remark for remark in left_out)
    assert not any("price" in remark for remark in left_out)
    copies = {"good": (log.Stars >= 4).astype(int), "doubled": 2.0 * log.Stars + log.price}
    _, remarks = describe(log.assign(**copies), timestamp="when", task="who", label="Stars")
    assert {"good", "doubled"} <= {r.split()[2] for r in remarks if "alone ranks Stars" in r}


def test_a_value_that_only_some_positives_have_is_remarked_if_positives_are_rare(log, describe):
    clicked = (np.arange(N) % 20 == 0).astype(int)
    some = np.arange(N) % 40 == 0  # half of the positives
    leak = log.assign(
        clicked=clicked,
        refund=np.where(some, 5 + log.price, np.nan),
        refund_code=np.where(some, "r1", "none"),
        place=np.arange(N) % 9,
    )
    _, remarks = describe(leak, timestamp="when", task="who")
    rows = f"in {N // 40} rows, and clicked is 1 in all of them; is it known only afterwards?"
    assert f"refund has a value {rows}" in remarks
    assert f"refund_code has the value 'r1' {rows}" in remarks
    assert len([remark for remark in remarks if "in all of them" in remark]) == 2


def test_decimal_commas_are_no_separators_of_values(log, describe):
    written = log.price.map(lambda p: f"{100 * p:.1f}".replace(".", ","))
    schema, remarks = describe(log.assign(price=written), timestamp="when", task="who")
    assert any(remark.startswith("price is read as text") for remark in remarks)
    assert "separator" not in schema
    tags = [f"{n % 7},{n % 11},{n % 13}" for n in range(N)]
    schema, _ = describe(log.assign(price=tags), timestamp="when", task="who")
    assert "separator: ','" in schema


def test_points_that_may_separate_thousands_are_remarked_beside_decimal_commas(log, describe):
    views = pd.Series([f"{n // 1000}.{n % 1000:03}" if n > 999 else str(n) for n in range(N)])
    whole = log.assign(views=views.sample(frac=1, random_state=0).to_numpy())
    said = "if the points separate thousands, write the numbers without them"
    _, remarks = describe(whole, timestamp="when", task="who")
    assert not any(said in remark for remark in remarks), "the points may be decimal points"
    comma = whole.assign(discount=[f"0,{n % 10}" for n in range(N)])
    _, remarks = describe(comma, timestamp="when", task="who")
    assert [r.split()[0] for r in remarks if said in r] == ["views"]


def test_a_frequent_value_with_one_label_only_is_remarked(log, describe):
    rare = np.arange(N) % 5 == 0
    clicked = np.where(rare, log.clicked, 0)
    leak = log.assign(clicked=clicked, opened=np.where(rare, 1, 0), price=rare * log.price)
    leak["reason"] = np.where(rare, [["a", "b"][n % 2] for n in range(N)], "")
    schema, remarks = describe(leak, timestamp="when", task="who")
    said = "in 1,600 rows, and clicked is 0 in all of them; is it known only afterwards?"
    assert f"opened has the value '0' {said}" in remarks
    assert f"price has the value '0.0' {said}" in remarks
    assert f"reason has no value {said}" in remarks
    assert "name: opened" in schema, "it stays a feature"
    fair = log.assign(place=np.arange(N) % 9, clicked=(np.arange(N) % 1000 == 0).astype(int))
    for frame in (log, fair):  # in the latter, one label for a value is what chance gives
        assert "in all of them" not in str(describe(frame, timestamp="when", task="who")[1])


def test_a_column_without_any_value_is_left_out_with_this_reason(log, describe):
    _, remarks = describe(log.assign(empty=np.nan, same=1), timestamp="when", task="who")
    assert {"left out: empty has no value", "left out: same is constant"} <= set(remarks)


def test_a_time_that_belongs_to_the_task_is_not_the_timestamp(log, describe):
    named = log.rename(columns={"who": "user_id", "born": "birth_time", "when": "order_time"})
    schema, remarks = describe(named)
    assert "timestamp: order_time\n" in schema
    assert any("Other times: birth_time" in remark for remark in remarks)


def test_keys_that_look_like_fractions_are_remarked():
    assert "is text such as '7.0', and so must be" in whole_floats(pd.Series(["7.0", None, "12.0"]))
    for others in (["7.0", "x"], [7.0, 8.0], ["7", "8"], [None]):
        assert whole_floats(pd.Series(others)) == ""


def _answers(numbers, effect):
    """A log of 200 members in which a number has an effect on the label."""
    rng = np.random.default_rng(1)
    rows = 20_000
    number = rng.choice(numbers, rows)
    return pd.DataFrame(
        {
            "member_id": rng.integers(0, 200, rows),
            "number": number,
            "correct": (rng.random(rows) < effect(number)).astype(int),
            "at": 1_700_000_000 + 60 * np.arange(rows),
        }
    )


def _by_itself(number):
    return 0.2 + 0.6 * (number * 2_654_435_761 % 97) / 97


def _in_order(number):
    return 0.2 + 0.6 * (number / number.max())


def _not_at_all(number):
    return np.full(len(number), 0.5)


@pytest.mark.parametrize(
    ("numbers", "effect", "encoding", "remark"),
    [
        (np.arange(1, 111), _by_itself, "vocabulary", "they are taken as IDs"),
        (np.arange(1, 111) * 1000, _by_itself, "quantiles", "if they are IDs"),
        (np.arange(1, 111), _in_order, "quantiles", ""),
        (np.arange(1, 111), _not_at_all, "quantiles", ""),
    ],
)
def test_whole_numbers_whose_order_says_nothing_are_taken_as_ids(
    describe, numbers, effect, encoding, remark
):
    schema, remarks = describe(_answers(numbers, effect))
    guessed = schema.split("- name: number\n")[1].split("- name")[0]
    assert f"encoding: {encoding}" in guessed
    assert ("dtype: " in guessed) == (encoding == "vocabulary")
    about = [text for text in remarks if text.startswith("number holds whole numbers")]
    assert len(about) == bool(remark)
    assert all(remark in text for text in about)


def test_the_effect_of_members_is_not_taken_for_one_of_their_numbers():
    rng = np.random.default_rng(2)
    member = pd.Series(rng.integers(0, 60, 20_000))
    taste = rng.random(60)
    label = pd.Series((rng.random(20_000) < taste[member]).astype(float))
    assert not is_unordered(member.astype(float), label, member)
    assert is_unordered(member.astype(float), label, pd.Series(np.arange(20_000) % 50))
