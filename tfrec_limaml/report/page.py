"""``report.html``: sections of charts, each with its numbers in a table."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from tfrec_limaml import staging
from tfrec_limaml.report import charts, svg
from tfrec_limaml.report.contents import MemberStory, Report, algorithm_label, series_of
from tfrec_limaml.wording import counted


def write_report(path: str | Path, report: Report) -> Path:
    """Writes the page (completely or not at all) and returns its path."""
    return write(path, render(report))


def write(path: str | Path, page: str) -> Path:
    """Writes a page (completely or not at all) and returns its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    staging.write_text(path, page)
    return path


def render(report: Report) -> str:
    """The page as one HTML document that loads no other files."""
    sections = [
        _summary(report),
        _training(report),
        _evaluation(report),
        _map(report),
        _story(report),
        _next(report),
    ]
    return document(report.title, report.summary, sections)


def document(title: str, summary: str, sections: Sequence[str]) -> str:
    """A page of sections as one HTML document that loads no other files."""
    paragraph = f"<p>{html.escape(summary)}</p>" if summary else ""
    style = files("tfrec_limaml.report").joinpath("report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light dark">\n'  # noqa: E501
        f"<title>{html.escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"<header><h1>{html.escape(title)}</h1>{paragraph}</header>\n"
        f"<main>\n{''.join(sections)}</main>\n</body>\n</html>\n"
    )


def _summary(report: Report) -> str:
    if not report.facts:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{html.escape(n)}</th><td>{html.escape(v)}</td></tr>'
        for n, v in report.facts
    )
    return section(
        "In short",
        "",
        f'<div class="scroll"><table class="facts"><tbody>{rows}</tbody></table></div>',
    )


def _training(report: Report) -> str:
    curves = [
        charts.learning_curves(report.training, m, label)
        for m, label in (("val_auc", "validation AUC"), ("loss", "training loss"))
    ]
    if not any(curves):
        return ""
    names = [algorithm_label(run["algorithm"]) for run in report.training]
    rows = [
        (
            name,
            str(len(run["history"].get("loss", ()))),
            _number(max(filter(math.isfinite, run["history"].get("val_auc", ())), default=None)),
            f"{run['seconds']:.0f} s",
        )
        for name, run in zip(names, report.training, strict=True)
    ]
    return section(
        "Learning curves",
        "How each algorithm did on members' later interactions after each pass over the training "
        "tasks. The training losses belong to different objectives (LiMAML adds the loss before "
        "adaptation): compare their shapes, not their values.",
        _legend(names, [series_of(run["algorithm"]) for run in report.training]),
        f'<div class="pair">{"".join(figure(c) for c in curves if c)}</div>',
        table(("algorithm", "epochs", "validation AUC", "training of the kept model"), rows),
    )


def _evaluation(report: Report) -> str:
    results = (report.evaluation or {}).get("results", ())
    if not results:
        return ""
    chart = charts.auc_by_history(results)
    names = [
        algorithm_label(r["algorithm"], r["fine_tune"], r.get("served", False)) for r in results
    ]
    slices = list(dict.fromkeys(s["slice"] for r in results for s in r["slices"]))
    by_slice = [{s["slice"]: s for s in r["slices"]} for r in results]
    rows = [
        (name, _interval(result), *(_interval(cells.get(s)) for s in slices))
        for name, result, cells in zip(names, results, by_slice, strict=True)
    ]
    legend = _legend(names, [series_of(r["algorithm"], r["fine_tune"]) for r in results])
    return section(
        "AUC by length of history",
        "Test AUC of members grouped by how many interactions they had before the test period, "
        f"with 95 % confidence intervals. Groups of fewer than {charts.SLICE_ROWS} rows are only "
        "in the table; groups of too few members are there without an interval.",
        legend + figure(chart, wide=True) if chart else "",
        table(("algorithm", "all", *slices), rows, is_open=not chart),
    )


