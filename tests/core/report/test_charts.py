"""Charts put data where they say; axes are round; the projection is the textbook's."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfrec_limaml.report import EmbeddingMap, charts, svg
from tfrec_limaml.report.projection import favourite, largest_groups, principal_components

finite = st.floats(-1e6, 1e6, allow_nan=False)


@given(finite, finite)
def test_ticks_are_evenly_spaced_round_numbers_that_cover_the_range(first, second):
    low, high = min(first, second), max(first, second)
    marks = svg.ticks(low, high)
    step = marks[1] - marks[0]
    assert marks[0] <= low + 1e-8 * step
    assert marks[-1] >= high - 1e-8 * step
    assert 2 <= len(marks) <= 8
    assert np.allclose(np.diff(marks), step)
    mantissa = step / 10 ** math.floor(math.log10(step) + 1e-6)
    assert min(abs(mantissa - m) for m in (1, 2, 5, 10)) < 1e-3


@pytest.mark.parametrize(
    ("marks", "expected"),
    [([0.5, 0.55], "0.50"), ([0, 200], "0"), ([0.001, 0.002], "0.001"), ([1], "1")],
)
def test_tick_labels_have_as_many_decimals_as_the_distance_needs(marks, expected):
    assert svg.tick_label(marks[0], marks) == expected


def test_a_frame_maps_the_ends_of_its_ranges_to_its_margins():
    frame = svg.Frame(x_range=(0, 10), y_range=(-1, 1))
    assert (frame.x(0), frame.x(10)) == (frame.left, frame.width - frame.right)
    assert (frame.y(-1), frame.y(1)) == (frame.height - frame.bottom, frame.top)


def test_every_marker_has_its_own_shape():
    shapes = {re.sub(r"s\d ", "", svg.marker(series, 50.0, 50.0)) for series in range(svg.SERIES)}
    assert len(shapes) == svg.SERIES


def test_a_learning_curve_goes_up_where_the_measure_goes_up(training):
    drawing = ElementTree.fromstring(charts.learning_curves(training, "val_auc", "validation AUC"))
    lines = {line.get("class"): line.get("points") for line in drawing.iter("polyline")}
    heights = [float(point.split(",")[1]) for point in lines["s1 line"].split()]
    values = training[1]["history"]["val_auc"]
    assert np.argsort(heights).tolist() == np.argsort(np.negative(values)).tolist()
    assert "LiMAML from 0.6600 to 0.7170 in 5 epochs" in drawing.get("aria-label")


def test_a_curve_with_nan_draws_its_finite_part(training):
    training[1]["history"]["val_auc"][2] = float("nan")
    assert "nan" not in charts.learning_curves(training, "val_auc", "validation AUC")


def test_a_measure_that_nobody_recorded_draws_nothing(training):
    assert charts.learning_curves(training, "unheard_of", "x") == ""


def test_whiskers_end_at_the_confidence_limits(evaluation):
    drawing = ElementTree.fromstring(charts.auc_by_history(evaluation["results"]))
    whiskers = [line for line in drawing.iter("line") if line.get("class", "").endswith(" line")]
    cells = [cell for result in evaluation["results"] for cell in result["slices"]]
    assert len(whiskers) == len(cells)
    lengths = [float(w.get("y1")) - float(w.get("y2")) for w in whiskers]
    widths = [cell["auc_high"] - cell["auc_low"] for cell in cells]
    assert np.allclose(np.divide(lengths, widths), lengths[0] / widths[0], rtol=0.01)


def test_a_slice_without_auc_or_with_few_rows_is_left_out(evaluation):
    for result in evaluation["results"]:
        result["slices"][0].update(auc=None, auc_low=None, auc_high=None)
        result["slices"][4].update(rows=charts.SLICE_ROWS - 1)
    drawing = charts.auc_by_history(evaluation["results"])
    assert "8,000 rows" not in drawing
    assert "31+" not in drawing
    assert "5,200 rows" in drawing


def test_a_slice_of_too_few_members_has_no_interval_to_draw(evaluation):
    for result in evaluation["results"]:
        result["slices"][4]["note"] = "fewer than 30 tasks"
    drawing = charts.auc_by_history(evaluation["results"])
    assert "31+" not in drawing
    assert "2,500 rows" in drawing


def test_a_model_has_one_colour_in_all_charts_and_its_forms_differ(training, evaluation):
    def colours(drawing):
        form = r"<g><title>([^,<]+(?:, (?!epoch)[a-z-]+)?)[^<]*</title>"
        return dict(re.findall(rf'{form}(?:<line[^>]*>)?<\w+ class="s(\d) mark', drawing))

    curves = colours(charts.learning_curves(training, "val_auc", "validation AUC"))
    by_history = colours(charts.auc_by_history(evaluation["results"]))
    assert curves["Vanilla"] == by_history["Vanilla, un-adapted"]
    assert curves["LiMAML"] == by_history["LiMAML, fine-tuned"]
    assert len(set(by_history.values())) == len(by_history) == 3


def test_the_map_names_each_group_and_limits_its_points():
    rng = np.random.default_rng(0)
    groups = [f"g{i % 3}" for i in range(3 * charts.MAP_POINTS)]
    drawing, names = charts.embedding_map(
        EmbeddingMap(
            embeddings=rng.normal(size=(len(groups), 4)).astype(np.float32),
            groups=groups,
            meaning="x",
        )
    )
    assert names == ["g0", "g1", "g2"]
    assert f"{charts.MAP_POINTS} of them drawn" in drawing
    assert len(re.findall(r'class="s\d mark"', drawing)) == charts.MAP_POINTS


def test_principal_components_are_the_eigenvectors_of_the_covariance():
    vectors = np.random.default_rng(1).normal(size=(200, 5)) @ np.diag([5, 3, 1, 0.5, 0.1]) + 7
    coordinates, shares = principal_components(vectors)
    values = np.linalg.eigvalsh(np.cov(vectors.T))[::-1]
    assert np.allclose(coordinates.var(axis=0, ddof=1), values[:2])
    assert np.allclose(shares, values[:2] / values.sum())
    assert np.allclose(coordinates.mean(axis=0), 0)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("seed", range(4))
def test_the_map_does_not_flip_because_the_largest_coefficient_of_a_direction_is_positive(
    seed, sign
):
    random = np.random.default_rng(seed)
    vectors = sign * random.normal(size=(50, 4))
    coordinates, _ = principal_components(vectors)
    directions = ((vectors - vectors.mean(0)).T @ coordinates).T
    assert all(direction[np.abs(direction).argmax()] > 0 for direction in directions)
    order = random.permutation(50)
    assert np.allclose(coordinates[order], principal_components(vectors[order])[0])


@pytest.mark.parametrize("shape", [(1, 4), (5, 1), (2, 2)])
def test_small_maps_are_two_dimensional_too(shape):
    coordinates, _ = principal_components(np.arange(math.prod(shape), dtype=float).reshape(shape))
    assert coordinates.shape == (shape[0], 2)
    assert np.isfinite(coordinates).all()


def test_a_favourite_is_the_most_frequent_value_and_ties_go_by_name():
    assert favourite(["b", "a", "b"]) == "b"
    assert favourite(["b", "a"]) == "a"
    assert favourite([]) == "nothing yet"


def test_a_group_that_is_called_other_is_not_merged_with_the_rest():
    groups, names = largest_groups(["other"] * 5 + ["b"] * 3 + ["c", "d"], keep=3)
    assert names == ["other", "b", "all other"]
    assert groups == ["other"] * 5 + ["b"] * 3 + ["all other"] * 2


def test_rare_groups_become_other():
    groups, names = largest_groups(["a"] * 5 + ["b"] * 3 + ["c", "d"], keep=3)
    assert names == ["a", "b", "other"]
    assert groups[-2:] == ["other", "other"]


def test_the_rank_chart_joins_each_candidate_to_its_new_place(story):
    drawing = ElementTree.fromstring(charts.rank_change(story))
    labels = [t.text for t in drawing.iter("text")]
    best = max(story.items, key=lambda item: item.after).name
    assert f"1. {best}" in labels
    assert len(list(drawing.iter("polyline"))) == len(story.items)


def test_the_rank_chart_names_the_candidate_that_rises_most(story):
    before = sorted(story.items, key=lambda item: -item.before)
    after = sorted(story.items, key=lambda item: -item.after)
    rises = {item: before.index(item) - after.index(item) for item in story.items}
    (said,) = re.findall(r"<desc>(.*?)</desc>", charts.rank_change(story))
    assert said in [
        f"{item.name} moves from place {before.index(item) + 1} to {after.index(item) + 1}."
        for item, rise in rises.items()
        if rise == max(rises.values())
    ]
