"""The pages of the documentation."""

from __future__ import annotations

import pytest
from repository import ROOT

PAGES = [
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / folder / "README.md" for folder in (".", "beam", "serving")),
    ROOT / "CONTRIBUTING.md",
]
#: Runs a test once for each page, with its text.
each_page = pytest.mark.parametrize(
    "text",
    [pytest.param(p.read_text("utf-8"), id=str(p.relative_to(ROOT))) for p in PAGES],
)
