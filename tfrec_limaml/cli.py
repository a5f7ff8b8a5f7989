"""``limaml``: one command, subcommands contributed by each package.

A package contributes subcommands through the entry-point group ``limaml.commands``; every entry
point loads a `Command`. That way the core never imports the Beam or the serving package.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import functools
import importlib
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import EntryPoint, entry_points, version
from typing import Any

from tfrec_limaml import finite_json, standard_streams
from tfrec_limaml.errors import LimamlError

#: Order in ``limaml --help``; unknown names follow.
_ORDER = (
    "demo",
    "datasets",
    "prepare",
    "diagnose",
    "train",
    "evaluate",
    "compare",
    "reproduce",
    "export",
    "embed",
    "refresh",
    "update",
    "stream",
    "erase",
    "store",
    "serve",
    "rank",
)
#: Packages that commands import when they run, and the extra of setup.py that installs each.
_EXTRAS = {
    **dict.fromkeys(("apache_beam", "google_crc32c", "isal", "tfx_bsl"), "beam"),
    **dict.fromkeys(
        ("grpc", "grpc_health", "grpc_reflection", "prometheus_client", "tensorflow_serving"),
        "serving",
    ),
    "boto3": "aws",
    "confluent_kafka": "stream",
    "redis": "redis",
    "tensorboard": "tensorboard",
}
#: A full disk or quota, and files that may not be written: not errors of the program.
_REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EROFS: "the folder is read-only: choose another",
    errno.EACCES: "change the permissions",
    errno.EPERM: "change the permissions",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """One subcommand.

    Attributes:
        help: One line for ``limaml --help``.
        description: Text of ``limaml NAME --help``: purpose, an example, what to run next.
        add_arguments: Adds options to the subcommand's parser. Must be cheap: no TensorFlow import.
        run: Runs the command and returns a result that JSON can hold, or ``None``. Heavy imports
            belong here. Progress goes to stderr; the caller prints the result (as JSON under
            ``--json``, else through ``render``).
        render: The result as text.
        exit_code: Exit code of a finished run, from its result; 0 by default.
        json_help: Help of ``--json``.
    """

    help: str
    description: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], dict[str, Any] | None]
    render: Callable[[dict[str, Any]], str] = lambda result: "\n".join(
        f"{k}: {v}" for k, v in result.items()
    )
    exit_code: Callable[[dict[str, Any]], int] = lambda result: 0
    json_help: str = "print the result as one JSON object on stdout"

    def text_of(self, result: dict[str, Any], as_json: bool) -> str:
        """The result as it is printed."""
        if as_json:
            return finite_json.dumps(result, indent=2, default=str)
        return self.render(result)


def say(line: str) -> None:
    """Writes a line of progress to standard error."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def build_parser(names: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of ``limaml`` with the subcommands `names` (all installed ones if empty)."""
    parser = argparse.ArgumentParser(
        prog="limaml", description="Personalise deep recommender models with LiMAML."
    )
    parser.add_argument("--version", action="version", version=f"limaml {version('tfrec-limaml')}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for entry in _installed():
        if names and entry.name not in names:
            continue
        command = _load(entry)
        if command is None:
            continue
        sub = subparsers.add_parser(
            entry.name,
            help=command.help,
            description=command.description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(sub)
        sub.add_argument("--json", action="store_true", help=command.json_help)
        sub.set_defaults(run_command=command)
    return parser


class TerminatedError(KeyboardInterrupt):
    """The process has received SIGTERM: it ends like an interrupted one."""


@contextlib.contextmanager
def _sigterm_as_error() -> Iterator[None]:
    """A context in which SIGTERM raises `TerminatedError`.

    Reports are then written and temporary files removed. A process that is forked inside ends at
    once. A handler of the caller stays.
    """
    process = os.getpid()

    def end(number: int, frame: Any) -> None:
        if os.getpid() != process:
            os._exit(128 + number)
        raise TerminatedError("terminated")

    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``limaml`` and returns the exit code.

    The codes: 0 done, 1 done with a negative result, 2 bad arguments or input, 70 an error of the
    program, 130 interrupted, 143 terminated, 141 the reader of the output has closed the pipe.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    standard_streams.open_closed_streams()
    try:
        return _run_on_standard_streams(list(sys.argv[1:] if argv is None else argv))
    except Exception:  # noqa: BLE001 - Python's own exit code, 1, would be a negative result
        traceback.print_exc()
        return os.EX_SOFTWARE


def _run_on_standard_streams(arguments: Sequence[str]) -> int:
    """`_run`, and the errors of the files and pipes that it writes to."""
    try:
        try:
            with _sigterm_as_error():
                return _run(arguments)
        finally:
            # If this failed when the interpreter ends, Python would print a message of its own.
            sys.stdout.flush()
    except BrokenPipeError:  # as in ``limaml ... | head -1``
        if not standard_streams.reader_has_gone():
            raise
        standard_streams.drop_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in _REMEDIES:
            raise
        denied = error.errno in (errno.EACCES, errno.EPERM)  # reading, perhaps
        print(
            f"limaml: error: {'' if denied else 'cannot write: '}{error}; "
            f"{_REMEDIES[error.errno]} and run the command again",
            file=sys.stderr,
        )
        standard_streams.drop_output()
        return 2


def _run(arguments: Sequence[str]) -> int:
    installed = {entry.name for entry in _installed()}
    selection = [arguments[0]] if arguments and arguments[0] in installed else []
    namespace = build_parser(selection).parse_args(arguments)
    command: Command = namespace.run_command
    try:
        with _plain_warnings():
            result = command.run(namespace)
    except LimamlError as error:
        print(f"limaml: error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        print(
            f"limaml: error: {arguments[0]} needs the package {error.name}: pip install "
            f"'tfrec-limaml[{extra}]'",
            file=sys.stderr,
        )
        return 2
    except TerminatedError:
        print("limaml: terminated", file=sys.stderr)
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        print("limaml: interrupted", file=sys.stderr)
        return 130
    if result is not None:
        print(command.text_of(result, namespace.json))
        return command.exit_code(result)
    return 0


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Shows warnings for users as one line each, without the source line that Python adds."""
    format_of_python = warnings.formatwarning

    def formatted(message: Warning | str, category: type[Warning], *where: Any, **line: Any) -> str:
        if issubclass(category, UserWarning):
            return f"limaml: warning: {message}\n"
        return format_of_python(message, category, *where, **line)

    warnings.formatwarning = formatted
    try:
        yield
    finally:
        warnings.formatwarning = format_of_python


@functools.cache  # the entry points do not change in a process; reading them takes 0.1 s
def _installed() -> list[EntryPoint]:
    by_name = {entry.name: entry for entry in entry_points(group="limaml.commands")}
    return sorted(
        by_name.values(),
        key=lambda e: (_ORDER.index(e.name) if e.name in _ORDER else len(_ORDER), e.name),
    )


def _load(entry: EntryPoint) -> Command | None:
    """The command, or None if its package's extra is not installed."""
    module, _, attribute = entry.value.partition(":")
    try:
        command: Command = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        print(
            f"limaml: {entry.name} is not available ({error}); install it with: pip install "
            "'tfrec-limaml[all]'",
            file=sys.stderr,
        )
        return None
    return command
