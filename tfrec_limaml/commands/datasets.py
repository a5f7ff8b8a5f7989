"""``limaml datasets``: lists, describes and prepares data sets."""

from __future__ import annotations

import argparse
import functools
import os
from pathlib import Path
from typing import Any

from tfrec_limaml.cli import Command
from tfrec_limaml.commands.arguments import tables_from
from tfrec_limaml.datasets.text_format import add_text_arguments, text_format
from tfrec_limaml.errors import LimamlError

_DESCRIPTION = """\
Lists, describes and prepares data sets. Prepared data are a folder of plain files
(schema.yaml, Parquet tables, data_card.json), which `limaml prepare` turns into task records.

examples:
  limaml datasets list
  limaml datasets prepare simulated --output runs/raw
  limaml datasets prepare kuairand-pure --data-dir ~/data --output runs/raw
  limaml datasets describe clicks.csv
  limaml datasets prepare --schema my.yaml --interactions clicks.csv --output runs/raw \\
      --table users=users.parquet

next: limaml prepare runs/raw --output runs/tasks
"""

_LIST = """\
Lists the built-in data sets. Next: limaml datasets describe NAME

example:
  limaml datasets list
"""

_DESCRIBE = """\
Prints the data card of a prepared folder, or of a file, for which it guesses a schema. With the
name of a built-in data set, prints facts about that data set.

examples:
  limaml datasets describe kuairand-pure
  limaml datasets describe clicks.csv --label clicked --write-schema my.yaml

next: limaml datasets prepare --schema my.yaml --interactions clicks.csv --output runs/raw
"""

