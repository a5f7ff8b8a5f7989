"""Rules that no single module can see: who imports whom, sizes, links, entry points."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from import_graph import Module, import_circle, imports_in_functions, read_modules

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "tfrec_limaml": ROOT / "tfrec_limaml",
    "limaml_beam": ROOT / "beam" / "limaml_beam",
    "limaml_serving": ROOT / "serving" / "limaml_serving",
}
#: What each package must not import, anywhere, not even inside a function.
FORBIDDEN = {
    "tfrec_limaml": {
        "limaml_beam",
        "limaml_serving",
        "apache_beam",
        "tfx_bsl",
        "grpc",
        "grpc_health",
        "tensorflow_serving",
    },
    "limaml_beam": {"limaml_serving", "grpc", "grpc_health", "tensorflow_serving"},
    "limaml_serving": {"limaml_beam", "apache_beam", "tfx_bsl"},
}
#: Modules beside `commands` that import our own packages, TensorFlow or Keras inside a function.
LATE_IMPORTS = {
    "tfrec_limaml": "names are loaded on first use: `import tfrec_limaml` imports no TensorFlow",
    "limaml_serving": "names are loaded on first use: `limaml --help` imports no gRPC",
    "tfrec_limaml.datasets": "its functions are the public face of the package's modules",
    "tfrec_limaml.store.address": "LMDB and Redis need the library of their own backend only",
    "tfrec_limaml.tasks.record_format": "records need the protos, not TensorFlow's runtime",
    "tfrec_limaml.tensorflow_setup": "keeps back the log lines of TensorFlow's import",
    "tfrec_limaml.demo.history": "the demo refuses bad arguments before it loads TensorFlow",
    "tfrec_limaml.demo.story": "the demo refuses bad arguments before it loads TensorFlow",
    "limaml_beam.generate_embeddings.adapter": "workers load TensorFlow, the launcher does not",
}
MAXIMUM_LINES = {"tests": 450, "packages": 300}
#: Lines of code of a function, without its docstring.
MAXIMUM_FUNCTION_LINES = 40
COMMANDS = [
    "demo",
    "datasets",
    "prepare",
    "diagnose",
    "train",
    "evaluate",
    "compare",
    "export",
    "embed",
    "refresh",
    "update",
    "stream",
    "erase",
    "serve",
    "rank",
]


@functools.cache
def imported_roots(source: str) -> set[str]:
    """Top-level names that a module imports, also through `importlib.import_module("...")`."""
    roots = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            roots |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            roots.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = (
                node.func.attr
                if isinstance(node.func, ast.Attribute)
                else getattr(node.func, "id", "")
            )
            if name in ("import_module", "__import__"):
                roots.add(str(node.args[0].value).partition(".")[0])
    return roots


def tracked(*patterns: str) -> list[Path]:
    """Files of the repository; untracked ones count too, ignored ones do not."""
    command = [
        "git",
        "-C",
        str(ROOT),
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
        "--",
        *patterns,
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.skip("needs the git checkout: the file list comes from `git ls-files`")
    return [path for name in result.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_the_import_finder_sees_every_way_of_importing():
    source = "import a.b\nfrom c.d import e\ndef f():\n    import g\n    importlib.import_module('h.i')\nfrom . import j\n"  # noqa: E501
    assert imported_roots(source) == {"a", "c", "g", "h"}


@pytest.mark.parametrize("package", FORBIDDEN)
def test_dependencies_point_one_way(package):
    modules = sorted(PACKAGES[package].rglob("*.py"))
    assert modules
    offences = {
        f"{path.relative_to(ROOT)} imports {root}"
        for path in modules
        for root in imported_roots(path.read_text(encoding="utf-8")) & FORBIDDEN[package]
    }
    assert not offences


@pytest.fixture(scope="module")
def modules():
    return read_modules(PACKAGES)


def test_what_libraries_do_not_promise_is_used_in_one_module_per_library(modules):
    private = re.compile(
        r"keras\.src|tensorflow\.python|fn_api_runner import|tfx_bsl\.(?!public)\w"
        r"|\b_(as_tf_output|call_has_training_arg"
        r"|compile_loss|compile_metrics|flatten_layers|loss_tracker|nodes_by_depth|run_through_graph|inbound_nodes)\b"
    )
    users = {name for name, module in modules.items() if private.search(_code_of(module.source))}
    assert users == {
        "tfrec_limaml.keras_internals",
        "tfrec_limaml.tensorflow_internals",
        "limaml_beam.io.beam_internals",
        "limaml_beam.io.tfx_bsl_internals",
        "limaml_serving.server.tensorflow_internals",
    }


def test_only_the_staging_modules_name_temporary_outputs(modules):
    named = re.compile(r"os\.replace\(|with_name\(f?['\"]\.|\.(writing|partial|tmp|old)-")
    users = {name for name, module in modules.items() if named.search(_code_of(module.source))}
    assert users == {"tfrec_limaml.staging", "limaml_beam.io.staged_output"}


@functools.cache
def _code_of(source):
    """A module's code without comments and docstrings, each use as it is written."""
    return ast.unparse(_without_docstrings(ast.parse(source)))


