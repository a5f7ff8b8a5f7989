"""``limaml store``: shows and changes the generations of an embedding store."""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tfrec_limaml.cli import Command
from tfrec_limaml.errors import LimamlError, StoreError
from tfrec_limaml.store.base import GRACE_SECONDS, KEEP, EmbeddingStore, Generation
from tfrec_limaml.store.secrets import masked

_DESCRIPTION = """\
Lists, rolls back, condemns and prunes generations of an embedding store.

  list      generations, oldest first, and the current one of each model version
  show      one generation (the current one unless --generation names another); with --key, whether
            that task's embedding is in the current one
  rollback  makes the previous generation current, or the one named by --generation, and condemns
            the generation that was current if it is a later one
  condemn   marks a generation as bad: rollback does not choose it, and prune removes it
  prune     removes condemned generations, and all others except the newest --keep; never removes
            the current one, except with --keep 0, for a model version that is no longer served

example:
  limaml store list redis://127.0.0.1:6379/0
  limaml store rollback lmdb:runs/store --model-version 3
next: `limaml refresh` publishes the next generation
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``limaml store``."""
    parser.add_argument("action", choices=tuple(_ACTIONS), help="action (see above)")
    parser.add_argument(
        "store", metavar="ADDRESS", help="address of the store, for example lmdb:runs/store"
    )
    parser.add_argument(
        "--model-version",
        type=int,
        metavar="N",
        help="model version; optional if the store has only one",
    )
    parser.add_argument(
        "--generation", metavar="ID", help="identifier of a generation, as shown by list"
    )
    parser.add_argument("--key", metavar="KEY", help="a task key to look up (show)")
    parser.add_argument(
        "--keep",
        type=int,
        default=KEEP,
        metavar="N",
        help="generations to keep (default: %(default)s)",
    )
    parser.add_argument(
        "--grace-seconds",
        type=float,
        default=GRACE_SECONDS,
        metavar="S",
        help="prune keeps generations that were published within this time (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs the action; see the description."""
    from tfrec_limaml.store import open_store

    if arguments.key is not None and arguments.action != "show":
        raise LimamlError(f"--key needs the action show, received {arguments.action}")
    store = open_store(arguments.store)
    try:
        return _ACTIONS[arguments.action](store, arguments)
    finally:
        store.close()


def _list(store: EmbeddingStore, arguments: argparse.Namespace) -> dict[str, Any]:
    generations = [_as_dict(each) for each in store.generations(arguments.model_version)]
    return {"store": masked(arguments.store), "generations": generations}


def _show(store: EmbeddingStore, arguments: argparse.Namespace) -> dict[str, Any]:
    version = _version(store, arguments)
    if arguments.key is not None and arguments.generation is not None:
        raise LimamlError("--key looks up the current generation; leave out --generation")
    if arguments.generation is None:
        generation = store.current(version)
        if generation is None:
            raise StoreError(
                f"no generation of model version {version} is current; publish one with "
                "`limaml embed`, or name one with --generation"
            )
    else:
        generation = _generation(store, version, arguments.generation)
    result = _as_dict(generation)
    if arguments.key is not None:
        look_up = store.get_many([arguments.key], version)
        embeddings, found = look_up
        damaged = bool(getattr(look_up, "damaged", 0))
        result["key"] = {
            "key": arguments.key,
            "found": bool(found[0]),
            "damaged": damaged,
            "embedding": [float(value) for value in embeddings[0]] if found[0] else None,
        }
    return result


def _rollback(store: EmbeddingStore, arguments: argparse.Namespace) -> dict[str, Any]:
    version = _version(store, arguments)
    previous = store.current(version)
    was = None if previous is None else previous.identifier
    # Another operator may have rolled back meanwhile: a second step back would condemn a good one.
    current = store.rollback(version, arguments.generation, expected=was)
    condemned = was is not None and was > current.identifier
    return {"current": _as_dict(current), "condemned": was if condemned else None}


def _condemn(store: EmbeddingStore, arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.generation is None:
        raise LimamlError("condemn needs --generation; `limaml store list` names them")
    return _as_dict(store.condemn(_version(store, arguments), arguments.generation))


def _prune(store: EmbeddingStore, arguments: argparse.Namespace) -> dict[str, Any]:
    versions = _versions(store)
    if not versions:  # as before the first publication
        version = arguments.model_version
        if version is not None:  # remains of dead writers go
            store.prune(version, arguments.keep, arguments.grace_seconds)
        result = {"store": masked(arguments.store), "model_version": version}
        return {**result, "removed": [], "left": []}
    version = _version(store, arguments)
    if version not in versions:
        raise StoreError(
            f"no generation of model version {version} to prune; the store holds generations of "
            f"{versions}"
        )
    return {
        "model_version": version,
        "removed": store.prune(version, arguments.keep, arguments.grace_seconds),
        "left": [generation.identifier for generation in store.generations(version)],
    }


_ACTIONS: dict[str, Callable[[EmbeddingStore, argparse.Namespace], dict[str, Any]]] = {
    "list": _list,
    "show": _show,
    "rollback": _rollback,
    "condemn": _condemn,
    "prune": _prune,
}


def _version(store: EmbeddingStore, arguments: argparse.Namespace) -> int:
    if arguments.model_version is not None:
        return int(arguments.model_version)
    versions = _versions(store)
    if not versions:
        raise StoreError(
            f"the store {masked(arguments.store)} holds no generation; check the address, or "
            "publish one with `limaml refresh`"
        )
    if len(versions) > 1:
        raise LimamlError(f"--model-version is missing: the store holds generations of {versions}")
    return versions[0]


def _versions(store: EmbeddingStore) -> list[int]:
    """The model versions with a generation."""
    return sorted({generation.model_version for generation in store.generations()})


def _generation(store: EmbeddingStore, version: int, identifier: str) -> Generation:
    for generation in store.generations(version):
        if generation.identifier == identifier:
            return generation
    names = [generation.identifier for generation in store.generations(version)]
    raise StoreError(f"no generation {identifier!r} of model version {version}; there are {names}")


def _as_dict(generation: Generation) -> dict[str, Any]:
    published = dt.datetime.fromtimestamp(generation.published, dt.UTC)
    return {
        **dataclasses.asdict(generation),
        "published": published.isoformat(timespec="seconds"),
    }


def render(result: dict[str, Any]) -> str:
    """The result as text: a table of generations, or one name and value per line."""
    if "store" in result and "left" in result:
        return f"the store {result['store']} is empty: there is nothing to prune"
    if "generations" not in result:
        return "\n".join(_lines(result))
    rows = [("version", "generation", "state", "members", "width", "published")]
    rows += [
        (
            str(generation["model_version"]),
            generation["identifier"],
            generation["state"] + ("" if generation["checked"] else " (no checksums)"),
            f"{generation['count']:,}",
            str(generation["embedding_dim"]),
            generation["published"],
        )
        for generation in result["generations"]
    ]
    if len(rows) == 1:
        return f"the store {result['store']} holds no generation"
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _lines(result: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """One name and value per line; the entries of a nested mapping are indented."""
    for name, value in result.items():
        if isinstance(value, Mapping):
            yield f"{indent}{name}:"
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{name}: {_as_text(value)}"


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    return "none" if value is None or value == "" else str(value)


COMMAND = Command(
    help="list the generations of an embedding store, roll back, prune",
    description=_DESCRIPTION,
    add_arguments=add_arguments,
    run=run,
    render=render,
)
