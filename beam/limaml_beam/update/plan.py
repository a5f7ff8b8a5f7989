"""The settings of a refresh's records, which the updates that follow it read.

They are a file in the folder of the records, so that one rename replaces both.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from limaml_beam.build_tasks.options import PrepareOptions
from limaml_beam.io import files
from tfrec_limaml import staging
from tfrec_limaml.errors import LimamlError

_FILE = "update.json"


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the records of a work folder were built.

    Attributes:
        adapter: ``adapter/<version>``, which adapted the tasks.
        options: Input and settings of the records.
        generation: The generation that was made of the records.
        replaced: The generation that was current before; empty if there was none.
    """

    adapter: str
    options: PrepareOptions
    generation: str
    replaced: str


def write_plan(tasks: Path, plan: Plan) -> None:
    """Writes ``update.json`` into a folder of records."""
    options = dataclasses.asdict(plan.options)
    del options["erased"]  # the store knows them
    for name in ("raw", "schema"):
        options[name] = None if options[name] is None else _absolute(options[name])
    options["tables"] = {n: list(map(_absolute, paths)) for n, paths in options["tables"].items()}
    content = {
        "adapter": _absolute(plan.adapter),
        "prepare": options,
        "generation": plan.generation,
        "replaced": plan.replaced,
    }
    text = json.dumps(content, indent=1, default=list)
    staging.write_text(tasks / _FILE, text + "\n")


def read_plan(tasks: Path) -> Plan:
    """Reads ``update.json`` of a folder of records.

    Raises `LimamlError` if it is missing or damaged.
    """
    try:
        content: dict[str, Any] = json.loads((tasks / _FILE).read_text(encoding="utf-8"))
        options = PrepareOptions(**content["prepare"])
        return Plan(content["adapter"], options, content["generation"], content["replaced"])
    except FileNotFoundError as error:
        raise LimamlError(
            f"no {_FILE} in {tasks}: run `limaml refresh --work {tasks.parent} --keep-rows`, and "
            "give --keep-rows to every later refresh"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LimamlError(f"cannot read {tasks / _FILE}: {error}; refresh again") from error


def _absolute(path: str) -> str:
    """The absolute path, valid in any working folder."""
    return str(Path(path).absolute()) if files.is_local(path) else path
