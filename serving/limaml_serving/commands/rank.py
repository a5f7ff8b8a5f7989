"""``limaml rank``: JSON lines in, ranked JSON lines out."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from limaml_serving.commands.json_lines import as_json, parse
from tfrec_limaml.cli import Command
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.manifest import RANK_SIGNATURE, SERVING_SIGNATURE
from tfrec_limaml.wording import counted

if TYPE_CHECKING:
    from limaml_serving.client.ranker import Ranker
    from tfrec_limaml.store.base import EmbeddingStore

_DESCRIPTION = """\
Ranks candidates through a running model server, with each member's meta embedding from the store.

Reads one JSON object per line on stdin:

    {"member": {"user_id": 7, "age": 41}, "candidates": [{"item_id": "a"}, {"item_id": "b"}]}

and writes one per line on stdout, best candidate first ("candidate" is its position in the line
read):

    {"line": 1, "model_version": 3, "ranked": [{"candidate": 1, "probability": 0.71, "logit": 0.9,
    "used_embedding": true}, ...]}

A model with a regression loss, or with a loss of your own that is not one of binary labels
(binary=False when it was compiled), has "prediction" instead of "probability" and "logit".

`limaml rank --export runs/export --example` writes an input line for your model, with made-up
values.

example:
  limaml serve runs/export/ranker --port 8500 &
  limaml rank --target 127.0.0.1:8500 --export runs/export --store lmdb:runs/store \\
      < requests.jsonl > ranked.jsonl

A line that cannot be ranked gives one error line on stderr, with its number; the others are still
ranked, and the exit code is 2. The command waits for a server that is starting (--wait), and stops
if the server goes away.
"""

# The server refused this request only.
_ONE_LINE_CODES = ("INVALID_ARGUMENT", "DEADLINE_EXCEEDED")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``limaml rank``."""
    parser.add_argument("--target", metavar="HOST:PORT", help="gRPC address of the model server")
    parser.add_argument(
        "--export",
        required=True,
        metavar="EXPORT",
        help="folder written by `limaml export` (its manifests are read)",
    )
    parser.add_argument(
        "--store", metavar="ADDRESS", help="embedding store, for example lmdb:runs/store"
    )
    parser.add_argument(
        "--example",
        action="store_true",
        help="write one input line with made-up values, and exit",
    )
    parser.add_argument(
        "--model-name",
        default="ranker",
        metavar="NAME",
        help="name of the model on the server (default: ranker)",
    )
    _add_scoring(parser)
    _add_time_limits(parser)
    parser.add_argument(
        "--tls-ca", metavar="PEM", help="trusted certificate authorities; enables TLS"
    )
    parser.add_argument(
        "--tls-certificate", metavar="PEM", help="client certificate, for mutual TLS"
    )
    parser.add_argument("--tls-key", metavar="PEM", help="client key, for mutual TLS")


def _add_scoring(parser: argparse.ArgumentParser) -> None:
    """Adds the options for the version, the signature and the candidates."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--version",
        type=int,
        metavar="N",
        help="ask for this model version (default: the server's newest)",
    )
    which.add_argument(
        "--label", metavar="LABEL", help="ask for the version behind this label, for example stable"
    )
    parser.add_argument(
        "--signature",
        choices=(RANK_SIGNATURE, SERVING_SIGNATURE),
        default=RANK_SIGNATURE,
        help="signature to call: rank sends the member's columns once; serving_default repeats "
        "them per candidate, which a server with --enable_batching needs (default: rank)",
    )
    parser.add_argument(
        "--top", type=int, metavar="N", help="write only the best N candidates of each line"
    )
    parser.add_argument(
        "--on-version-mismatch",
        choices=("unadapted", "raise"),
        default="unadapted",
        help="when no embeddings of the answering version exist: score without them, or stop "
        "(default: unadapted)",
    )


def _add_time_limits(parser: argparse.ArgumentParser) -> None:
    """Adds the options for time limits and retries."""
    parser.add_argument(
        "--timeout",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="time for one line, retries included (default: 1)",
    )
    parser.add_argument(
        "--wait",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="time for the server to come up (default: 60)",
    )
    parser.add_argument(
        "--retries",
        type=int,
        default=2,
        metavar="N",
        help="further attempts while the server is unavailable (default: 2)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Ranks every line of stdin; raises `LimamlError` at the end if any could not be ranked."""
    if arguments.example:
        from limaml_serving.client.versions import KnownVersions

        member, candidates = KnownVersions(arguments.export).newest.reader.example()
        sys.stdout.write(json.dumps({"member": member, "candidates": candidates}) + "\n")
        return
    for option in ("target", "store"):
        if getattr(arguments, option) is None:
            raise LimamlError(f"--{option} is missing; only --example does not need it")
    from tfrec_limaml.store import open_store
    from tfrec_limaml.store.secrets import masked

    store = open_store(arguments.store)
    try:
        _warn_if_empty(store, masked(arguments.store))
        with _ranker(arguments, store) as ranker:
            _wait(ranker, arguments.target, arguments.wait)
            lines, bad = _rank_lines(ranker, sys.stdin.buffer, arguments.top)
            counts = ranker.counters.snapshot()
    finally:
        store.close()
    sys.stderr.write(
        f"limaml: ranked {lines - bad} of {counted(lines, 'line')}; "
        f"{counted(counts['candidates'], 'candidate')}, "
        f"{counts['adapted']} with a meta embedding\n"
    )
    if bad:
        raise LimamlError(
            f"{bad} of {lines} lines could not be ranked; the messages above name them"
        )


