"""The built wheel, outside the checkout: what is in it, and the README's quickstart run against
it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from ports import free_port


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that no file of the checkout's own build gets in."""
    source = tmp_path_factory.mktemp("source") / "project"
    ignored = shutil.ignore_patterns(
        ".*", "runs", "build", "dist", "*.egg-info", "__pycache__", "tests", "benchmarks"
    )
    shutil.copytree(checkout, source, ignore=ignored)
    output = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(output),
        str(source),
    ]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return next(output.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel in a folder of its own; everything else comes from the environment."""
    target = tmp_path_factory.mktemp("installed")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(target),
        str(wheel),
    ]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return target


@pytest.fixture
def outside(installed: Path, tmp_path: Path):
    """Runs a shell script in an empty folder; `python` and `limaml` have the wheel first on their
    path and the checkout nowhere on it.
    """
    commands = tmp_path / "bin"
    commands.mkdir()
    # -S and an explicit path: the editable installation's finder in site-packages is not loaded.
    for name, module in (("python", ""), ("limaml", "-m tfrec_limaml")):
        (commands / name).write_text(
            f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -S {module} "$@"\n'
        )
        (commands / name).chmod(0o755)
    path = os.pathsep.join([str(installed), sysconfig.get_paths()["purelib"]])
    found_first = os.pathsep.join([str(commands), os.environ["PATH"]])
    environment = {
        **os.environ,
        "PATH": found_first,
        "PYTHONPATH": path,
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }

    def run(script: str) -> str:
        done = subprocess.run(
            ["bash", "-ec", script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


def test_the_wheel_holds_the_three_packages_their_types_and_data_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} - {
        "tfrec_limaml",
        "limaml_beam",
        "limaml_serving",
    } == {next(n.partition("/")[0] for n in names if n.endswith("METADATA"))}
    for needed in (
        "tfrec_limaml/py.typed",
        "limaml_beam/py.typed",
        "limaml_serving/py.typed",
        "tfrec_limaml/report/report.css",
    ):
        assert needed in names


def test_the_wheel_is_what_gets_imported_outside_the_checkout(outside, installed):
    modules = ("tfrec_limaml", "limaml_beam", "limaml_serving")
    printed = outside(
        f"""python -c '{"".join(f"import {m}; print({m}.__file__);" for m in modules)}'"""
    ).split()
    assert all(Path(file).is_relative_to(installed) for file in printed)


@pytest.mark.slow
def test_the_quickstart_of_the_readme_runs_against_the_wheel(outside, readme_blocks, tmp_path):
    prepare, train, serve = readme_blocks
    assert "--members 500" in prepare
    outside(prepare.replace("--members 500", "--members 60"))
    printed = outside(f"python - <<'END'\n{train}\nEND")
    assert re.search(r"AUC 0\.\d{4} before adaptation, 0\.\d{4} after", printed)
    assert (tmp_path / "quickstart" / "export" / "adapter" / "1" / "saved_model.pb").is_file()
    assert "--port 8500 &\n" in serve
    printed = outside(serve.replace("8500", str(free_port())) + "kill %1; wait %1 || true\n")
    (answer,) = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert answer["model_version"] == 1
    assert [row["used_embedding"] for row in answer["ranked"]] == [True, True]