def _without_docstrings(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(...)
    return tree


def test_no_modules_import_each_other_in_a_circle(modules):
    assert len(modules) > 100
    assert import_circle(modules) == []


@pytest.mark.parametrize(
    ("sources", "circle"),
    [
        ({"p.a": "import p.b", "p.b": "from p.a import x"}, {"p.a", "p.b"}),
        ({"p.a": "from p import b", "p.b": "def f():\n    import p.a"}, {"p.a", "p.b"}),
        ({"p.a": "from . import b", "p.b": "from .a import x"}, {"p.a", "p.b"}),
        ({"p": "from p.a import x", "p.a": "from p import x"}, {"p", "p.a"}),
        # importing q.c loads the package q, which imports p.a
        ({"p.a": "import q.c", "q": "import p.a", "q.c": ""}, {"p.a", "q"}),
        ({"p": "HOMES = {'x': 'a'}", "p.a": "from p import x"}, {"p", "p.a"}),
    ],
)
def test_a_planted_circle_is_seen(sources, circle):
    assert set(import_circle(_planted(sources))) == circle


@pytest.mark.parametrize(
    "sources",
    [
        {"p": "from p.a import x", "p.a": "import p.b", "p.b": "import os"},
        {
            "p.a": "from p.b import x",
            "p.b": "if TYPE_CHECKING:\n    from p.a import y",
        },
    ],
)
def test_a_package_that_imports_its_modules_and_imports_for_types_are_no_circles(sources):
    assert import_circle(_planted(sources)) == []


def test_functions_import_our_own_packages_in_few_places_only(modules):
    late = imports_in_functions(modules, {*PACKAGES, "tensorflow", "keras"})
    assert {name for name in late if ".commands" not in name} == set(LATE_IMPORTS)


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    import p.b",
        "class C:\n    async def f(self):\n        from p import b",
        "def f():\n    from .b import x",
        "try:\n    def f():\n        import p.b as other\nfinally:\n    pass",
    ],
)
def test_a_planted_import_in_a_function_is_seen(source):
    planted = _planted({"p.a": source, "p.b": "import os\nimport q"})
    assert imports_in_functions(planted, {"p"}) == {"p.a": {"p.b"}}


def _planted(sources):
    """Modules by name with their text; the package p is there in any case."""
    packages = {"p", "q"}
    return {name: Module(text, name in packages) for name, text in {"p": "", **sources}.items()}


def test_nobody_imports_the_folders_beam_and_serving_as_packages():
    offences = {
        str(path)
        for path in tracked("*.py")
        if imported_roots(path.read_text(encoding="utf-8")) & {"beam", "serving"}
    }
    assert not offences
    assert not [
        folder for folder in ("beam", "serving") if (ROOT / folder / "__init__.py").exists()
    ]


def test_no_module_is_longer_than_one_can_read():
    lengths = {
        str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines())
        for p in tracked("*.py")
    }
    packages = tuple(str(folder.relative_to(ROOT)) for folder in PACKAGES.values())
    assert not {
        name: lines
        for name, lines in lengths.items()
        if lines > MAXIMUM_LINES["packages" if name.startswith(packages) else "tests"]
    }


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


def test_the_package_declares_every_command():
    assert {entry.name for entry in entry_points(group="limaml.commands")} >= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_loads_and_teaches_with_an_example(name):
    from tfrec_limaml.cli import Command

    command = next(
        entry for entry in entry_points(group="limaml.commands") if entry.name == name
    ).load()
    assert isinstance(command, Command)
    assert f"limaml {name}" in command.description
    assert len(command.help) < 100


def test_help_is_quick_because_it_loads_no_heavy_library():
    script = (
        "import sys\nfrom tfrec_limaml.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'tensorflow', 'keras', 'apache_beam', 'grpc', 'matplotlib', 'pandas'} & "
        "set(sys.modules)\n"
        "print('HEAVY', sorted(heavy))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "HEAVY []" in done.stdout
