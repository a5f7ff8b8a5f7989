"""The commands that the packages declare."""

from __future__ import annotations

import argparse
import importlib
import itertools
import re
import shlex
import subprocess
import sys
from importlib.metadata import entry_points, version

import pytest

import tfrec_limaml
from tfrec_limaml.cli import _ORDER, Command, build_parser

ENTRIES = sorted(entry_points(group="limaml.commands"), key=lambda entry: entry.name)
each_command = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)


def test_the_packages_declare_every_command():
    assert {entry.name for entry in ENTRIES} >= {*_ORDER}


def test_the_package_tells_its_version():
    assert tfrec_limaml.__version__ == version("tfrec_limaml")
    assert "__version__" in dir(tfrec_limaml)


@each_command
def test_every_command_loads_and_teaches_with_an_example(entry):
    command = entry.load()
    assert isinstance(command, Command)
    for name, parser in commands_of(entry).items():
        assert re.search(rf"examples?[^\n]*:\n(?:.*\n)*? *{name}\b", parser.description), name
    assert len(command.help) < 100


@each_command
def test_every_option_of_a_command_has_a_help_text(entry, capsys):
    with pytest.raises(SystemExit):
        build_parser([entry.name]).parse_args([entry.name, "--help"])
    lists = re.split(r"\n(?:positional arguments|options):\n", capsys.readouterr().out, maxsplit=1)
    options = "\n" + lists[1]
    blocks = re.split(r"\n  (?=\S)", options)[1:]
    assert "show this help message" in options
    assert [text for text in blocks if not re.search(r"\S {2,}\S|\n {20,}\S", text)] == []


def commands_of(entry):
    """The parsers of a command and of the commands beneath it, by their names."""
    top = build_parser([entry.name])
    todo, found = [("limaml", top)], {}
    while todo:
        name, parser = todo.pop()
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                todo += [(f"{name} {word}", sub) for word, sub in action.choices.items()]
        found[name] = parser
    return {name: parser for name, parser in found.items() if parser is not top}


def command_lines(text):
    """The commands of a help text as a shell would read them: arguments, without redirections."""
    lines = re.sub(r"\\\n *", "", text).splitlines()
    for line, following in itertools.pairwise([*lines, ""]):
        if match := re.match(r"(?:next:)? *limaml (\S.*)", line):
            goes_on = following.lstrip().startswith("-") or line.endswith("<")
            assert not goes_on, f"no backslash at the end: {line}"
            command = re.split(r" {2,}|, then | [<&]", match[1])[0]
            if "..." not in command:
                yield shlex.split(command)


@each_command
def test_every_command_line_of_a_help_text_runs_as_printed(entry):
    for arguments in itertools.chain(
        *(command_lines(parser.description) for parser in commands_of(entry).values())
    ):
        try:
            build_parser([arguments[0]]).parse_args(arguments)
        except SystemExit:
            pytest.fail(f"limaml {shlex.join(arguments)}")


def test_a_name_of_the_package_registers_its_keras_classes(monkeypatch):
    """After it, `keras.saving.load_model` finds them, whatever was imported first."""
    registered = []
    monkeypatch.setattr(tfrec_limaml, "_register", lambda: registered.append(True))
    assert tfrec_limaml.Schema
    assert registered


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


@pytest.mark.parametrize("package", ["tfrec_limaml", "limaml_beam", "limaml_serving"])
def test_names_that_are_loaded_on_first_use_are_listed(package):
    module = importlib.import_module(package)
    assert set(dir(module)) >= set(module._MODULES) == set(module.__all__)
    for name in dir(module):
        assert getattr(module, name)