_PREPARE = """\
Writes a built-in data set (NAME), or your data (--schema and --interactions), in the raw layout.

examples:
  limaml datasets prepare simulated --output runs/raw
  limaml datasets prepare --schema my.yaml --interactions clicks.csv --output runs/raw \\
      --table users=users.parquet

next: limaml prepare runs/raw --output runs/tasks
"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    add = functools.partial(
        actions.add_parser, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    list_parser = add("list", help="list the built-in data sets", description=_LIST)
    describe = add(
        "describe",
        help="print a data card; for a plain file also a suggested schema",
        description=_DESCRIBE,
    )
    describe.add_argument(
        "target",
        metavar="PATH_OR_NAME",
        help="a prepared folder, a CSV or Parquet file, a folder of such files, or the name of a "
        "built-in data set",
    )
    describe.add_argument(
        "--schema", metavar="FILE", help="YAML schema of the file, instead of guessing one"
    )
    describe.add_argument(
        "--write-schema", metavar="FILE", help="also write the guessed schema to FILE, for editing"
    )
    _add_known_columns(describe)
    add_text_arguments(describe)
    prepare = add("prepare", help="write a data set in the raw layout", description=_PREPARE)
    _add_prepare(prepare)
    for sub in (list_parser, describe, prepare):
        # Suppressed default: the flag may stand before or after the action.
        sub.add_argument(
            "--json",
            action="store_true",
            default=argparse.SUPPRESS,
            help="print the result as one JSON object on stdout",
        )


def _add_known_columns(describe: argparse.ArgumentParser) -> None:
    for name, meaning in (
        ("label", "outcome to predict"),
        ("timestamp", "time of the interaction"),
        ("task", "key that the model adapts to"),
    ):
        describe.add_argument(
            f"--{name}", metavar="COLUMN", help=f"the {meaning} (default: guessed)"
        )


def _add_prepare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="a built-in data set (see `limaml datasets list`)"
    )
    parser.add_argument("--output", required=True, metavar="RAW", help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier output")
    _add_built_in_arguments(parser.add_argument_group("built-in data sets"))
    _add_user_data_arguments(parser.add_argument_group("your data"))


def _add_built_in_arguments(group: Any) -> None:
    group.add_argument(
        "--data-dir",
        metavar="DIR",
        help="folder with the official files; missing ones are downloaded into it (default: "
        "$LIMAML_DATA_DIR or the cache)",
    )
    group.add_argument(
        "--label", help="label column, e.g. is_click, long_view or is_like of kuairand-pure"
    )
    group.add_argument(
        "--tasks",
        metavar="NAME[,NAME]",
        help="task definitions, e.g. user or user,user_tab; the first is the default one",
    )
    group.add_argument(
        "--history", action="store_true", help="declare point-in-time history features"
    )
    group.add_argument(
        "--id-feature",
        action="store_true",
        help="declare the first task definition's key as an embedded feature, for `limaml train "
        "--meta-block id` or features+id",
    )
    group.add_argument(
        "--random-log",
        action="store_true",
        default=None,
        help="kuairand-*: also read the log of randomly exposed videos",
    )
    _add_size_arguments(group)


def _add_size_arguments(group: Any) -> None:
    group.add_argument(
        "--members",
        type=int,
        metavar="N",
        help="simulated: number of members (default: 4000); kuairand-*: read this many users, "
        "always the same ones",
    )
    group.add_argument(
        "--subset",
        metavar="NAME",
        help="vk-lsvd: the folder in subsamples/ to read, or `whole` (default: ur0.01_ir0.01)",
    )
    group.add_argument("--seed", type=int, metavar="N", help="simulated: seed (default: 0)")
    group.add_argument(
        "--days", type=int, metavar="N", help="simulated: length of the period (default: 42)"
    )
    group.add_argument(
        "--catalogue",
        type=int,
        metavar="N",
        help="simulated: N permanent items, each with its own vector (default: 0: items come and "
        "go)",
    )


def _add_user_data_arguments(group: Any) -> None:
    group.add_argument(
        "--schema",
        metavar="FILE",
        help="YAML schema; `limaml datasets describe FILE` suggests one",
    )
    group.add_argument(
        "--interactions",
        metavar="FILE",
        help="CSV or Parquet file with one row per interaction, or a folder or glob pattern of "
        "such files",
    )
    group.add_argument(
        "--table",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="a feature table that the schema joins; repeatable",
    )
    add_text_arguments(group)


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    action = {"list": _list, "describe": _describe, "prepare": _prepare}[arguments.action]
    return action(arguments)


def _list(arguments: argparse.Namespace) -> dict[str, Any]:
    from tfrec_limaml.datasets import registry

    return {
        "datasets": {
            name: dataset.facts() for name, dataset in sorted(registry.all_datasets().items())
        }
    }


def _describe(arguments: argparse.Namespace) -> dict[str, Any]:
    from tfrec_limaml import datasets

    return datasets.describe(
        arguments.target,
        schema=arguments.schema,
        write_schema=arguments.write_schema,
        text=text_format(arguments.delimiter, arguments.null_words, arguments.quotes),
        label=arguments.label,
        timestamp=arguments.timestamp,
        task=arguments.task,
    )


def _prepare(arguments: argparse.Namespace) -> dict[str, Any]:
    from tfrec_limaml import datasets

    files = arguments.schema or arguments.interactions or arguments.table
    if bool(arguments.name) == bool(files):
        raise LimamlError(
            "give either the NAME of a built-in data set, or --schema and --interactions of your "
            "data (not both)"
        )
    settings = {
        name: getattr(arguments, name)
        for name in ("random_log", "members", "subset", "seed", "days", "catalogue")
        if getattr(arguments, name) is not None
    }
    if files:
        return _prepare_files(arguments, settings)
    return datasets.prepare(
        arguments.name,
        arguments.output,
        data_dir=arguments.data_dir,
        label=arguments.label,
        tasks=arguments.tasks.split(",") if arguments.tasks else None,
        history=arguments.history,
        id_feature=arguments.id_feature,
        settings=settings,
        overwrite=arguments.overwrite,
    )


def _prepare_files(arguments: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    """Prepares the user's files, for which no option of a built-in data set may be given."""
    from tfrec_limaml import datasets

    declared = [n for n in ("label", "tasks", "history", "id_feature") if getattr(arguments, n)]
    foreign = [*(["data_dir"] if arguments.data_dir else []), *settings]
    for name in (*declared, *foreign):
        remedy = "declare it in your schema file" if name in declared else "leave it out"
        raise LimamlError(
            f"--{name.replace('_', '-')} applies to built-in data sets only; {remedy}"
        )
    if not (arguments.schema and arguments.interactions):
        raise LimamlError("your data need both --schema FILE and --interactions FILE")
    tables = tables_from(arguments.table, "must look like users=users.csv")
    return datasets.prepare_own(
        arguments.schema,
        arguments.interactions,
        arguments.output,
        tables={name: Path(os.path.expanduser(files[-1])) for name, files in tables.items()},
        text=text_format(arguments.delimiter, arguments.null_words, arguments.quotes),
        overwrite=arguments.overwrite,
    )


def _render(result: dict[str, Any]) -> str:
    from tfrec_limaml.datasets import render

    return render.render(result)


COMMAND = Command(
    help="list, describe and prepare data sets",
    description=_DESCRIPTION,
    add_arguments=_add_arguments,
    run=_run,
    render=_render,
)
