"""The command line: exit codes, one readable line per error, JSON on request, and life without the
extras.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from tfrec_limaml import cli
from tfrec_limaml.errors import LimamlError

#: Packages that the command does not find, by its number.
MISSING = {97: "apache_beam.io", 98: "of_my_own"}


def _add_arguments(parser):
    parser.add_argument("--number", type=int, default=1)


def _run(options):
    if options.number < 0:
        raise LimamlError(
            f"--number must not be negative, received {options.number}; use 0 or more"
        )
    if options.number == 99:
        raise KeyboardInterrupt
    if options.number in MISSING:
        name = MISSING[options.number]
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return {"double": 2 * options.number} if options.number else None


COMMAND = cli.Command(
    help="Doubles.",
    description="Doubles.\n\n  limaml double --number 2",
    add_arguments=_add_arguments,
    run=_run,
)


@pytest.fixture(autouse=True)
def commands(monkeypatch):
    """Two entry points: one that loads and one whose package is not installed."""
    entries = [
        EntryPoint("double", "fake_commands:COMMAND", "limaml.commands"),
        EntryPoint("absent", "package_that_is_not_installed:COMMAND", "limaml.commands"),
    ]
    load = cli._load
    monkeypatch.setattr(cli, "_installed", lambda: entries)
    monkeypatch.setattr(
        cli, "_load", lambda entry: COMMAND if entry.name == "double" else load(entry)
    )


def test_a_result_is_rendered_for_people_by_default(capsys):
    assert cli.main(["double", "--number", "4"]) == 0
    assert capsys.readouterr().out == "double: 8\n"


def test_json_prints_the_result_alone_on_standard_output(capsys):
    assert cli.main(["double", "--number", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"double": 8}


def test_a_command_without_result_prints_nothing(capsys):
    assert cli.main(["double", "--number", "0"]) == 0
    assert capsys.readouterr().out == ""


def test_an_error_that_the_user_can_fix_is_one_line_and_exit_code_2(capsys):
    assert cli.main(["double", "--number", "-3"]) == 2
    captured = capsys.readouterr()
    assert (
        captured.err == "limaml: error: --number must not be negative, received -3; use 0 or more\n"
    )
    assert captured.out == ""


def test_a_package_that_is_missing_is_named_with_its_extra(capsys):
    assert cli.main(["double", "--number", "97"]) == 2
    assert capsys.readouterr().err == (
        "limaml: error: double needs the package apache_beam.io: pip install 'tfrec-limaml[beam]'\n"
    )


def test_an_error_of_the_program_is_a_traceback_and_not_the_code_of_a_negative_result(capsys):
    assert cli.main(["double", "--number", "98"]) == 70
    captured = capsys.readouterr()
    assert captured.err.startswith("Traceback")
    assert "of_my_own" in captured.err
    assert captured.out == ""


def test_an_interrupt_exits_130_without_a_traceback(capsys):
    assert cli.main(["double", "--number", "99"]) == 130
    assert capsys.readouterr().err == "limaml: interrupted\n"


@pytest.mark.parametrize(
    "arguments", [[], ["double", "--number", "many"], ["unheard-of"], ["double", "--unknown"]]
)
def test_arguments_that_argparse_refuses_exit_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_command_of_a_package_that_is_not_installed_says_how_to_get_it(capsys):
    with pytest.raises(SystemExit):
        cli.main(["absent"])
    assert "pip install 'tfrec-limaml[all]'" in capsys.readouterr().err


def test_other_commands_work_without_the_missing_package(capsys):
    assert cli.main(["double", "--json"]) == 0
    assert "absent" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--help"], ["datasets", "list"], ["datasets", "list", "--json"]]
)
@pytest.mark.parametrize("buffered", [True, False])
def test_a_reader_that_goes_away_ends_it_quietly(arguments, buffered):
    """``limaml ... | true``: neither a traceback nor the interpreter's own message at its end."""
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tfrec_limaml", *arguments],
        stdout=writing,
        stderr=subprocess.PIPE,
        env=environment,
        check=False,
    )
    os.close(writing)
    assert done.stderr == b""
    assert done.returncode == 141 or arguments == ["--help"]  # argparse may take no notice itself


