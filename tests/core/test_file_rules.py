"""Rules of the files: their lengths, the paths and packages that they name, and their links."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from import_graph import read_modules
from repository import PACKAGES, ROOT, tracked

MAXIMUM_LINES = 300
#: Lines of code of a function, without its docstring.
MAXIMUM_FUNCTION_LINES = 40


@pytest.fixture(scope="module")
def modules():
    return read_modules(PACKAGES)


def test_no_module_is_longer_than_one_can_read():
    lengths = {
        str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines())
        for p in tracked("*.py")
    }
    assert not {name: lines for name, lines in lengths.items() if lines > MAXIMUM_LINES}


def test_no_function_is_longer_than_one_can_hold_in_mind(modules):
    lengths = {
        f"{name}.{function.name}": _code_lines(module.source, function)
        for name, module in modules.items()
        for function in ast.walk(ast.parse(module.source))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert len(lengths) > 1000
    too_long = {name: lines for name, lines in lengths.items() if lines > MAXIMUM_FUNCTION_LINES}
    assert not too_long, f"split these functions: {too_long}"


def _code_lines(source, function):
    """Lines of a function that are neither docstring nor comment nor blank."""
    lines = source.splitlines()[function.lineno - 1 : function.end_lineno]
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        start, end = first.lineno - function.lineno, first.end_lineno - function.lineno + 1
        del lines[start:end]
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in lines)


def test_a_functions_length_is_that_of_its_code():
    source = 'x = 1\ndef f():\n    """One\n    two."""\n    # three\n\n    return (\n        4)\n'
    (function,) = (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef))
    assert _code_lines(source, function) == 3


def test_no_file_names_a_path_of_one_machine():
    path = re.compile(rb"(^|[^A-Za-z0-9_.])/(work|root|farm|home/[a-z]+)/", re.MULTILINE)
    assert not [str(p.relative_to(ROOT)) for p in tracked() if path.search(p.read_bytes())]


def test_constraints_pin_every_package_and_name_no_index():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    assert len(lines) > 50
    assert not [
        line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!_-]+", line)
    ]


def test_every_link_in_the_documentation_leads_somewhere():
    broken = []
    for page in tracked("*.md"):
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(
            r'(?:src|srcset|href)="([^"]+)"', text
        )
        for target in targets:
            if re.match(r"[a-z]+:", target):
                continue
            file, _, anchor = target.partition("#")
            destination = (page.parent / file).resolve() if file else page
            if not destination.exists() or (anchor and anchor not in headings(destination)):
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert not broken


def headings(page: Path) -> set[str]:
    """Anchors of a Markdown page, as GitHub makes them."""
    titles = re.findall(r"^#+\s+(.+?)\s*$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
