"""The import graph of this project's modules, read from their source text."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple


class Import(NamedTuple):
    """One import.

    Attributes:
        name: Full name of the module; for ``from a import b`` it is ``a.b`` if that is a
            module of the project, else ``a``.
        in_function: Whether it happens when a function is called, not when the module is loaded.
    """

    name: str
    in_function: bool


class Module(NamedTuple):
    """Source text of a module, and whether it is a package's ``__init__``."""

    source: str
    is_package: bool = False


def read_modules(packages: Mapping[str, Path]) -> dict[str, Module]:
    """All modules of the packages by full name."""
    modules = {}
    for package, folder in packages.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            name = ".".join((package, *(parts[:-1] if is_package else parts)))
            modules[name] = Module(path.read_text(encoding="utf-8"), is_package)
    return modules


def imports(name: str, module: Module, known: Collection[str]) -> list[Import]:
    """A module's imports, those for types (under ``if TYPE_CHECKING``) included.

    Modules that a package's ``__init__`` loads on first use count as imported in a function. They
    are the values of its dictionaries that name modules, in full or relative to the package. Its
    imports of the same modules for types are left out.

    Args:
        name: Full name of the module.
        module: Its text.
        known: Names of all modules of the project.
    """
    tree = ast.parse(module.source)
    result = list(_imports(tree, name, module, known, in_function=False))
    if module.is_package:
        tables = (node for node in ast.walk(tree) if isinstance(node, ast.Dict))
        for value in (value for table in tables for value in table.values):
            if isinstance(value, ast.Constant):
                targets = {value.value, f"{name}.{value.value}"} & set(known)
                result += [Import(target, True) for target in targets]
    return result


def _imports(
    node: ast.AST, name: str, module: Module, known: Collection[str], in_function: bool
) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if module.is_package and _is_for_types(child):
            continue
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, in_function) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = _base(child, name, module)
            for alias in child.names:
                full = f"{base}.{alias.name}"
                yield Import(full if full in known else base, in_function)
        deeper = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _imports(child, name, module, known, in_function or deeper)


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _base(node: ast.ImportFrom, name: str, module: Module) -> str:
    """The module that ``from ... import`` names, in full."""
    if not node.level:
        return str(node.module)
    up = node.level - module.is_package
    parent = name.rsplit(".", up)[0] if up else name
    return f"{parent}.{node.module}" if node.module else parent


def import_graph(modules: Mapping[str, Module]) -> dict[str, set[str]]:
    """The modules of the project that each module imports, and their packages.

    Packages that the module itself belongs to are left out.
    """
    graph: dict[str, set[str]] = {}
    for name, module in modules.items():
        graph[name] = set()
        for target, _ in imports(name, module, modules):
            parts = target.split(".")
            packages = {".".join(parts[:i]) for i in range(1, len(parts))}
            outside = {package for package in packages if not name.startswith(f"{package}.")}
            graph[name] |= ({target} | outside) & set(modules) - {name}
    return graph


def import_circle(modules: Mapping[str, Module]) -> list[str]:
    """Modules that form an import cycle, the first one repeated at the end; empty without one."""
    try:
        graphlib.TopologicalSorter(import_graph(modules)).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def imports_in_functions(
    modules: Mapping[str, Module], roots: Collection[str]
) -> dict[str, set[str]]:
    """The modules of packages in `roots` that each module imports inside functions."""
    result = {}
    for name, module in modules.items():
        late = {i.name for i in imports(name, module, modules) if i.in_function}
        late = {target for target in late if target.partition(".")[0] in roots}
        if late:
            result[name] = late
    return result
