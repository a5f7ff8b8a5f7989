"""Rules that no single module can see: who imports whom, from where, and which private APIs."""

from __future__ import annotations

import ast
import functools
import re

import pytest
from import_graph import Module, import_circle, imports_in_functions, read_modules
from repository import PACKAGES, ROOT, tracked

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
    "limaml_beam": "names are loaded on first use: `limaml --help` imports no Beam",
    "limaml_serving": "names are loaded on first use: `limaml --help` imports no gRPC",
    "tfrec_limaml.datasets": "its functions are the public face of the package's modules",
    "tfrec_limaml.store.address": "LMDB and Redis need the library of their own backend only",
    "tfrec_limaml.tasks.record_format": "records need the protos, not TensorFlow's runtime",
    "tfrec_limaml.tensorflow_setup": "keeps back the log lines of TensorFlow's import",
    "tfrec_limaml.demo.history": "the demo refuses bad arguments before it loads TensorFlow",
    "tfrec_limaml.demo.story": "the demo refuses bad arguments before it loads TensorFlow",
    "limaml_beam.generate_embeddings.adapter": "workers load TensorFlow, the launcher does not",
}


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
        (
            {"p.a": "from p.b import x", "p.b": "if TYPE_CHECKING:\n    from p.a import y"},
            {"p.a", "p.b"},
        ),
    ],
)
def test_a_planted_circle_is_seen(sources, circle):
    assert set(import_circle(_planted(sources))) == circle


@pytest.mark.parametrize(
    "sources",
    [
        {"p": "from p.a import x", "p.a": "import p.b", "p.b": "import os"},
        {"p": "if TYPE_CHECKING:\n    from p.a import x", "p.a": "from p import NAME"},
    ],
)
def test_a_package_that_imports_its_modules_also_for_types_is_no_circle(sources):
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
