"""The page as a whole: self-contained, well formed, safe, readable in both themes."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from importlib.resources import files

import numpy as np
import pytest

from tfrec_limaml.errors import LimamlError
from tfrec_limaml.report import EmbeddingMap, RankedItem, Report, write_report
from tfrec_limaml.report.page import render

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Outline(HTMLParser):
    """Collects tags and attributes; complains about unbalanced ones."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def outline(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    parser.close()
    assert not parser.open
    return parser


def test_the_page_shows_every_part(report):
    page = outline(render(report))
    text = " ".join(page.words)
    for heading in (
        "In short",
        "Learning curves",
        "AUC by length of history",
        "Map of the meta embeddings",
        "One member's list",
        "next",
    ):
        assert heading in text
    assert [tag for tag, _ in page.seen].count("figure") == 5


def test_a_table_of_too_few_members_stays_without_a_chart_and_intervals(report, evaluation):
    for result in evaluation["results"]:
        result["note"] = "fewer than 30 tasks"
        for cell in result["slices"]:
            cell["note"] = "fewer than 30 tasks"
    page = render(Report(title="few", summary="", evaluation=evaluation))
    assert "<figure" not in page
    assert "<p></p>" not in page
    assert "<td>0.6930</td>" in page
    assert '<th scope="row">LiMAML, fine-tuned</th>' in page


def test_the_page_loads_nothing_from_anywhere(report):
    page = render(report)
    assert not re.search(
        r"https?:|//|@import|url\(|<script|<link|<img|<iframe", re.sub(r"</", "<", page)
    )
    assert not [
        a
        for _, attributes in outline(page).seen
        for a in attributes
        if a in ("src", "href", "srcset")
    ]


def test_parts_without_data_are_left_out():
    page = render(Report(title="empty", summary="nothing"))
    assert "<section" not in page
    assert "<h1>empty</h1>" in page


def test_names_from_the_data_cannot_become_markup(report, story):
    evil = '<script>alert("x")</script>&"\''
    item = RankedItem(name=evil, group=evil, without=0.1, before=0.2, after=0.3)
    hostile = dataclasses.replace(story, task_key=evil, clicks=[evil], items=[item, *story.items])
    groups = EmbeddingMap(
        embeddings=np.eye(3, dtype=np.float32), groups=[evil, "a", "b"], meaning=evil
    )
    page = render(
        dataclasses.replace(
            report,
            title=evil,
            summary=evil,
            facts=[(evil, evil)],
            story=hostile,
            embedding_map=groups,
        )
    )
    assert "script" not in {tag for tag, _ in outline(page).seen}


def test_every_drawing_has_a_name_and_a_description_for_screen_readers(report):
    drawings = [attributes for tag, attributes in outline(render(report)).seen if tag == "svg"]
    charts = [a for a in drawings if a.get("role") == "img"]
    assert len(charts) == 5
    assert all(len(a["aria-label"]) > 30 for a in charts)
    assert all(a.get("aria-hidden") == "true" for a in drawings if a not in charts)


def test_the_member_table_counts_moved_places(report, story):
    page = render(report)
    before = sorted(story.items, key=lambda item: -item.before)
    after = sorted(story.items, key=lambda item: -item.after)
    moves = {item: before.index(item) - after.index(item) for item in after}
    up = next(item for item in after if moves[item] > 0)
    down = next(item for item in after if moves[item] < 0)
    for item, text in ((up, f"▲ {moves[up]}"), (down, f"▼ {-moves[down]}")):
        assert re.search(rf"<td>{item.name}</td>.*?<td>{text}</td></tr>", page)


def test_the_table_of_the_curves_has_the_best_epoch_and_the_number_of_epochs(report):
    report.training[0]["history"]["val_auc"][0] = float("nan")
    page = render(report)
    assert "<td>4</td><td>0.6910</td><td>8 s</td>" in page
    assert "<td>5</td><td>0.7180</td><td>31 s</td>" in page


def test_writing_leaves_only_the_page(report, tmp_path):
    path = write_report(tmp_path / "runs" / "report.html", report)
    assert path.read_text(encoding="utf-8") == render(report)
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    "embeddings",
    [np.zeros((2, 3), np.float32), np.zeros(3, np.float32), np.full((3, 2), np.nan, np.float32)],
    ids=["rows", "rank", "nan"],
)
def test_an_embedding_map_refuses_what_it_cannot_draw(embeddings):
    with pytest.raises(LimamlError, match="embedding map needs"):
        EmbeddingMap(embeddings=embeddings, groups=["a", "b", "c"], meaning="x")


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_every_colour_stands_out_from_its_background(theme):
    style = files("tfrec_limaml.report").joinpath("report.css").read_text(encoding="utf-8")
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", style.split(":root {")[theme + 1]))
    contrast = {name: _contrast(value, colours["card"]) for name, value in colours.items()}
    assert all(contrast[f"s{series}"] >= 3.0 for series in range(8)), contrast
    assert contrast["ink"] >= 7.0
    assert contrast["soft"] >= 4.5


def _contrast(first: str, second: str) -> float:
    """WCAG 2 contrast ratio."""
    high, low = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
