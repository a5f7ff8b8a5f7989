"""Progress bars are for terminals: a log file gets lines."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("tfrec_limaml", "beam/limaml_beam", "serving/limaml_serving")


def bars() -> list[Any]:
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if "tqdm" not in (text := path.read_text()):  # every worker collects this
                continue
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "tqdm":
                    place = f"{path.relative_to(ROOT)}:{node.lineno}"
                    found.append(pytest.param(place, node, id=place))
    return found


@pytest.mark.parametrize(("place", "call"), bars())
def test_each_bar_is_off_where_nobody_looks(place, call):
    given = {word.arg: word.value for word in call.keywords}
    if None in given:  # **bar
        name = given[None].id
        source = ast.parse((ROOT / place.split(":")[0]).read_text())
        (settings,) = [
            node.value
            for node in ast.walk(source)
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == name
        ]
        keys = [key.value for key in settings.keys]
        given |= dict(zip(keys, settings.values, strict=True))
    assert ast.literal_eval(given["disable"]) is None, place


@pytest.mark.slow
def test_a_log_file_gets_lines_without_carriage_returns(forks, tmp_path):
    model = ["--meta-block", "mlp", "--global-block", "mlp", "--inner-steps", "1", "--no-strength"]
    commands = [
        ["datasets", "prepare", "simulated", "--members", "80", "--output", f"{tmp_path}/raw"],
        ["prepare", f"{tmp_path}/raw", "--output", f"{tmp_path}/tasks"],
        ["train", f"{tmp_path}/tasks", "--output", f"{tmp_path}/run", "--epochs", "2", *model],
        ["evaluate", f"{tmp_path}/tasks", "--run", f"{tmp_path}/run"],
    ]
    script = tmp_path / "script.py"
    script.write_text(
        "from graphs import without_graphs\nfrom tfrec_limaml.cli import main\n"
        f"with without_graphs():\n for c in {commands}: assert main(c) == 0"
    )
    done = forks().start(script).wait(300)  # its output goes to files
    text = done.stdout + done.stderr
    assert done.returncode == 0, text[-3000:]
    assert "\r" not in text
    assert "\x1b" not in text
    assert text.count("limaml epoch 1/2") == text.count("limaml epoch 2/2") == 1