def _warn_if_empty(store: EmbeddingStore, address: str) -> None:
    """Says so if the store has no embeddings; one that cannot be read is the ranker's business."""
    from tfrec_limaml.errors import StoreError

    with contextlib.suppress(StoreError):
        if not store.generations():
            sys.stderr.write(
                f"limaml: the store {address} holds no generation, so no meta embedding will be "
                "found; check the address\n"
            )


def _wait(ranker: Ranker, target: str, seconds: float) -> None:
    """Waits for the server, and says so if that takes longer than a moment."""
    from limaml_serving.errors import ServingError

    try:
        ranker.wait_for_server(min(seconds, 1.0))
    except ServingError:
        if seconds <= 1.0:
            raise
        sys.stderr.write(f"limaml: waiting up to {seconds:g} seconds for a server at {target}\n")
        ranker.wait_for_server(seconds - 1.0)


def _ranker(arguments: argparse.Namespace, store: EmbeddingStore) -> Ranker:
    from limaml_serving.client.channel import Tls
    from limaml_serving.client.ranker import Ranker

    tls = None
    if arguments.tls_ca or arguments.tls_certificate or arguments.tls_key:
        tls = Tls(
            root_certificates=arguments.tls_ca,
            certificate_chain=arguments.tls_certificate,
            private_key=arguments.tls_key,
        )
    return Ranker(
        arguments.target,
        store,
        manifest=arguments.export,
        model_name=arguments.model_name,
        version=arguments.version,
        version_label=arguments.label,
        timeout=arguments.timeout,
        retries=arguments.retries,
        on_version_mismatch=arguments.on_version_mismatch,
        signature=arguments.signature,
        tls=tls,
    )


def _rank_lines(ranker: Ranker, source: Iterable[bytes], top: int | None) -> tuple[int, int]:
    """Ranks each line; returns how many there were and how many failed."""
    from tqdm import tqdm

    from limaml_serving.errors import RequestError, ServingError

    lines = bad = 0
    for number, line in enumerate(tqdm(source, unit=" lines", disable=None), 1):
        if not line.strip():
            continue
        lines += 1
        try:
            ranked = ranker.rank(*parse(line), top=top)
        except RequestError as error:
            bad += 1
            sys.stderr.write(f"limaml: line {number}: {error}\n")
        except ServingError as error:
            if error.code not in _ONE_LINE_CODES:
                raise
            bad += 1
            sys.stderr.write(f"limaml: line {number}: {error}\n")
        else:
            sys.stdout.write(json.dumps({"line": number, **as_json(ranked)}) + "\n")
            sys.stdout.flush()  # whoever reads the lines may wait for this one
    return lines, bad


RANK = Command(
    help="rank candidates through a model server (JSON lines in, JSON lines out)",
    description=_DESCRIPTION,
    add_arguments=add_arguments,
    run=run,
    json_help="without effect: the output is JSON lines in any case",
)
