"""The documentation's command lines run as printed, and its options and files exist."""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import re
import shlex
from collections.abc import Iterator
from importlib.metadata import metadata

from pages import each_page
from repository import ROOT

from tfrec_limaml.cli import build_parser

#: Options of other programs that pages name by themselves, and those of no program.
FOREIGN = {"--collector", "--experiments", "--flag"}
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
OPTION = re.compile(r"(?<![\w-])--[a-zA-Z][\w-]*")


def shell_lines(text: str) -> Iterator[str]:
    """Lines of a page's shell blocks, fenced or indented; one that goes on is one line."""
    blocks = [block for language, block in FENCED.findall(text) if language in ("", "sh", "bash")]
    blocks += re.findall(r"^(?: {4}.*\n)+", FENCED.sub("", text), re.MULTILINE)
    for block in blocks:
        yield from re.sub(r"\\\n *", "", block).splitlines()


def command_lines(text: str) -> Iterator[str]:
    """The ``limaml`` commands of a page's shell blocks."""
    for line in shell_lines(text):
        # At the start of the line, in a crontab too, or after another command.
        for match in re.finditer(r"(?:^\s*|\* +|&& |do )limaml (.+?)(?= && |$)", line):
            yield match[1]


def arguments_of(line: str) -> list[str]:
    """A command line as the shell passes it on, with values in place of variables."""
    line = re.sub(r"\$\w+", "1", re.sub(r"\$\(.*?\)", "--beam=--flag", line))
    words = shlex.split(line, comments=True)
    ends = [i for i, word in enumerate(words) if re.fullmatch(r"[<>&|]|2?>>.*", word)]
    return words[: min(ends, default=None)]


@functools.cache
def parser_of(command: str) -> argparse.ArgumentParser:
    return build_parser([command])


def is_accepted(line: str) -> bool:
    """Whether ``limaml`` takes a command line, with whole option names; one with dots is a part."""
    command, *rest = arguments = arguments_of(line)
    if not options_in(line) <= options_of(parser_of(command)):
        return False
    if "..." in rest:
        return True
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            parser_of(command).parse_args(arguments)
        except SystemExit:
            return False
    return True


def options_in(text: str) -> set[str]:
    """Options of a command, without those that it passes to Beam."""
    return set(OPTION.findall(re.sub(r"--beam=\S+", "--beam", text)))


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """All options of a parser and of the commands beneath it."""
    found: set[str] = set()
    for action in parser._actions:
        found.update(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            found.update(*(options_of(command) for command in action.choices.values()))
    return found


def inline_commands(text: str) -> Iterator[tuple[str, set[str]]]:
    """Commands within sentences, and the options they are named with."""
    for names, rest in re.findall(r"`limaml ([a-z|]+)([^`]*)`", FENCED.sub("", text)):
        for name in names.split("|"):
            yield name, options_in(rest)


def script_calls(text: str) -> Iterator[tuple[str, set[str]]]:
    """Scripts of the repository that a page runs, and the options it passes."""
    for script, rest in re.findall(r"python ((?:benchmarks|examples)/\w+\.py)([^`\n>]*)", text):
        yield script, options_in(rest)


def options_of_script(script: str) -> set[str]:
    """The options in the text of a script: starting each one would take seconds."""
    names = re.findall(r'"(?:--)?([a-z]+(?:-[a-z]+)*)"', (ROOT / script).read_text("utf-8"))
    return {f"--{name}" for name in names}


@each_page
def test_every_command_line_of_a_page_is_accepted_as_printed(text):
    assert not [line for line in command_lines(text) if not is_accepted(line)]


@each_page
def test_every_option_is_one_of_the_command_that_it_is_named_with(text):
    wrong = [
        (name, options - options_of(parser_of(name))) for name, options in inline_commands(text)
    ]
    wrong += [(script, given - options_of_script(script)) for script, given in script_calls(text)]
    assert not [(name, unknown) for name, unknown in wrong if unknown]


@each_page
def test_every_option_that_a_page_names_by_itself_exists(text):
    # Options of other programs have underscores; this project's have none.
    lone = {name for name in re.findall(r"`(--[a-zA-Z][\w-]*)", text) if "_" not in name}
    scripts = set().union(*(options_of_script(script) for script, _ in script_calls(text)))
    assert lone - scripts <= options_of(build_parser([])) | FOREIGN


@each_page
def test_every_file_of_the_repository_that_a_page_names_exists(text):
    folders = r"(?:beam|benchmarks|docs|examples|serving|tests|tfrec_limaml)"
    named = re.findall(rf"(?<![\w./-])({folders}/[\w./-]*\w\.[a-z]+)\b", text)
    # serving/README.md names the files beside it.
    assert not [n for n in named if not any((ROOT / p / n).is_file() for p in ("", "serving"))]


@each_page
def test_every_target_and_extra_that_a_page_names_exists(text):
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z0-9-]+):", makefile, re.MULTILINE))
    inline = " ".join(re.findall(r"`make ([a-z0-9 -]+)`", text))
    lines = re.findall(
        r"^make ([a-z0-9 -]+?)(?: +[#A-Z]|$)", "\n".join(shell_lines(text)), re.MULTILINE
    )
    assert set(" ".join([inline, *lines]).split()) <= targets
    extras = re.findall(r"(?:tfrec-limaml|install \"\.)\[([a-z,]+)\]", text)
    assert set(",".join(extras).split(",")) - {""} <= {
        *metadata("tfrec-limaml").get_all("Provides-Extra")
    }


def test_the_reader_of_commands_sees_what_would_not_run():
    block = (
        "```\nlimaml train A --output B \\\n    --sede 3\n15 3 * * *  limaml evaluate A 2>>log\n"
    )
    page = f"{block}```\n\n    limaml export A --output B   # two folders\n"
    lines = list(command_lines(page))
    assert [line.split()[0] for line in lines] == ["train", "evaluate", "export"]
    assert [is_accepted(line) for line in lines] == [False, False, True]
    assert is_accepted("train ... --seed 3")
    assert not is_accepted("train ... --sede 3")
    assert not is_accepted("compare A --output B --seed 3")  # argparse would take it for --seeds
    assert list(inline_commands("`limaml prepare|train --seed 3`")) == [
        ("prepare", {"--seed"}),
        ("train", {"--seed"}),
    ]
    assert list(script_calls("`python benchmarks/store.py --rwos 3 --json > a`")) == [
        ("benchmarks/store.py", {"--rwos", "--json"})
    ]
    assert "--rows" in options_of_script("benchmarks/store.py")
    assert "--rwos" not in options_of_script("benchmarks/store.py")
