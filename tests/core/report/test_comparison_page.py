"""The page and the tables of a comparison: every rival, its interval, and each slice by history."""

from __future__ import annotations

import re

import pytest

from tfrec_limaml.commands.compare import markdown
from tfrec_limaml.report.comparison_page import write_comparison_page


def _row(name, auc, unadapted=None, **further):
    return {
        "name": name,
        "served": True,
        "auc_mean": auc,
        "auc_sd": 0.002,
        "auc_unadapted": unadapted,
        "gain": auc - 0.7,
        "gain_low": auc - 0.71,
        "gain_high": auc - 0.69,
        "log_loss": 0.5,
        "calibration": 1.125,
        "gauc": 0.6,
        "ndcg_10": 0.8,
        "seconds": 3.0,
        "slices": [
            {"slice": "0", "rows": 0, "auc": float("nan")},
            {"slice": "1-3", "rows": 40, "auc": float("nan")},
            {"slice": "4-10", "rows": 1234, "auc": auc + 0.01},
        ],
        **further,
    }


@pytest.fixture
def result():
    return {
        "rows": 5000,
        "tasks": 70,
        "seeds": [1, 2, 3],
        "reference": "vanilla",
        "results": [
            _row("vanilla", 0.7),
            _row("limaml", 0.75, unadapted=0.69),
            {"name": "lightgbm", "note": "needs LightGBM"},
        ],
    }


def test_the_page_draws_each_rival_and_its_unadapted_form_and_loads_nothing(result, tmp_path):
    text = write_comparison_page(tmp_path / "page.html", result).read_text("utf-8")
    charts = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(charts) == 3  # AUC, gains, and the one slice that holds both classes
    assert all(name in charts[0] for name in ("vanilla", "limaml"))
    assert "vanilla</text>" not in charts[1]  # the reference has no gain over itself
    assert "4-10 samples (1,234 rows)" in charts[2]
    assert "+0.0500 (+0.0400 to +0.0600)" in text
    assert "http" not in text.replace("http://www.w3.org", "")


def test_lines_are_intervals_and_diamonds_are_the_unadapted_forms(result, tmp_path):
    text = write_comparison_page(tmp_path / "page.html", result).read_text("utf-8")
    chart = re.findall(r"<svg.*?</svg>", text, re.DOTALL)[0]
    circles = [float(x) for x in re.findall(r'<circle[^>]* cx="([\d.]+)"', chart)]
    lines = [
        sorted(float(re.search(rf'{end}="([\d.]+)"', line).group(1)) for end in ("x1", "x2"))
        for line in re.findall(r"<line[^>]*>", chart)
        if "s0 line" in line
    ]
    (diamond,) = re.findall(r'<polygon[^>]* points="([^"]+)"', chart)
    xs = [float(point.split(",")[0]) for point in diamond.split()]
    per_auc = (circles[1] - circles[0]) / 0.05  # 0.75 less 0.70
    middle = (min(xs) + max(xs)) / 2
    assert (middle - circles[0]) / per_auc == pytest.approx(-0.01, abs=1e-3)
    for (low, high), circle in zip(lines, circles, strict=True):
        assert (high - circle) / per_auc == pytest.approx(0.002, abs=2e-4)
        assert (circle - low) / per_auc == pytest.approx(0.002, abs=2e-4)
    (cells,) = re.findall(r'<tr><th scope="row">limaml</th>(.*?)</tr>', text)
    shown = dict(
        zip(
            re.findall(r'scope="col">([^<]+)<', text),
            re.findall(r"<td>([^<]*)", cells),
            strict=False,
        )
    )
    assert shown == {
        **{"AUC": "0.7500", "sd": "0.0020", "un-adapted": "0.6900"},
        **{"gain": "+0.0500 (+0.0400 to +0.0600)", "log loss": "0.5000"},
        **{"calibration": "1.1250", "GAUC": "0.6000", "nDCG@10": "0.8000"},
    }


