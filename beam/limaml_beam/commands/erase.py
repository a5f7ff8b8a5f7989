"""``limaml erase``: removes task keys from stores and from the files that the jobs wrote."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from tfrec_limaml.cli import Command, say
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.wording import counted

#: Number of keys found nowhere that the text names.
_SHOWN_KEYS = 5

DESCRIPTION = """\
Erases members: readers of the stores answer "not found" at once, every generation and overlay is
rewritten without the keys, and the stores keep the keys out of later publications and updates.
With --manifest-of-outputs, task records, dead letters and embeddings in the listed folders are
rewritten too. A key includes the keys of nested task definitions that begin with it.

Safe to kill at any point: the same command completes it.

example:
  limaml erase 17 42 --store lmdb:STORE --manifest-of-outputs outputs.yaml --audit erasures.jsonl
  limaml erase 17 42 --store lmdb:STORE --manifest-of-outputs outputs.yaml --verify

outputs.yaml is a list:
  - runs/work
  - runs/tasks

exit code 0: erased, or with --verify absent everywhere; 1: --verify found a key; 2: a place cannot
be reached or read, a store holds no generation, or no replica of Redis has confirmed the erasure.
What remains (the weights of trained models): docs/erasure.md.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``limaml erase``."""
    parser.add_argument("keys", nargs="*", metavar="KEY", help="task keys, as in the store")
    parser.add_argument("--keys-file", metavar="F", help="file with more task keys, one per line")
    parser.add_argument(
        "--store",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="a store, lmdb:FOLDER or redis://HOST:PORT/DB; may be given several times",
    )
    parser.add_argument(
        "--manifest-of-outputs",
        metavar="FILE",
        help="YAML list of folders and files to rewrite",
    )
    parser.add_argument("--audit", metavar="FILE", help="append a JSON line for every removal")
    parser.add_argument(
        "--show-keys",
        action="store_true",
        help="show the keys in the result and the audit, instead of their digests",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="search all places and change nothing; exit code 1 if a key is found",
    )


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Erases or verifies."""
    from limaml_beam.erasure.job import Erasure, erase, read_outputs, verify
    from tfrec_limaml.store import open_store
    from tfrec_limaml.store.erasure import encode_distinct
    from tfrec_limaml.store.secrets import masked

    keys = _keys(arguments)
    encode_distinct(keys)  # before anything is opened: checks that every key can be stored
    if not arguments.store and not arguments.manifest_of_outputs:
        raise LimamlError("no place to erase from: give --store, --manifest-of-outputs, or both")
    outputs = []
    if arguments.manifest_of_outputs:
        outputs = read_outputs(arguments.manifest_of_outputs)
    # Pairs: two addresses may look alike without their accounts.
    stores = [(masked(address), open_store(address)) for address in arguments.store]
    settings = Erasure(
        keys=keys,
        stores=stores,
        outputs=outputs,
        audit=arguments.audit,
        show_keys=arguments.show_keys,
    )
    try:
        result = (verify if arguments.verify else erase)(settings)
    finally:
        for _, store in stores:
            store.close()
    for each in result.get("unconfirmed", ()):
        say(f"limaml: error: {each['store']}: {each['reason']}")
    return result


def _exit_code(result: dict[str, Any]) -> int:
    if result.get("unconfirmed"):
        return 2
    return 1 if result.get("found") else 0


def _keys(arguments: argparse.Namespace) -> list[str]:
    keys = list(arguments.keys)
    if arguments.keys_file:
        try:
            with open(arguments.keys_file, encoding="utf-8-sig") as file:
                lines = [line.rstrip("\r\n") for line in file if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise LimamlError(f"cannot read --keys-file {arguments.keys_file}: {error}") from error
        if spaced := [line for line in lines if line != line.strip()]:
            raise LimamlError(
                f"--keys-file {arguments.keys_file} has spaces around {spaced[0]!r}; remove them, "
                "or give the key as an argument if they are part of it"
            )
        keys += lines
    if not keys:
        raise LimamlError("no task key given: name keys, or a --keys-file")
    return list(dict.fromkeys(keys))


def render(result: dict[str, Any]) -> str:
    """The result as text: one place per line."""
    verified = "found" in result
    places = result["found"] if verified else result["removed"]
    lines = [
        f"{'found in' if verified else 'removed from'} "
        + (
            f"{place['file']}: {counted(place['rows'], 'row')}"
            if "file" in place
            else f"{place['store']}, generation {place['generation']} of model version "
            f"{place['model_version']}, {place['part']}: {counted(place['keys'], 'key')}"
        )
        for place in places
    ]
    lines += [f"not searched: {path}" for path in result["not_searched"]]
    if not places:
        lines.append("found nowhere" if verified else "nothing to remove")
    if missing := result.get("found_nowhere"):
        lines.append(f"{_listed(missing)}: found nowhere (misspelt, or erased earlier)")
    return "\n".join(lines)


def _listed(keys: Sequence[str]) -> str:
    """The first keys, and the number of the others."""
    shown = ", ".join(map(repr, keys[:_SHOWN_KEYS]))
    others = len(keys) - _SHOWN_KEYS
    return f"{shown} and {counted(others, 'other')}" if others > 0 else shown


COMMAND = Command(
    help="erase members from stores and outputs, and keep them out",
    description=DESCRIPTION,
    add_arguments=add_arguments,
    run=run,
    render=render,
    exit_code=_exit_code,
)