def test_a_broken_pipe_of_the_command_itself_is_not_hushed_up(monkeypatch, capsys):
    def run(options):
        raise BrokenPipeError("a worker died")

    monkeypatch.setattr(cli, "_load", lambda entry: dataclasses.replace(COMMAND, run=run))
    monkeypatch.setattr(cli.standard_streams, "reader_has_gone", lambda: False)
    assert cli.main(["double"]) == 70
    assert "BrokenPipeError: a worker died" in capsys.readouterr().err


@pytest.mark.parametrize("buffered", [True, False])
def test_a_full_disk_under_standard_output_is_one_line(buffered):
    environment = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tfrec_limaml", "datasets", "list"],
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment,
            check=False,
        )
    assert done.stderr.startswith(b"limaml: error: cannot write: [Errno 28] No space left")
    assert done.stderr.count(b"\n") == 1
    assert done.returncode == 2


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_those_of_the_null_device(closed, tmp_path):
    """A file that is opened later must not get the number of one of them."""
    program = (
        "import os, sys\n"
        "from tfrec_limaml import cli\n"
        "code = cli.main(['datasets', 'list'])\n"
        "numbers = [stream.fileno() for stream in (sys.stdin, sys.stdout, sys.stderr)]\n"
        "with open(sys.argv[1], 'w') as file:\n"
        "    file.write(f'{code} {numbers} {file.fileno() > 2} {sys.stdin.read()!r}')\n"
    )
    found = tmp_path / "found.txt"
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", program, str(found)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert found.read_text() == "0 [0, 1, 2] True ''"


def test_a_warning_for_users_is_one_plain_line_and_one_for_programmers_says_where():
    program = (
        "import dataclasses, warnings\n"
        "from tfrec_limaml import cli\n"
        "def run(options):\n"
        "    warnings.simplefilter('always')\n"
        "    warnings.warn('the loss rose')\n"
        "    warnings.warn('an old name', DeprecationWarning)\n"
        "load = cli._load\n"
        "cli._load = lambda entry: dataclasses.replace(load(entry), run=run)\n"
        "assert cli.main(['datasets', 'list']) == 0\n"
        "warnings.warn('of the caller')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        "limaml: warning: the loss rose",
        "<string>:6: DeprecationWarning: an old name",
        "<string>:10: UserWarning: of the caller",
    ]


def test_sigterm_ends_a_command_like_an_interrupt_with_its_own_code():
    code = (
        "import os, signal, sys; from tfrec_limaml import cli;"
        "command = cli.Command(help='', description='', add_arguments=lambda p: None,"
        " run=lambda a: os.kill(os.getpid(), signal.SIGTERM) or signal.pause());"
        "cli._load = lambda entry: command;"
        "sys.exit(cli.main(['train']))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (143, "limaml: terminated\n")


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.EROFS, "read-only: choose another"), (errno.EACCES, "permissions")],
)
def test_a_file_that_may_not_be_written_is_no_traceback(monkeypatch, capsys, number, remedy):
    def refuse(arguments):
        raise OSError(number, os.strerror(number), "/some/file")

    monkeypatch.setattr(cli, "_run", refuse)
    monkeypatch.setattr(cli.standard_streams, "drop_output", lambda: None)
    assert cli.main([]) == 2
    error = capsys.readouterr().err
    assert "/some/file" in error
    assert remedy in error


def test_results_without_a_value_are_null(monkeypatch, capsys):
    result = {"auc": float("nan"), "list": [float("inf"), 1.0]}
    command = cli.Command(
        help="", description="", add_arguments=lambda p: None, run=lambda args: result
    )
    monkeypatch.setattr(cli, "_load", lambda entry: command)
    assert cli.main(["double", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"auc": None, "list": [None, 1.0]}


def test_the_handler_of_sigterm_is_the_callers_again_after_a_command(monkeypatch):
    seen = []
    monkeypatch.setattr(
        cli, "_run", lambda arguments: seen.append(signal.getsignal(signal.SIGTERM))
    )
    former = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        cli.main([])
        assert callable(seen[0])
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, former)