def test_a_comparison_without_any_result_is_a_page_all_the_same(result, tmp_path):
    result["results"] = result["results"][2:]
    assert "LiMAML and its rivals" in write_comparison_page(tmp_path / "p.html", result).read_text()


def test_the_table_shows_slices_and_leaves_out_what_cannot_be_measured(result):
    lines = markdown(result).splitlines()
    assert "| lightgbm | needs LightGBM | | | | | | | |" in lines
    (head,) = [line for line in lines if line.startswith("| | 1-3")]
    assert head == "| | 1-3 (40 rows) | 4-10 (1,234 rows) |"
    assert "| limaml |  | 0.7600 |" in lines
    widths = {line.count("|") for line in lines if line.startswith("|")}
    assert len(widths) == 2  # two tables, each of one width


def test_the_table_says_where_adaptation_was_switched_off(result):
    vanilla, limaml, _ = result["results"]
    vanilla["settings"] = [{"adaptation_strength": 1.0}] * 3
    limaml["settings"] = [{"adaptation_strength": strength} for strength in (0.0, 0.5, 0.0)]
    said = "limaml does not adapt in 2 of 3 runs: adapting gained nothing on the validation rows"
    assert said in markdown(result)
    assert "vanilla does not" not in markdown(result)
    limaml["settings"] = [{"adaptation_strength": 0.0}]
    assert "limaml does not adapt in all runs: " in markdown(result)


def test_seeds_that_are_left_out_are_named_beside_the_table(result, tmp_path):
    vanilla, limaml, _ = result["results"]
    vanilla |= {"seeds": [1, 2, 3], "diverged": [2], "used_seeds": [1, 3]}
    limaml |= {"seeds": [1, 2, 3], "used_seeds": [1, 3]}
    page = write_comparison_page(tmp_path / "p.html", result).read_text("utf-8")
    for text in (markdown(result), page):
        assert "vanilla: all numbers are of the seeds [1, 3] (seeds [2] diverged)." in text
        said = "[1, 3] (no scores of limaml or vanilla of the seeds [2])."
        assert f"limaml: all numbers are of the seeds {said}" in text


@pytest.mark.parametrize(("seeds", "words"), [([7], "one seed"), ([1, 2], "mean of 2 seeds")])
def test_the_number_of_seeds_is_said_in_words(result, seeds, words, tmp_path):
    result["seeds"] = seeds
    page = write_comparison_page(tmp_path / "p.html", result).read_text()
    assert f"70 tasks, {words}" in page
    assert f"70 tasks, {words}" in markdown(result)


def test_the_page_of_one_seed_draws_no_standard_deviation(result, tmp_path):
    page = write_comparison_page(tmp_path / "p.html", result)
    assert "one standard deviation" in page.read_text()
    assert "0.0020" in page.read_text()
    for row in result["results"]:
        row["auc_sd"] = None
    assert "standard deviation" not in write_comparison_page(page, result).read_text()
    assert "0.0020" not in page.read_text()


def test_empty_cells_of_the_slices_are_explained(result):
    said = "\n\nEmpty: fewer than 30 tasks, or fewer than 10 rows of one class."
    assert markdown(result).endswith(said)
    for row in result["results"][:2]:
        del row["slices"][:2]
    assert "Empty" not in markdown(result)


def test_without_the_reference_no_gain_is_announced(result, tmp_path):
    assert "gain over vanilla" in markdown(result)
    assert "Gain over vanilla" in write_comparison_page(tmp_path / "p.html", result).read_text()
    (limaml,) = result["results"] = [result["results"][1]]
    for name in ("gain", "gain_low", "gain_high"):
        del limaml[name]
    assert "gain over" not in markdown(result)
    assert "(no gains: vanilla is not among the rivals)" in markdown(result)
    assert "vanilla" not in write_comparison_page(tmp_path / "p.html", result).read_text()
