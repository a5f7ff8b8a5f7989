"""The settings of a refresh's records, which the updates that follow it read."""

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
        adapter: ``adapter/<version>`` that adapted them.
        options: Their input and settings.
    """

    adapter: str
    options: PrepareOptions


def write_plan(work: Path, plan: Plan) -> None:
    """Writes ``<work>/update.json``."""
    options = dataclasses.asdict(plan.options)
    del options["erased"]  # the store knows them
    for name in ("raw", "schema"):
        options[name] = None if options[name] is None else _absolute(options[name])
    options["tables"] = {n: list(map(_absolute, paths)) for n, paths in options["tables"].items()}
    content = {"adapter": _absolute(plan.adapter), "prepare": options}
    text = json.dumps(content, indent=1, default=list)
    staging.write_text(work / _FILE, text + "\n")


def read_plan(work: Path) -> Plan:
    """Reads ``<work>/update.json``; raises `LimamlError` if it is missing or damaged."""
    try:
        content: dict[str, Any] = json.loads((work / _FILE).read_text(encoding="utf-8"))
        return Plan(content["adapter"], PrepareOptions(**content["prepare"]))
    except FileNotFoundError as error:
        raise LimamlError(
            f"{work} has no {_FILE}: run `limaml refresh --work {work} --keep-rows` once"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LimamlError(f"cannot read {work / _FILE}: {error}; refresh again") from error


def _absolute(path: str) -> str:
    """The absolute path, valid in any working folder."""
    return str(Path(path).absolute()) if files.is_local(path) else path
