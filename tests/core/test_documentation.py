"""The documentation's Python examples name what is there."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("tfrec_limaml", "limaml_beam", "limaml_serving")
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]


def imported_names(text: str) -> set[tuple[str, str]]:
    """Modules of this project that a page's Python examples import from, and what from each."""
    found = set()
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGES):
                found |= {(str(node.module), alias.name) for alias in node.names}
            elif isinstance(node, ast.Import):
                found |= {(a.name, "") for a in node.names if a.name.startswith(PACKAGES)}
    return found


def exists(module: str, name: str) -> bool:
    """Whether ``from module import name`` works; without a name, ``import module``."""
    loaded = importlib.import_module(module)
    return not name or hasattr(loaded, name) or bool(importlib.util.find_spec(f"{module}.{name}"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_an_example_imports_exists(page):
    names = imported_names(page.read_text(encoding="utf-8"))
    assert not {(module, name) for module, name in names if not exists(module, name)}


def test_the_finder_sees_both_ways_of_importing_and_what_is_missing():
    text = "```python\nimport limaml_beam\nfrom tfrec_limaml import LiMAML, Nothing\nimport os\n```"
    assert imported_names(text) == {
        ("limaml_beam", ""),
        ("tfrec_limaml", "LiMAML"),
        ("tfrec_limaml", "Nothing"),
    }
    assert exists("tfrec_limaml", "LiMAML")
    assert exists("tfrec_limaml", "schema")
    assert not exists("tfrec_limaml", "Nothing")


def dotted_names() -> set[str]:
    """What docstrings and pages name with its package: modules, classes, functions, attributes."""
    packages = (ROOT / "tfrec_limaml", ROOT / "beam", ROOT / "serving")
    files = [*PAGES, *(path for package in packages for path in package.rglob("*.py"))]
    pattern = rf"`((?:{'|'.join(PACKAGES)})(?:\.\w+)+)"
    return {name for file in files for name in re.findall(pattern, file.read_text("utf-8"))}


def is_there(dotted: str) -> bool:
    """Whether a dotted name is a module, or can be reached from one."""
    *parts, last = dotted.split(".")
    try:
        return exists(".".join(parts), last)
    except ModuleNotFoundError:  # the name of a class lies between
        owner = importlib.import_module(".".join(parts[:-1]))
        return hasattr(getattr(owner, parts[-1], None), last)


def test_dotted_names_in_docstrings_and_pages_exist():
    names = dotted_names()
    assert len(names) > 40
    assert not {name for name in names if not is_there(name)}
    assert not is_there("tfrec_limaml.models.sample_loss")
    assert is_there("tfrec_limaml.LiMAML.fit")


def measured_gain(page: Path) -> str:
    """LiMAML's gain over vanilla in a page of results, as other pages write it."""
    gain = r"([+-][\d.]+) \(([+-][\d.]+) ([+-][\d.]+)\)"
    match = re.search(rf"^\| limaml \|.*?\| {gain} \|", page.read_text("utf-8"), re.MULTILINE)
    assert match, page
    middle, low, high = (text.removeprefix("+") for text in match.groups())
    return f"{middle if middle.startswith('-') else '+' + middle} ({low} to {high})"


@pytest.mark.parametrize("data", ["movielens-100k", "kuairand-pure", "simulated"])
@pytest.mark.parametrize("page", ["README.md", "docs/choosing_a_task_definition.md"])
def test_a_gain_is_the_same_on_all_pages(data, page):
    gain = measured_gain(ROOT / "docs" / "results" / f"{data}.md")
    assert gain in (ROOT / page).read_text("utf-8")
