"""Target attention: what it computes, and that a history of likes and dislikes is of use to it."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from evaluation_fixtures import SCHEMA, STATISTICS
from scipy.special import erf
from toys import write_description, write_split

from tfrec_limaml.comparison import run as comparison
from tfrec_limaml.comparison.networks import network
from tfrec_limaml.comparison.rivals import Data
from tfrec_limaml.comparison.target_attention import TargetAttention, build_target_attention
from tfrec_limaml.tasks import record_format
from tfrec_limaml.training.options import TrainOptions

DAY = 86_400_000


@pytest.fixture(scope="module")
def tastes(tmp_path_factory):
    """160 members, each of whom likes one of three kinds; nothing else tells who likes what."""
    random = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("tastes")
    records = {"train": [], "validation": [], "test": []}
    for member in range(160):
        kinds = random.integers(0, 3, 24)
        liked = kinds == random.integers(0, 3)
        labels = np.where(random.random(24) < 0.1, ~liked, liked)
        rows = [
            {"signal": 0.0, "kind": int(k), "label": float(y), "timestamp": (50 + n) * DAY}
            for n, (k, y) in enumerate(zip(kinds, labels, strict=True))
        ]
        for split, (end, start) in {
            "train": (14, -1), "validation": (19, 14), "test": (24, 19)
        }.items():  # fmt: skip
            records[split].append(
                record_format.encode_task(SCHEMA, f"m{member}", rows[:end], start)
            )
    for split, encoded in records.items():
        write_split(folder, "member", split, encoded)
    write_description(folder, SCHEMA, STATISTICS)
    return folder


@pytest.mark.slow
def test_attention_over_the_history_beats_the_plain_network_on_the_same_rows(
    tastes, tmp_path, monkeypatch
):
    options = TrainOptions(
        epochs=5, patience=30, learning_rate=0.02, batch_rows=256, choose_strength=False
    )
    rivals = {
        "vanilla": network(options.replace(algorithm="vanilla")),
        "din": network(options, True, build_target_attention, 16),
    }
    monkeypatch.setattr(comparison, "RIVALS", {**comparison.RIVALS, **rivals})
    data, said = Data.of(tastes), []
    result = comparison.compare(data, tmp_path, [1], list(rivals), said.append)
    by_name = {row["name"]: row for row in result["results"]}
    aucs = {name: row["auc_mean"] for name, row in by_name.items()}
    assert aucs["vanilla"] < 0.6
    assert aucs["din"] > 0.75
    assert by_name["din"]["gain_low"] > 0.1
    assert abs(by_name["din"]["auc_unadapted"] - 0.5) < 0.1
    assert {n: row["served"] for n, row in by_name.items()} == {"vanilla": True, "din": False}

    def fail(data, seed):
        raise AssertionError("a finished run is not repeated")

    monkeypatch.setattr(comparison, "RIVALS", dict.fromkeys(comparison.RIVALS, fail))
    assert comparison.compare(data, tmp_path, [1], list(rivals)) == result


def _block():
    block = TargetAttention(4, width=3, units=5, label_mean=0.4, dtype="float64")
    block.build({"meta": (None, 2), "other": (None, 1)})
    for variable in block.trainable_variables:
        variable.assign(np.random.default_rng(1).normal(size=variable.shape))
    return block


def _dense(layer, x):
    return x @ layer.kernel.numpy() + (layer.bias.numpy() if layer.use_bias else 0)


def _by_hand(block, row, history, labels):
    """The sum over history rows ``[n, F]`` for one row, one after another."""
    total = np.zeros(4)
    for past, label in zip(history, labels, strict=True):
        target = _dense(block.target_layer, row)
        known = _dense(block.history_layer, np.append(past, label - 0.4))
        hidden = _dense(block.of_target, target) + _dense(block.of_history, known)
        hidden = hidden + (target * known) @ block.of_product.numpy().T
        gelu = 0.5 * hidden * (1 + erf(hidden / np.sqrt(2)))
        total += _dense(block.weigh_layer, gelu) * _dense(block.value_layer, known)
    return total / (len(history) + 5)


def test_a_row_sees_the_weighted_sum_of_its_history_and_of_a_support_row_what_came_before_it():
    block, random = _block(), np.random.default_rng(2)
    rows, history = random.normal(size=(2, 4, 3)), random.normal(size=(2, 6, 3))
    label, weight = (random.random((2, 6)) < 0.5).astype(float), np.ones((2, 6))
    weight[1, 4:] = 0
    memory = block.encode_support(tf.constant(history), tf.constant(label), tf.constant(weight))
    found = block.read_support(tf.constant(rows), memory, causal=False).numpy()
    earlier = block.read_support(tf.constant(history), memory, causal=True).numpy()
    for task, count in enumerate((6, 4)):
        past = history[task, :count], label[task, :count]
        for n in range(4):
            np.testing.assert_allclose(
                found[task, n], _by_hand(block, rows[task, n], *past), rtol=1e-6
            )
        for n in range(count):
            before = (history[task, :n], label[task, :n])
            expected = _by_hand(block, history[task, n], *before)
            np.testing.assert_allclose(earlier[task, n], expected, rtol=1e-6, atol=1e-12)
    nothing = block.read_support(tf.constant(rows), [], causal=True)
    assert (nothing.numpy() == 0).all()
