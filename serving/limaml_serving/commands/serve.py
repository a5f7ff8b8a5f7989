"""``limaml serve``: the embedded model server on the command line."""

from __future__ import annotations

import argparse
import functools
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from limaml_serving.server_settings import check_settings
from tfrec_limaml import standard_streams
from tfrec_limaml.cli import Command
from tfrec_limaml.commands.arguments import add_metrics_arguments
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.tensorflow_setup import import_tensorflow

if TYPE_CHECKING:
    from limaml_serving.server import EmbeddedServer, ModelSettings, ServerTls

#: Options whose values `check_settings` knows.
_CHECKED = (
    "port",
    "workers",
    "max_queue",
    "max_message_mb",
    "max_response_mb",
    "max_rows",
    "grace_seconds",
    "poll_seconds",
    "metrics_port",
)

_DESCRIPTION = """\
Serves exported models over gRPC with TensorFlow Serving's protocol (Predict, GetModelMetadata,
GetModelStatus, HandleReloadConfigRequest, health, reflection). A development and single-node
server: by default it listens on this machine only, and it does not batch requests. New version
directories are loaded while it runs. Once it accepts requests, one line on stdout gives its address
and the versions; its log is on stderr.

example:
  limaml serve EXPORT/ranker --name ranker --port 8500
  limaml serve --models-config models.config --port 8500 --metrics-port 9100

next:
  limaml rank --target 127.0.0.1:8500 --export EXPORT --store lmdb:STORE < requests.jsonl
"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "directory",
        nargs="?",
        type=Path,
        help="base directory of one model, with one SavedModel per numbered version",
    )
    parser.add_argument(
        "--name", help="name of the model in requests (default: the directory's name)"
    )
    parser.add_argument(
        "--models-config",
        type=Path,
        metavar="FILE",
        help="TensorFlow Serving models.config with the models to serve",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: %(default)s, this machine only)",
    )
    parser.add_argument(
        "--port", type=int, default=8500, help="port; 0 takes a free one (default: %(default)s)"
    )
    _add_limits(parser)
    parser.add_argument(
        "--allow-reload",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="let clients change the configuration (HandleReloadConfigRequest); by default if "
        "only this machine, or only clients with a certificate (--tls-client-ca), can call",
    )
    parser.add_argument(
        "--poll-seconds",
        type=float,
        default=1.0,
        help="time between checks for new versions (default: %(default)s)",
    )
    add_metrics_arguments(parser)
    _add_tls(parser)


def _add_limits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers", type=int, help="predictions that run at once (default: the number of cores)"
    )
    parser.add_argument(
        "--max-queue",
        type=int,
        default=128,
        help="predictions that may wait; more are refused (default: %(default)s)",
    )
    parser.add_argument(
        "--max-message-mb",
        type=int,
        default=64,
        help="largest request in MiB (default: %(default)s)",
    )
    parser.add_argument(
        "--max-response-mb",
        type=int,
        default=4,
        help="largest response in MiB; gRPC clients accept 4 by default (default: %(default)s)",
    )
    parser.add_argument(
        "--max-rows",
        type=int,
        default=100_000,
        help="largest first axis of an input (default: %(default)s)",
    )
    parser.add_argument(
        "--strict-shapes",
        action="store_true",
        help="refuse inputs whose shape differs from the signature's (for development; TensorFlow "
        "Serving leaves it to the graph)",
    )
    parser.add_argument(
        "--grace-seconds",
        type=float,
        default=10.0,
        help="time for running requests to finish after SIGTERM or SIGHUP (default: %(default)s)",
    )


def _add_tls(parser: argparse.ArgumentParser) -> None:
    tls = parser.add_argument_group("TLS (PEM files)")
    tls.add_argument("--tls-key", type=Path, metavar="FILE", help="the server's private key")
    tls.add_argument(
        "--tls-certificate", type=Path, metavar="FILE", help="the server's certificate chain"
    )
    tls.add_argument(
        "--tls-client-ca",
        type=Path,
        metavar="FILE",
        help="require client certificates signed by this authority (mutual TLS)",
    )


def _run(arguments: argparse.Namespace) -> None:
    _check(arguments)
    import_tensorflow(keras=False)
    models = _models(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    from limaml_serving.server import EmbeddedServer

    server = EmbeddedServer(
        models,
        host=arguments.host,
        port=arguments.port,
        tls=_tls(arguments),
        workers=arguments.workers,
        max_queue=arguments.max_queue,
        max_message_bytes=arguments.max_message_mb * 1024 * 1024,
        max_response_bytes=arguments.max_response_mb * 1024 * 1024,
        max_rows=arguments.max_rows,
        strict_shapes=arguments.strict_shapes,
        allow_reload=arguments.allow_reload,
        poll_seconds=arguments.poll_seconds,
        metrics_port=arguments.metrics_port,
        metrics_host=arguments.metrics_host,
    )
    inside = None if arguments.directory is None else Path(arguments.directory) / "ranker"
    hint = f"; did you mean {inside}?" if inside is not None and inside.is_dir() else ""
    _serve(server, arguments.grace_seconds, functools.partial(_print, as_json=arguments.json), hint)


def _serve(
    server: EmbeddedServer,
    grace_seconds: float,
    announce: Callable[[dict[str, Any]], None],
    hint: str = "",
) -> None:
    """Serves until SIGTERM, SIGINT or SIGHUP, then drains.

    `announce` receives the address and the versions once requests are accepted.
    """
    logger = logging.getLogger(__name__)
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, on_signal)
    server.start()
    available = server.manager.available()
    logger.info("serving %s at %s", available, server.target)
    for name in [name for name, versions in available.items() if not versions]:
        logger.warning("model %s has no version that can be served yet; waiting%s", name, hint)
    metrics = server.metrics_target and f"http://{server.metrics_target}/metrics"
    announce({"target": server.target, "models": available, "metrics": metrics})
    stop.wait()
    logger.info("stopping: running requests have %s seconds to finish", grace_seconds)
    server.stop(grace_seconds)


def _print(result: dict[str, Any], as_json: bool) -> None:
    """Prints the result at once; output that cannot be written does not stop the server."""
    try:
        sys.stdout.write(f"{SERVE.text_of(result, as_json)}\n")
        sys.stdout.flush()
    except OSError as error:
        logging.getLogger(__name__).warning("cannot write to stdout: %s", error)
        standard_streams.drop_output()


def _render(result: dict[str, Any]) -> str:
    models: dict[str, list[int]] = result["models"]
    described = [
        f"{name} (version {', '.join(map(str, versions))})" if versions else f"{name} (no version)"
        for name, versions in models.items()
    ]
    state = "ready" if all(models.values()) else "waiting for versions"
    metrics = f"; metrics at {result['metrics']}" if result["metrics"] else ""
    return f"{state} at {result['target']}: {', '.join(described)}{metrics}"


def _check(arguments: argparse.Namespace) -> None:
    if (arguments.directory is None) == (arguments.models_config is None):
        raise LimamlError("give either a model's base directory or --models-config FILE")
    if arguments.models_config is not None and arguments.name is not None:
        raise LimamlError(
            f"--name {arguments.name!r} needs a base directory; a models.config contains the "
            f"names of its models"
        )
    check_settings({name: getattr(arguments, name) for name in _CHECKED}, option=True)
    if arguments.directory is not None:
        _check_directory(arguments.directory.absolute())


def _check_directory(base: Path) -> None:
    if not base.is_dir():
        raise LimamlError(
            f"no directory at {base}; pass a model's base directory, for example EXPORT/ranker "
            "after `limaml export`"
        )
    try:
        names = os.listdir(base)
    except OSError as error:
        raise LimamlError(f"cannot read the model's base directory {base}: {error}") from error
    if "saved_model.pb" in names:
        raise LimamlError(
            f"{base} is one version of a model; pass the directory above it, which holds the "
            "numbered versions"
        )


def _models(arguments: argparse.Namespace) -> list[ModelSettings]:
    if arguments.models_config is not None:
        from limaml_serving.server import read_models_config

        return list(read_models_config(arguments.models_config).values())
    from limaml_serving.server import ModelSettings

    base: Path = arguments.directory.absolute()
    return [ModelSettings(name=arguments.name or base.name, base_path=base)]


def _tls(arguments: argparse.Namespace) -> ServerTls | None:
    from limaml_serving.server import ServerTls

    key, certificate, client_ca = (
        arguments.tls_key,
        arguments.tls_certificate,
        arguments.tls_client_ca,
    )
    if key is None and certificate is None and client_ca is None:
        return None
    if key is None or certificate is None:
        raise LimamlError("TLS needs both --tls-key and --tls-certificate")
    return ServerTls(private_key=key, certificate_chain=certificate, client_ca=client_ca)


SERVE = Command(
    help="serve exported models over gRPC (TensorFlow Serving's protocol, one node)",
    description=_DESCRIPTION,
    add_arguments=_add_arguments,
    run=_run,
    render=_render,
    json_help="print address and versions as one JSON object on stdout, once requests are accepted",
)
