"""The documentation's Python examples name what is there."""

from __future__ import annotations

import ast
import builtins
import doctest
import importlib
import importlib.util
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from pages import PAGES, each_page
from repository import ROOT

PACKAGES = ("tfrec_limaml", "limaml_beam", "limaml_serving")


def python_of(text: str) -> ast.Module:
    """A page's Python examples as one module: a reader runs them in order."""
    return ast.parse("\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)))


def imported_names(text: str) -> set[tuple[str, str]]:
    """Modules of this project that a page's Python examples import from, and what from each."""
    found = set()
    for node in ast.walk(python_of(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGES):
            found |= {(str(node.module), alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {(a.name, "") for a in node.names if a.name.startswith(PACKAGES)}
    return found


def exists(module: str, name: str) -> bool:
    """Whether ``from module import name`` works; without a name, ``import module``."""
    loaded = importlib.import_module(module)
    return not name or hasattr(loaded, name) or bool(importlib.util.find_spec(f"{module}.{name}"))


@each_page
def test_what_an_example_imports_exists(text):
    names = imported_names(text)
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


def undefined_names(text: str) -> set[str]:
    """Names that a page's Python examples use and nowhere define or import."""
    nodes = list(ast.walk(python_of(text)))
    defined = set(dir(builtins))
    defined |= {node.id for node in nodes if isinstance(node, ast.Name) and is_stored(node)}
    defined |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    defined |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    defined |= {
        (alias.asname or alias.name).split(".")[0]
        for node in nodes
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    return {node.id for node in nodes if isinstance(node, ast.Name)} - defined


def is_stored(node: ast.Name) -> bool:
    """Whether an example gives the name a value here."""
    return isinstance(node.ctx, ast.Store)


@each_page
def test_an_example_defines_or_imports_every_name_that_it_uses(text):
    assert not undefined_names(text)


def attribute_or_module(module: str, name: str) -> Any:
    """What ``from module import name`` gives."""
    found = getattr(importlib.import_module(module), name, None)
    return importlib.import_module(f"{module}.{name}") if found is None else found


def unknown_keywords(text: str) -> set[str]:
    """Keyword arguments of calls of this project's functions that the functions do not have."""
    named: dict[str, Any] = {
        name: attribute_or_module(module, name) for module, name in imported_names(text) if name
    }
    unknown = set()
    for call in (node for node in ast.walk(python_of(text)) if isinstance(node, ast.Call)):
        called, _, attribute = ast.unparse(call.func).partition(".")
        function = named.get(called)
        if attribute and function is not None:
            function = getattr(function, attribute)
        if function is not None:
            parameters = inspect.signature(function).parameters
            if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
                names = {keyword.arg for keyword in call.keywords if keyword.arg}
                unknown |= {f"{ast.unparse(call.func)}({name}=)" for name in names - {*parameters}}
    return unknown


@each_page
def test_an_example_passes_arguments_that_exist(text):
    assert not unknown_keywords(text)


def test_the_finders_see_undefined_names_and_unknown_arguments():
    imports = "```python\nimport a.b\nfrom tfrec_limaml import task_dataset\n```\n"
    use = "```python\nfor x in a: f(x)\ntask_dataset('t', x, bach_size=3, seed=1)\n```"
    assert undefined_names(imports + use) == {"f"}
    assert unknown_keywords(imports + use) == {"task_dataset(bach_size=)"}


def docstring_examples() -> dict[str, list[doctest.Example]]:
    """The lines after ``>>>`` in docstrings, by file and line."""
    found = {}
    for folder in ("tfrec_limaml", "beam/limaml_beam", "serving/limaml_serving"):
        for file in (ROOT / folder).rglob("*.py"):
            source = file.read_text(encoding="utf-8")
            for node in ast.walk(ast.parse(source)) if ">>>" in source else ():
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                    place = f"{file.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"
                    text = ast.get_docstring(node) or ""
                    if examples := doctest.DocTestParser().get_examples(text, place):
                        found[place] = examples
    return found


#: What the examples of docstrings need from their readers.
BROUGHT = {"encoder", "schema", "train_tasks"}


def test_examples_in_docstrings_run_up_to_what_the_reader_brings():
    names: dict[str, Any] = {"keras": importlib.import_module("keras")}
    for name in ("tfrec_limaml", "tfrec_limaml.blocks", "tfrec_limaml.models"):
        module = importlib.import_module(name)
        names |= {name: getattr(module, name) for name in module.__all__}
    examples = docstring_examples()
    assert len(examples) > 5
    for lines in examples.values():
        run(lines, dict(names))


def test_examples_in_docstrings_stand_under_the_heading_that_the_reference_shows_as_code():
    """Under another word, `Example:`, it shows a remark with nested quotations."""
    folders = [ROOT / name for name in ("tfrec_limaml", "beam", "serving")]
    files = [file for folder in folders for file in folder.rglob("*.py")]
    heading = re.compile(r"^ *(\w+):\n +>>>", re.M)
    words = [word for file in files for word in heading.findall(file.read_text("utf-8"))]
    assert len(words) > 5
    assert set(words) == {"Examples"}


def run(lines: list[doctest.Example], names: dict[str, Any]) -> None:
    """Runs an example, up to the first line that needs what its reader brings."""
    for line in lines:
        try:
            if not line.options.get(doctest.SKIP):
                exec(line.source, names)
        except NameError as error:
            if error.name not in BROUGHT:
                raise
            return


def dotted_names() -> set[str]:
    """What docstrings, pages and the API reference name with its package."""
    packages = (ROOT / "tfrec_limaml", ROOT / "beam", ROOT / "serving")
    files = [*PAGES, *(path for package in packages for path in package.rglob("*.py"))]
    pattern = rf"(?:`|^::: )((?:{'|'.join(PACKAGES)})(?:\.\w+)+)"
    return {name for file in files for name in re.findall(pattern, file.read_text("utf-8"), re.M)}


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