def _map(report: Report) -> str:
    if report.embedding_map is None:
        return ""
    chart, names = charts.embedding_map(report.embedding_map)
    meaning = report.embedding_map.meaning
    members = len(report.embedding_map.groups)
    sample = ""
    if members > charts.MAP_POINTS:
        sample = f" ({charts.MAP_POINTS:,} of {members:,} members, drawn at random)"
    return section(
        "Map of the meta embeddings",
        f"Each point is one member's embedding, seen along the two directions of largest "
        f"variance{sample}; colour and shape: {meaning}.",
        _legend(names),
        figure(chart, wide=True),
    )


def _story(report: Report) -> str:
    story = report.story
    if story is None or not story.items:
        return ""
    names = sorted({item.group for item in story.items})
    return section(
        "One member's list, before and after a few clicks",
        f"Member {story.task_key}: the first embedding uses "
        f"{counted(story.seen, 'interaction')}, the second "
        f"one uses these as well:",
        items(story.clicks),
        _legend(names) if len(names) <= svg.SERIES else "",
        figure(charts.rank_change(story), wide=True),
        _story_table(story),
    )


def _story_table(story: MemberStory) -> str:
    before = sorted(story.items, key=lambda item: -item.before)
    after = sorted(story.items, key=lambda item: -item.after)
    rows = []
    for rank, item in enumerate(after, 1):
        rise = before.index(item) + 1 - rank
        arrow = f"▲ {rise}" if rise > 0 else f"▼ {-rise}" if rise < 0 else "="
        rows.append(
            (
                str(rank),
                item.name,
                item.group,
                f"{item.without:.3f}",
                f"{item.before:.3f}",
                f"{item.after:.3f}",
                arrow,
            )
        )
    return table(
        ("place", "candidate", "kind", "no embedding", "before", "after", "moved"),
        rows,
        is_open=True,
    )


def _next(report: Report) -> str:
    if not report.next_steps:
        return ""
    return section(
        "What to try next",
        "",
        *(f"<pre><code>{html.escape(step)}</code></pre>" for step in report.next_steps),
    )


def section(title: str, introduction: str, *parts: str) -> str:
    """A section of the page; the introduction is escaped, the parts are markup."""
    paragraph = f"<p>{html.escape(introduction)}</p>" if introduction else ""
    return f"<section><h2>{html.escape(title)}</h2>{paragraph}{''.join(parts)}</section>\n"


def items(texts: Sequence[str]) -> str:
    """A list of plain texts."""
    return f"<ul>{''.join(f'<li>{html.escape(text)}</li>' for text in texts)}</ul>" if texts else ""


def figure(chart: str, wide: bool = False) -> str:
    """A chart, half or all of the page's width."""
    return f'<figure class="{"wide" if wide else "half"}">{chart}</figure>'


def _legend(names: Sequence[str], series: Sequence[int] | None = None) -> str:
    numbers = range(len(names)) if series is None else series
    entries = []
    for number, name in zip(numbers, names, strict=True):
        key = svg.element("svg", svg.marker(number, 8, 8), viewBox="0 0 16 16", aria_hidden="true")
        entries.append(f"<li>{key}{html.escape(name)}</li>")
    return f'<ul class="legend">{"".join(entries)}</ul>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], is_open: bool = False) -> str:
    """The numbers behind a chart, collapsed unless `is_open`."""
    titles = "".join(f'<th scope="col">{html.escape(h)}</th>' for h in head)
    lines = "".join(
        f'<tr><th scope="row">{html.escape(row[0])}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    table = f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table></div>'  # noqa: E501
    return f"<details{' open' if is_open else ''}><summary>The numbers</summary>{table}</details>"


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}"


def _interval(cell: object) -> str:
    if not isinstance(cell, dict) or cell.get("auc") is None:
        return "n/a"
    if "note" in cell:
        return f"{cell['auc']:.4f}"
    return f"{cell['auc']:.4f} ({cell['auc_low']:.3f} to {cell['auc_high']:.3f})"
